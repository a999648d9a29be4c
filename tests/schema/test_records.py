"""The JSONL contract: what a line may say, and the words in which anything else is refused."""

import json
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.schema import Annotation, Record
from qcvl.schema.lines import object_fields, usual_fields
from qcvl.schema.objects import COUNT_KEYS
from qcvl.schema.records import line_offsets, read_records
from tests.conftest import problems_in

BOX = {"bbox_2d": [10, 20, 30, 40], "desc": "螺丝"}


def line(objects=(BOX,), **fields):
    return json.dumps({"images": ["a.jpg"], "objects": list(objects), **fields}, ensure_ascii=False)


def refusal(text):
    with pytest.raises(RecordError) as caught:
        Record.from_json(text, path="train.jsonl", line=418)
    message = str(caught.value)
    assert message.startswith("train.jsonl:418: ")
    return message.removeprefix("train.jsonl:418: ")


def test_every_field_of_a_line_is_read():
    text = """{"images": ["a.jpg", "/abs/b.jpg"], "width": [1920, 640], "height": [1080, 480], "summary": "两个物体",
        "metadata": {"group": "G1"}, "objects": [
        {"bbox_2d": [1, 2, 3.5, 4], "desc": "box"},
        {"quad": [1, 1, 5, 1, 5, 5, 1, 5], "desc": "quad", "image": 1},
        {"poly": [[0, 0], [9, 0], [4, 7]], "poly_points": 3, "desc": "poly"},
        {"line": [0, 0, 5, 5, 9, 0], "line_points": 3, "desc": "line"}]}"""
    record = Record.from_json(text, path="/data/train.jsonl", line=7)
    assert record.annotations == (
        Annotation(Shape("bbox_2d", [[1, 2], [3.5, 4]]), "box"),
        Annotation(Shape("quad", [[1, 1], [5, 1], [5, 5], [1, 5]]), "quad", 1),
        Annotation(Shape("poly", [[0, 0], [9, 0], [4, 7]]), "poly"),
        Annotation(Shape("line", [[0, 0], [5, 5], [9, 0]]), "line"),
    )
    assert record.annotations[0].shape.points.dtype == np.float64
    assert record.sizes == ((1920, 1080), (640, 480))
    assert (record.summary, record.metadata) == ("两个物体", {"group": "G1"})
    assert record.where == "/data/train.jsonl:7"
    assert record.image_path(0) == Path("/data/a.jpg") and record.image_path(1) == Path("/abs/b.jpg")


def test_a_data_url_is_not_a_path():
    record = Record.from_json('{"images": ["data:image/png;base64,AAAA"]}', path="/data/train.jsonl")
    assert record.image_path() == "data:image/png;base64,AAAA"
    with pytest.raises(DataError, match="bytes in memory"):
        Record(images=(b"\xff\xd8",)).image_path()


def test_one_size_stands_for_every_image_and_no_size_is_fine():
    both = Record.from_json(line(images=["a.jpg", "b.jpg"], width=100, height=50))
    assert both.sizes == ((100, 50), (100, 50))
    assert Record.from_json(line()).sizes == Record.from_json(line(width=None, height=None)).sizes == ()


def test_an_unlabelled_photo_is_told_from_one_without_objects():
    assert not Record.from_json('{"images": ["a.jpg"]}').annotated
    assert Record.from_json('{"images": ["a.jpg"], "objects": []}').annotated


def test_the_line_of_the_design_is_refused_in_its_own_words():
    bad = {"line": [1, 2, 3, 4, 5, 6, 7], "desc": "光纤"}
    assert refusal(line([BOX, BOX, bad])) == "objects[2].line has 7 numbers; a polyline needs x, y pairs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the line is blank; expected one JSON object a line"),
        ('{"images": ["a.jpg"]', "the line is not valid JSON (unexpected end of data at column 21); expected one"),
        ('{"images": [NaN]}', "the line is not valid JSON"),
        ("[1]", "the line is a list; expected one JSON object a line"),
        ("{}", "images is missing; expected a list of image paths"),
        ('{"images": []}', "images is an empty list; expected a list of image paths"),
        ('{"images": "a.jpg"}', "images is the string 'a.jpg'; expected a list of image paths"),
        ('{"images": ["a.jpg", ""]}', "images[1] is an empty string; expected an image path"),
        ('{"images": [3]}', "images[0] is the number 3; expected an image path"),
        ('{"image": ["a.jpg"]}', "image is not a known key; did you mean images? expected images, width,"),
        ('{"images": ["a.jpg"], "zzz": 1}', "zzz is not a known key; expected images, width,"),
        (
            '{"images": ["a.jpg"], "objects": {"bbox_2d": []}}',
            "objects is an object; expected a list of objects ([] for none)",
        ),
        (line([[1, 2]]), "objects[0] is a list; expected an object with a geometry and a desc"),
        (line(width=10), "height is missing beside width; give both or neither"),
        (line(width=0, height=9), "width is the number 0; expected a whole number of pixels above 0"),
        (line(width=9, height=9.5), "height is the number 9.5; expected a whole number of pixels above 0"),
        (line(width=[9, 9], height=9), "width has 2 entries but images has 1; expected one number, or one for each"),
        (line(images=["a", "b"], width=[9, True], height=9), "width[1] is true; expected a whole number"),
        (line(summary="two\nlines"), "summary has a line break"),
        (line(summary=""), "summary is empty; expected one line of text"),
        (line(summary=["x"]), "summary is a list; expected one line of text"),
        (line(metadata=[]), "metadata is a list; expected an object"),
    ],
)
def test_a_broken_line_is_refused_by_field(text, message):
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"desc": "x"}, " has no geometry; expected exactly one of bbox_2d, quad, poly, line"),
        ({**BOX, "line": [1, 2, 3, 4]}, " has bbox_2d and line; expected exactly one geometry"),
        ({"bbox": [1, 2, 3, 4], "desc": "x"}, ".bbox is not a known key; did you mean bbox_2d? expected bbox_2d,"),
        ({"polyline": [1, 2, 3, 4], "desc": "x"}, ".polyline is not a known key; did you mean line?"),
        ({"polygon": [1, 2, 3, 4], "desc": "x"}, ".polygon is not a known key; did you mean poly?"),
        ({**BOX, "label": "x"}, ".label is not a known key; did you mean desc?"),
        ({"bbox_2d": [1, 2, 3], "desc": "x"}, ".bbox_2d has 3 numbers; a box needs 4 numbers: x1, y1, x2, y2"),
        ({"bbox_2d": [], "desc": "x"}, ".bbox_2d has 0 numbers; a box needs 4 numbers: x1, y1, x2, y2"),
        ({"bbox_2d": "1,2,3,4", "desc": "x"}, ".bbox_2d is the string '1,2,3,4'; expected a list of numbers"),
        ({"bbox_2d": [1, 2, "3", 4], "desc": "x"}, ".bbox_2d has the string '3' at position 2; expected numbers"),
        ({"bbox_2d": [1, 2, True, 4], "desc": "x"}, ".bbox_2d has true at position 2; expected numbers"),
        ({"bbox_2d": [1, None, 3, 4], "desc": "x"}, ".bbox_2d has null at position 1; expected numbers"),
        ({"bbox_2d": [1, 2, 1e300, 4], "desc": "x"}, ".bbox_2d has 1e+300 at position 2; expected finite pixel"),
        ({"bbox_2d": [30, 2, 10, 4], "desc": "x"}, ".bbox_2d has x1 = 30 and x2 = 10; a box needs x1 < x2 and y1 < y2"),
        ({"bbox_2d": [1, 4, 3, 4], "desc": "x"}, ".bbox_2d has y1 = 4 and y2 = 4; a box needs x1 < x2 and y1 < y2"),
        ({"quad": [1, 1, 5, 1, 5, 5], "desc": "x"}, ".quad has 6 numbers; a quad needs 8 numbers: x1, y1, … x4, y4"),
        ({"quad": [[1, 1], [5, 1, 2]], "desc": "x"}, ".quad has 3 numbers in point 1; a quad needs x, y pairs"),
        ({"quad": [[1, 1], 5, 1], "desc": "x"}, ".quad has a list at position 0; expected numbers"),
        ({"poly": [1, 1, 5, 1, 5], "desc": "x"}, ".poly has 5 numbers; a polygon needs x, y pairs"),
        ({"poly": [1, 1, 5, 1], "desc": "x"}, ".poly has 2 points; a polygon needs at least 3"),
        ({"line": [1, 1], "desc": "x"}, ".line has 1 point; a polyline needs at least 2"),
        ({"line": [1, 1, 1, 1], "desc": "x"}, ".line has only 1 distinct points; expected at least 2"),
        ({"line": [1, 1, 2, 2], "line_points": 3, "desc": "x"}, ".line_points is 3 but line has 2 points; expected 2"),
        ({"poly": [1, 1, 2, 2, 3, 1], "poly_points": "3", "desc": "x"}, ".poly_points is the string '3' but poly has"),
        ({**BOX, "line_points": 2}, ".line_points stands beside bbox_2d; it belongs to line only"),
        ({"bbox_2d": [1, 2, 3, 4]}, ".desc is missing; expected a description of the object"),
        ({**BOX, "desc": "  "}, ".desc is empty; expected one line of text"),
        ({**BOX, "desc": "a\u2028b"}, ".desc has a line break"),
        ({**BOX, "desc": 5}, ".desc is the number 5; expected one line of text"),
        ({**BOX, "image": 1}, ".image is 1 but there are 1 image; expected 0"),
        ({**BOX, "image": -1}, ".image is -1 but there are 1 image; expected 0"),
        ({**BOX, "image": "0"}, ".image is the string '0'; expected the index of an image, from 0"),
    ],
)
def test_a_broken_object_is_refused_by_index_and_field(item, message):
    assert refusal(line([BOX, item])).startswith(f"objects[1]{message}")


def test_only_a_shape_wholly_outside_its_image_is_refused():
    size = {"width": 100, "height": 50}
    partly = {"bbox_2d": [-20, 10, 30, 70], "desc": "x"}
    crossing = {"line": [-10, 25, 110, 25], "desc": "both ends outside, the middle inside"}
    record = Record.from_json(line([partly, crossing], **size))
    assert record.annotations[0].shape.bounds == (-20, 10, 30, 70)
    assert "objects[0].bbox_2d lies outside the 100 x 50 image (it spans 100, 0 to 120, 9)" in refusal(
        line([{"bbox_2d": [100, 0, 120, 9], "desc": "x"}], **size)
    )
    around_the_corner = {"line": [-10, 5, 5, -10], "desc": "its bounds meet the frame, it does not"}
    assert "objects[0].line lies outside" in refusal(line([around_the_corner], **size))
    assert Record.from_json(line([around_the_corner])).annotations  # no size given: nothing to hold it against


def test_the_frame_is_that_of_the_objects_own_image():
    two = {"images": ["a.jpg", "b.jpg"], "width": [100, 20], "height": [100, 20]}
    assert Record.from_json(line([{"bbox_2d": [50, 50, 60, 60], "desc": "x", "image": 0}], **two)).annotations
    assert "lies outside the 20 x 20 image" in refusal(
        line([{"bbox_2d": [50, 50, 60, 60], "desc": "x", "image": 1}], **two)
    )


number = st.integers(-50, 5000) | st.floats(-50, 5000)
point = st.tuples(number, number)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(str.strip)


@st.composite
def annotations(draw, image_count=2):
    kind = draw(st.sampled_from(["bbox_2d", "quad", "poly", "line"]))
    if kind == "bbox_2d":
        x, y = draw(point)
        points = [(x, y), (x + draw(st.floats(0.5, 100)), y + draw(st.floats(0.5, 100)))]
    else:
        low, high = {"quad": (4, 4), "poly": (3, 9), "line": (2, 9)}[kind]
        points = draw(st.lists(point, min_size=low, max_size=high, unique=True))
    return Annotation(Shape(kind, points), draw(texts), draw(st.integers(0, image_count - 1)))


@given(
    items=st.lists(annotations(), max_size=5),
    summary=st.none() | texts,
    sizes=st.just(()) | st.just(((10**4, 10**4), (9000, 8000))),
)
def test_a_written_record_reads_back_equal(items, summary, sizes):
    inside = [item for item in items if not sizes or min(item.shape.bounds) >= 0]
    record = Record(
        images=("甲.jpg", "b.jpg"), annotations=tuple(inside), sizes=sizes, summary=summary, metadata={"k": [1, "二"]}
    )
    assert Record.from_json(record.to_json(), path="x.jsonl", line=1) == record
    assert "\n" not in record.to_json()


def test_whole_numbers_stay_whole_in_a_written_record():
    text = line([BOX], width=64, height=48)
    assert '"bbox_2d": [10, 20, 30, 40]' in Record.from_json(text).to_json()
    assert json.loads(Record.from_json(text).to_json()) == json.loads(text)


def test_a_file_is_read_in_order_with_line_numbers(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line(summary='一')}\r\n{line(summary='二')}\n\n", encoding="utf-8-sig", newline="")
    records = read_records(path)
    assert [(record.summary, record.line) for record in records] == [("一", 1), ("二", 2)]
    assert records[1].where == f"{path}:2" and records[1].image_path() == tmp_path / "a.jpg"


def test_a_blank_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line()}\n  \n{line()}\n")
    with pytest.raises(RecordError, match=r"train\.jsonl:2: the line is blank"):
        read_records(path)


def test_a_file_that_is_empty_missing_or_a_folder_says_so(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(RecordError, match=r"train\.jsonl: the file is empty; expected one JSON object a line"):
        read_records(tmp_path / "train.jsonl")
    with pytest.raises(RecordError, match=r"tran\.jsonl: the file does not exist; did you mean train\.jsonl\?"):
        read_records(tmp_path / "tran.jsonl")
    with pytest.raises(RecordError, match=r"is a folder; expected a JSONL file, for instance train\.jsonl"):
        read_records(tmp_path)
    with pytest.raises(RecordError, match=r"the folder .*nowhere does not exist"):
        read_records(tmp_path / "nowhere" / "train.jsonl")


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(line().encode() + b"\n" + line().replace("螺丝", "X").encode().replace(b"X", "螺丝".encode("gbk")))
    with pytest.raises(RecordError, match=r"train\.jsonl:2: the line is not valid JSON .*UTF-8"):
        read_records(path)


def test_check_finds_every_problem_and_reading_stops_at_the_first(tmp_path):
    path = tmp_path / "train.jsonl"
    odd, empty = {"line": [1, 2, 3], "desc": "x"}, {**BOX, "desc": ""}
    path.write_text(f"{line([odd, BOX, empty], summary='')}\n{line()}\n{{\n" + line(images=[], width=5))
    problems = [str(problem).removeprefix(f"{path}:") for problem in problems_in(path)]
    starts = [
        "1: objects[0].line has 3",
        "1: objects[2].desc is empty",
        "1: summary is empty",
        "3: the line is not valid",
    ]
    assert [p.startswith(s) for p, s in zip(problems, [*starts, "4: images is an empty list"], strict=True)] == [
        True
    ] * 5
    with pytest.raises(RecordError) as caught:
        read_records(path)
    assert str(caught.value) == f"{path}:{problems[0]}"


def test_a_sound_file_has_no_problems_and_an_empty_one_has_one(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(line())
    assert list(problems_in(path)) == []
    path.write_text("")
    assert [str(problem) for problem in problems_in(path)] == [
        f"{path}: the file is empty; expected one JSON object a line"
    ]


NUMBERS = st.one_of(
    st.integers(0, 12), st.floats(0, 12), st.sampled_from([-1, 10, 10.0, True, None, "3", 2e9, 10**400, [1, 2]])
)
DESCS = st.sampled_from(
    ["bolt", "螺丝/松动", " bolt ", "", " ", "\u3000", "a\u2028b", "a\x1fb", "a\nb", "a\tb", 3, None]
)


@st.composite
def odd_objects(draw):
    """JSON objects of one shape, mostly sound, with what a line may get wrong about them."""
    kind = draw(st.sampled_from(["bbox_2d", "quad", "poly", "line"]))
    usual = st.integers(0, 10) if draw(st.booleans()) else NUMBERS
    count = draw(st.sampled_from({"bbox_2d": [4], "quad": [8]}.get(kind, [4, 6, 8])))
    numbers = draw(st.lists(usual, min_size=count, max_size=count))
    item = {kind: numbers, "desc": draw(DESCS)}
    extra = draw(st.sampled_from(["", "count", "wrong count", "image", "quad", "other", "short"]))
    if extra == "count" and kind in COUNT_KEYS:
        item[COUNT_KEYS[kind]] = len(numbers) // 2
    if extra == "wrong count":
        item[draw(st.sampled_from(list(COUNT_KEYS.values())))] = draw(st.sampled_from([2, 2.0, 3.0, 4.0, True, "2"]))
    if extra in ("image", "quad", "other"):
        item[extra] = 0
    return {**item, kind: numbers[:-1]} if extra == "short" else item


@given(odd_objects(), st.sampled_from([(10, 10), (5, 12), None]))
def test_the_quick_look_at_an_object_says_what_the_whole_one_says_or_nothing(item, size):
    quick = usual_fields(item, *(size or (1e9, 1e9)))
    try:
        whole = object_fields(item, "objects[0]", 1, (size,) if size else ())
    except RecordError:
        whole = None
    assert quick is None or quick == whole


def test_objects_as_nearly_all_are_need_no_whole_look():
    ring = [1, 1, 9.5, 1, 9.5, 9, 1, 9]
    usual = [{"bbox_2d": [0, 0, 10, 10]}, {"quad": ring}, {"poly": ring, "poly_points": 4}, {"line": ring[:4]}]
    for shape in usual:
        item = {**shape, "desc": "螺丝 松动"}
        assert usual_fields(item, 10, 10) == object_fields(item, "", 1, ())
        for width, height in ((0.5, 10), (10, 0.5)):  # it lies beyond the right or the lower edge
            assert usual_fields(item, width, height) is None
    assert usual_fields({"line": [-9, -9, -1, -9], "desc": "bolt"}, 10, 10) is None


@given(st.lists(st.sampled_from([b"\n", b"\r", b"{}", "\u2028".encode()])).map(b"".join))
def test_line_offsets_cut_a_file_where_a_file_object_does(content):
    offsets = line_offsets(content)
    assert [content[start:end] for start, end in pairwise(offsets)] == BytesIO(content).readlines()
