"""Descriptions and summaries: what is odd about each, and about one beside another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.doctor.texts import FREQUENT, look_at_desc, look_at_summary, look_at_vocabulary, summary_counts
from qcvl.schema.descs import desc_parts


@pytest.mark.parametrize(
    ("desc", "name", "attributes"),
    [
        ("BBU设备/品牌:华为,显示完整", "BBU设备", ("品牌=华为", "显示完整")),
        ("unit, 2U, fan running", "unit", ("2U", "fan running")),
        ("type=screw,state=ok", "type", ("screw", "state=ok")),
        ("螺丝；状态：松动／位置＝左", "螺丝", ("状态=松动", "位置=左")),
        ("plate", "plate", ()),
        ("/", "/", ()),
    ],
)
def test_a_description_is_a_class_and_its_attributes(desc, name, attributes):
    assert desc_parts(desc) == (name, attributes)


@pytest.mark.parametrize(
    ("desc", "codes"),
    [
        ("plate", []),
        ("螺丝，状态：松动", []),
        (" plate", ["desc-blanks"]),
        ("plate\u3000", ["desc-blanks"]),
        ("pl\tate", ["desc-control"]),
        ("pl\u200bate", ["desc-control"]),
        ("品牌:华为，状态：好", ["desc-width"]),
        ("ＢＢＵ", ["desc-width"]),
        ("<image> plate", ["desc-special"]),
        ("a <|vision_start|>", ["desc-special"]),
        ("a < b | c > d", []),
    ],
)
def test_one_description_by_itself(desc, codes):
    assert [code for code, _ in look_at_desc(desc)] == codes


def test_a_rare_description_that_looks_like_a_frequent_one_is_a_variant_or_a_misspelling():
    counts = {"loose screw": 40, "Loose  screw": 2, "lose screw": 1, "loose scrwe": 1, "loose screws": 2, "bolt": 99}
    assert {desc: code for desc, code, _ in look_at_vocabulary(counts)} == {
        "Loose  screw": "desc-variant",
        "lose screw": "desc-typo",
        "loose scrwe": "desc-typo",
    }


@pytest.mark.parametrize(
    ("once", "frequent"),
    [("port 2", "port 1"), ("nut", "nuts"), ("loose screw", "loose nut"), ("abcd", "badc"), ("plate", "plate")],
)
def test_numbers_short_words_and_other_words_are_no_misspellings(once, frequent):
    assert list(look_at_vocabulary({frequent: FREQUENT} | {once: 1})) == []


@given(
    st.text("abcdefgh", min_size=4, max_size=9),
    st.integers(0, 8),
    st.sampled_from("xyz"),
    st.sampled_from(["+", "-", "~"]),
)
def test_every_single_slip_is_found_and_only_from_a_frequent_description(word, place, letter, kind):
    place = min(place, len(word) - 1)
    rest = {"+": word[place:], "-": word[place + 1 :], "~": word[place + 1 :]}[kind]
    slip = word[:place] + ("" if kind == "-" else letter) + rest
    if len(slip) < 4:
        return
    found = list(look_at_vocabulary({word: FREQUENT, slip: 1}))
    assert [(desc, code) for desc, code, _ in found] == [(slip, "desc-typo")]
    assert list(look_at_vocabulary({word: FREQUENT - 1, slip: 1})) == []


@pytest.mark.parametrize(
    ("summary", "counts"),
    [
        ("unit x2, label x1", {"unit": 2, "label": 1}),
        ("BBU设备×1，光模块×3，线缆×2", {"bbu设备": 1, "光模块": 3, "线缆": 2}),
        ("螺丝x2、标签X3。", {"螺丝": 2, "标签": 3}),
        ('{"unit": 2, "defects": {"scratch": 1}}', {"unit": 2, "scratch": 1}),
        ("screw, torn x2", None),
        ("box2", None),
        ("no defects", None),
        ('{"unit": "two"}', None),
        ('{"unit": [1]}', None),
        ("{broken", None),
        ("[" * 9999, None),
    ],
)
def test_a_summary_that_lists_counts_is_read_and_any_other_left_alone(summary, counts):
    assert summary_counts(summary) == counts


def test_a_summary_must_count_the_classes_of_the_objects():
    descs = ["unit, 2U", "Unit, 1U", "label/torn"]
    assert look_at_summary("unit x2, label x1", descs) is None
    assert look_at_summary("some units", descs) is None
    assert "unit x1 where the objects give x2" in str(look_at_summary("unit x1, label x1", descs))
    assert "label x0 where the objects give x1" in str(look_at_summary("unit x2", descs))
    assert "cable x3 where the objects give x0" in str(look_at_summary("unit x2, label x1, cable x3", descs))


@given(st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_no_text_makes_it_raise(summary, descs):
    look_at_summary(summary, descs)
    for desc in descs:
        look_at_desc(desc)
    list(look_at_vocabulary(dict.fromkeys(descs, 1) | {summary: 20}))
