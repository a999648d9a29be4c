"""What readers share: finding photos, objects that are none, and what is said about them."""

from pathlib import Path

import pytest

from qcvl.data.entries import Entry
from qcvl.data.reading import (
    Notice,
    Photos,
    annotation,
    file_name,
    find_reader,
    find_writer,
    known_formats,
    located,
    one_line,
    polygon,
    summarize,
    with_attributes,
)
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.schema.records import Record

PLACE = Entry({}, Path("a.json"), 3)


@pytest.fixture
def base(tmp_path):
    for name in ("images/a.png", "images/deep/a.png", "b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("images/a.png", "images/a.png"),
        ("./images//a.png", "images/a.png"),
        ("../../images/a.png", "images/a.png"),
        ("/old/place/images/deep/a.png", "images/deep/a.png"),
        ("C:\\old\\b.png", "b.png"),
        ("images/b.png", "b.png"),
        ("images/none.png", "images/none.png"),  # nowhere: the whole name
        ("/etc/passwd", "etc/passwd"),  # never outside
    ],
)
def test_the_longest_end_of_a_name_that_exists_below_the_base_is_the_photo(base, name, found):
    assert Photos(base).find(name, PLACE) == base / found
    assert Photos(base).find(str(base / found), PLACE) == base / found  # an absolute name below the base


def test_two_names_of_one_photo_and_no_name_are_refused(base):
    photos = Photos(base)
    assert photos.find("x/b.png", PLACE) == photos.find("./x//b.png", PLACE) == photos.find("x\\b.png", PLACE)
    with pytest.raises(RecordError, match=r"a\.json:3: is 'y/b\.png' and leads to .*b\.png, as 'x/b\.png' does; name"):
        photos.find("y/b.png", PLACE)
    with pytest.raises(RecordError, match=r"is '\.\./'; expected the name of a photo"):
        photos.find("../", PLACE)
    assert photos.find("x" * 5000, PLACE).name == "x" * 5000  # longer than any file system takes


def test_shapes_that_are_none_are_notices_and_an_empty_label_is_an_error():
    assert annotation("bbox_2d", [[1, 1], [1, 5]], "x", PLACE) == Notice("box without area", "a.json:3")
    assert annotation("line", [[1, 1], [1, 1]], "x", PLACE) == Notice(
        "line of fewer than 2 distinct points", "a.json:3"
    )
    assert polygon([[1, 1], [2, 2]], "x", PLACE) == Notice("polygon of fewer than 3 points", "a.json:3")
    assert annotation("bbox_2d", [[9, 9], [12, 12]], "x", PLACE, (9, 9)) == Notice(
        "object wholly outside its photo", "a.json:3"
    )
    assert annotation("bbox_2d", [[8, 8], [12, 12]], "x", PLACE, (9, 9)).shape.bounds == (8, 8, 12, 12)
    with pytest.raises(RecordError, match=r"a\.json:3: has an empty label"):
        annotation("bbox_2d", [[1, 1], [2, 2]], " ", PLACE)


def test_notices_are_counted_by_reason_with_their_first_place():
    notices = [Notice("b", "f:1"), Notice("a", "f:2"), Notice("a", "f:3")]
    assert summarize(notices) == ["2 x a, first f:2", "1 x b, first f:1"]
    assert summarize([]) == []


def test_texts_become_one_line_and_attributes_follow_the_label():
    assert one_line("a  b") == "a  b" and one_line("a\n b\u2028c") == "a b c"
    assert with_attributes("cable", {"colour": "red", "note": " "}) == "cable/colour:red"
    assert with_attributes("cable", {}) == "cable"


def test_photos_are_named_relative_below_a_folder_only(tmp_path):
    assert file_name(f"{tmp_path}/in/a.png", tmp_path) == "in/a.png"
    assert file_name("/elsewhere/a.png", tmp_path) == "/elsewhere/a.png"
    assert file_name("data:image/png;base64,AA", tmp_path) == "data:image/png;base64,AA"
    with pytest.raises(DataError, match="an image is bytes in memory; expected a path"):
        file_name(b"png", tmp_path)


def test_records_are_located_by_their_own_file_or_by_a_root(tmp_path):
    record = Record(images=("in/a.png", "/abs/b.png", "data:x,y", "https://h/c.png"), path=tmp_path / "f.jsonl")
    assert located(record).images == (f"{tmp_path}/in/a.png", "/abs/b.png", "data:x,y", "https://h/c.png")
    assert located(record, Path("/root")).images[0] == "/root/in/a.png"


def test_formats_are_the_modules_that_read_or_write():
    assert {"coco", "labelme", "jsonl"} <= set(known_formats("write"))
    assert {"coco", "cvat", "culane", "deeppcb", "dota", "icdar", "jsonl", "label_studio", "labelme", "older"} <= set(
        known_formats("to_records")
    )
    with pytest.raises(
        ConfigError, match=r"format: cocoo is unknown; expected coco, .* or the dotted path of a reader"
    ):
        find_reader("cocoo")
    with pytest.raises(ConfigError, match=r"to: dota is unknown; expected coco, .*jsonl"):
        find_writer("dota")
