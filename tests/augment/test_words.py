"""Words and tokens inside texts: what counts as one, and what replaces it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from qcvl.augment.words import WordPairs, mentions, swap_words
from qcvl.schema.descs import has_token, replace_tokens

PAIRS = [("左", "右"), ("left", "right")]
MAPPING = {"显示完整": "只显示部分", "fully visible": "partly visible"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("左侧风扇", "右侧风扇"),
        ("螺丝/位置:右,左", "螺丝/位置:左,右"),
        ("Left fan, RIGHT cable, left_panel", "Right fan, LEFT cable, right_panel"),
        ("bright copyright leftover", "bright copyright leftover"),  # no whole word
        ("在left侧", "在right侧"),
    ],
)
def test_each_word_becomes_its_opposite_in_the_same_case(before, after):
    assert swap_words(before, PAIRS) == after
    assert mentions([before], PAIRS) == (before != after)


@given(st.lists(st.sampled_from(["左", "右", "left", "Right", "LEFT", "bright", "端口", " ", "/", ","])).map("".join))
def test_swapping_twice_gives_the_text_again(text):
    assert swap_words(swap_words(text, PAIRS), PAIRS) == text


def test_no_pairs_mean_no_words():
    assert not mentions(["left"], []) and swap_words("left", []) == "left"


def test_other_words_can_be_named():
    assert swap_words("A面 inner ring", [("A面", "B面"), ("inner", "outer")]) == "B面 outer ring"


@pytest.mark.parametrize("pairs", [[("left", "Left")], [("左", "右"), ("右", "上")], [("", "右")]])
def test_pairs_that_do_not_say_what_becomes_of_a_word_are_refused(pairs):
    with pytest.raises(ValidationError, match="pairs of words, each word once"):
        TypeAdapter(WordPairs).validate_python(pairs)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("BBU设备/品牌:华为,显示完整", "BBU设备/品牌:华为,只显示部分"),
        ("显示完整", "只显示部分"),
        ("螺丝=显示完整;左", "螺丝=只显示部分;左"),
        ("螺丝，显示完整、左", "螺丝，只显示部分、左"),  # full-width marks
        ("未显示完整", "未显示完整"),  # part of another token
        ("显示完整度:高", "显示完整度:高"),
        ("unit, fully visible", "unit, partly visible"),  # a token may be of several words
        ("unit, carefully visible", "unit, carefully visible"),
        ("显示完整,显示完整", "只显示部分,只显示部分"),
    ],
)
def test_only_whole_tokens_are_replaced(before, after):
    assert replace_tokens(before, MAPPING) == after


def test_the_longest_token_wins_and_replacements_are_not_replaced_again():
    assert replace_tokens("a b/a", {"a": "x", "a b": "a"}) == "a/x"


@pytest.mark.parametrize(
    ("text", "tokens", "found"),
    [
        ("BBU设备/品牌:华为", ["BBU设备"], True),
        ("BBU设备/品牌:华为", ["BBU"], False),
        ("BBU设备/品牌:华为", ["华为", "x"], True),
        ("BBU设备/品牌:华为", ["品牌:华为"], True),
        ("BBU设备/品牌:华为", [], False),
        ("unit, 2U, fan running", ["2U"], True),
    ],
)
def test_a_token_stands_between_separators_or_ends(text, tokens, found):
    assert has_token(text, tokens) == found
