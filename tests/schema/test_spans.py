"""What the characters of an answer are: against ``json.loads`` for written answers, by hand for broken ones."""

import json
import time
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry.shapes import KINDS, Shape
from qcvl.schema import Annotation, AnswerFormat, render_answer
from qcvl.schema.spans import answer_spans, token_kinds

SIZE = (1000, 1000)
NUMBER = st.integers(0, 1000)
HOSTILE = ['say "x"', "a\\b", "C:\\", "{[]}", '"bbox_2d": [1, 2]', "螺丝/颜色:黄色", "\\u4e00", "}, {"]
DESC = st.text(min_size=1, max_size=12) | st.sampled_from(HOSTILE)


@st.composite
def annotations(draw):
    kind = draw(st.sampled_from(KINDS))
    if kind == "bbox_2d":
        (x1, x2), (y1, y2) = (sorted(draw(st.lists(NUMBER, min_size=2, max_size=2, unique=True))) for _ in "xy")
        points = [[x1, y1], [x2, y2]]
    else:
        count = {"quad": 4}.get(kind) or draw(st.integers(3, 6))
        points = draw(st.lists(st.tuples(NUMBER, NUMBER), min_size=count, max_size=count, unique=True))
    return Annotation(Shape(kind, points), draw(DESC))


FORMATS = st.builds(
    AnswerFormat,
    emit_norm=st.just("norm1000"),
    step=st.sampled_from([1, 10]),
    order=st.just("reference"),
    key_order=st.sampled_from(["geometry_first", "desc_first"]),
    points=st.sampled_from(["flat", "pairs"]),
    form=st.sampled_from(["objects", "list"]),
)
ANSWERS = st.builds(
    lambda notes, form: render_answer(notes, SIZE, answer_format=form), st.lists(annotations(), max_size=4), FORMATS
)


def parts(text: str, kind: str) -> list[tuple[str, int]]:
    """The pieces of one kind with their objects."""
    return [(text[span.start : span.end], span.object) for span in answer_spans(text) if span.kind == kind]


def flat(value) -> list:
    """The numbers of a nested list, in order."""
    return [number for item in value for number in flat(item)] if isinstance(value, list) else [value]


@given(ANSWERS)
def test_numbers_and_descs_are_those_json_reads_each_with_its_object(text):
    value = json.loads(text)
    objects = list(value.values()) if isinstance(value, dict) else value
    numbers = [(n, k) for k, entry in enumerate(objects) for key in KINDS if key in entry for n in flat(entry[key])]
    descs = [(entry.get("desc", entry.get("label")), k) for k, entry in enumerate(objects)]
    assert [(json.loads(word), k) for word, k in parts(text, "coordinate")] == numbers
    assert [(json.loads(f'"{word}"'), k) for word, k in parts(text, "text")] == descs


@given(ANSWERS, st.data())
def test_spans_cover_any_part_of_an_answer_without_gaps_and_objects_never_fall(text, data):
    part = text[: data.draw(st.integers(0, len(text)))]
    spans = answer_spans(part)
    assert "".join(part[span.start : span.end] for span in spans) == part
    assert all(before.end == after.start for before, after in zip(spans, spans[1:], strict=False))
    assert not spans or (spans[0].start, spans[-1].end) == (0, len(part))
    owners = [span.object for span in spans if span.object >= 0]
    assert owners == sorted(owners)


@given(st.text(alphabet='{}[]"\\\':,， 12-.eEbox_2d desc"label"quad', max_size=60) | st.text(max_size=40))
def test_no_text_is_too_broken(text):
    spans = answer_spans(text)
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(span.start < span.end for span in spans)


def test_an_object_owns_the_text_from_the_one_before_to_its_own_brace():
    text = '{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "a"}, "object_2": {"line_points": 2, "line": [5, 6, 7, 8]}}'
    owned = {k: "".join(text[s.start : s.end] for s in answer_spans(text) if s.object == k) for k in (0, 1, -1)}
    cut = text.index(', "object_2"')
    assert owned == {0: text[:cut], 1: text[cut:-1], -1: "}"}
    assert [word for word, _ in parts(text, "coordinate")] == list("12345678")  # not the count of points


@pytest.mark.parametrize("empty", ["", "{}", "[]", "I see nothing.", '{"desc": "no geometry"}'])
def test_without_a_geometry_no_text_belongs_to_an_object(empty):
    assert {span.object for span in answer_spans(empty)} <= {-1}


@pytest.mark.parametrize(
    ("text", "numbers", "descs"),
    [
        ('{"object_1": {"bbox_2d": [10, 20, 3', ["10", "20", "3"], []),
        ('{"object_1": {"bbox_2d": [[10, 20], [3', ["10", "20", "3"], []),
        ('[{"label": "plate", "quad": [1,2', ["1", "2"], ["plate"]),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "pla', ["1", "2", "3", "4"], ["pla"]),
        ('{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "pla\\', ["1", "2", "3", "4"], ["pla\\"]),
    ],
)
def test_an_object_that_is_cut_is_read_as_far_as_it_goes(text, numbers, descs):
    assert parts(text, "coordinate") == [(number, 0) for number in numbers]
    assert parts(text, "text") == [(desc, 0) for desc in descs]


def test_thoughts_fences_and_single_quotes_do_not_hide_an_object():
    text = "A 5\" plate:\n```json\n[{'bbox_2d'： [1.5, -2, 3e2, 4], 'label': \"a\"}]\n```"
    assert parts(text, "coordinate") == [("1.5", 0), ("-2", 0), ("3e2", 0), ("4", 0)]
    assert parts(text, "text") == [("a", 0)]


def test_a_token_counts_as_coordinate_before_text_before_format():
    text = '{"object_1": {"bbox_2d": [10, 20, 30, 40], "desc": "ab"}, "object_2": {"quad": [5'
    tokens = ['{"', "object_1", '": {"bbox_2d": [', "10", ", 2", "0, 30, 40", '], "desc": "', "a", 'b"}, "', "object_2"]
    kinds = token_kinds(text, list(accumulate(len(token) for token in tokens)))
    assert [kind for kind, _ in kinds] == [
        "format", "format", "format", "coordinate", "coordinate", "coordinate", "format", "text", "text", "format"
    ]  # fmt: skip
    assert [owner for _, owner in kinds] == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]


def test_a_token_of_a_part_of_a_character_counts_as_the_one_it_begins_and_an_end_of_turn_as_format():
    text = '[{"bbox_2d": [1, 2, 3, 4], "label": "螺"}]'
    before = text.index("螺")
    ends = [before, before, before + 1, len(text), len(text)]
    assert token_kinds(text, ends) == [("coordinate", 0), ("text", 0), ("text", 0), ("format", 0), ("format", -1)]
    assert token_kinds(text, []) == []
    assert token_kinds("", [0, 0]) == [("format", -1)] * 2


@given(ANSWERS, st.integers(1, 5))
def test_tokens_of_any_length_take_the_first_kind_and_last_object_of_their_characters(text, length):
    ranks = ("coordinate", "text", "format")
    characters = [(span.kind, span.object) for span in answer_spans(text) for _ in range(span.start, span.end)]
    pieces = [characters[start : start + length] for start in range(0, len(text), length)]
    expected = [
        (min((kind for kind, _ in piece), key=ranks.index), next((o for _, o in reversed(piece) if o >= 0), -1))
        for piece in pieces
    ]
    assert token_kinds(text, list(accumulate(map(len, pieces)))) == expected


def test_time_grows_with_the_text_and_no_faster():
    def seconds(text: str) -> float:
        start = time.process_time()
        answer_spans(text)
        return time.process_time() - start

    for piece in ('"', "[", "\\", '{"bbox_2d": [', '{"desc": "\\"', '{"quad": [[1', "1"):
        short, long = (min(seconds("{" + piece * count) for _ in range(3)) for count in (2_000, 20_000))
        assert long < 40 * short + 0.01, piece
