"""Repaired copies: each repair by itself, and that a copy of any broken file passes the check."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from qcvl.doctor.survey import check_data
from qcvl.schema.records import read_records

BOX = {"bbox_2d": [10, 10, 30, 20], "desc": "plate"}
PHOTO = {"images": ["a.png"], "width": 60, "height": 40}


@pytest.fixture
def repair(check, folder):
    """``repair(row, …)``: the repaired copy's lines, ``(line, code, field)`` of each repair, and its path."""

    def run(*rows):
        report = check(*rows, fix=True, folder=folder / "run")
        (path,) = report.fixed.values()
        repairs = [(f.line, f.code, f.field) for f in report.findings if f.severity == "repair"]
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()], repairs, path

    return run


def one(repair, row):
    (line,), repairs, _ = repair(row)
    return line, repairs


@pytest.mark.parametrize(
    ("given", "objects", "field"),
    [
        ([{**BOX, "bbox_2d": [30, 20, 10, 10]}], [BOX], "objects[0].bbox_2d"),
        ([{**BOX, "bbox_2d": [[30, 10], [10, 20]]}], [BOX], "objects[0].bbox_2d"),
        ([{**BOX, "bbox_2d": [-5, 10, 70.5, 20]}], [{**BOX, "bbox_2d": [0, 10, 60, 20]}], "objects[0].bbox_2d"),
        ([BOX, {**BOX, "image": 0}], [BOX], "objects[1]"),
        ([{**BOX, "desc": " plate\t"}], [BOX], "objects[0].desc"),
        ([{"line": [1, 1, 9, 9], "line_points": 3, "desc": "x"}],
         [{"line": [1, 1, 9, 9], "line_points": 2, "desc": "x"}], "objects[0].line_points"),
        ([{**BOX, "poly_points": 4}], [BOX], "objects[0].poly_points"),
    ],
)  # fmt: skip
def test_an_object_is_put_right(repair, folder, given, objects, field):
    line, repairs = one(repair, {**PHOTO, "objects": given})
    assert line == {**PHOTO, "images": [str(folder / "a.png")], "objects": objects}
    assert repairs == [(1, "repaired", field)]


def test_a_size_is_corrected_where_the_objects_fit_the_photo(repair):
    line, repairs = one(repair, {"images": ["a.png"], "width": 50, "height": 40, "objects": [BOX]})
    assert (line["width"], line["height"]) == (60, 40) and repairs == [(1, "repaired", "width, height")]
    lines, repairs, _ = repair({**PHOTO, "width": 600, "objects": [{**BOX, "bbox_2d": [100, 10, 200, 20]}]})
    assert lines == [] and [code for _, code, _ in repairs] == ["left-out"]
    line, repairs = one(repair, {"images": ["a.png"] * 2, "width": 60, "height": [40, 41], "objects": [BOX]})
    assert (line["width"], line["height"]) == ([60, 60], [40, 40])


def test_a_size_before_exif_orientation_is_left_to_people(repair, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "turned.jpg", exif=exif)
    lines, repairs, _ = repair({"images": ["turned.jpg"], "width": 60, "height": 40, "objects": [BOX]})
    assert lines == [] and repairs == [(1, "left-out", None)]


@pytest.mark.parametrize(
    "row",
    [
        "{broken",
        "[]",
        {**PHOTO, "objects": [{**BOX, "desc": " "}]},
        {**PHOTO, "objects": [BOX, {**BOX, "bbox_2d": [70, 1, 80, 9]}]},
        {**PHOTO, "objects": [{**BOX, "bbox_2d": [1, 1, 1, 9]}]},
        {**PHOTO, "images": ["gone.png"], "objects": [BOX]},
        PHOTO,
    ],
)
def test_what_cannot_be_repaired_is_left_out_and_named(repair, row):
    good = {**PHOTO, "objects": [BOX]}
    lines, repairs, _ = repair(good, row, good)
    assert len(lines) == 2 and repairs == [(2, "left-out", None)]


def test_the_original_is_never_touched_and_photos_are_found_from_the_copy(repair, folder):
    rows = [{**PHOTO, "objects": [{**BOX, "bbox_2d": [30, 20, 10, 10]}]}, {**PHOTO, "objects": [BOX], "summary": " s "}]
    _, _, path = repair(*rows)
    assert [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()] == rows
    assert path == folder / "run/train.fixed.jsonl"
    assert [Path(record.image_path()) for record in read_records(path)] == [folder / "a.png"] * 2
    assert read_records(path)[1].summary == "s"


def test_two_files_of_one_name_become_two_copies(check, write, folder):
    (folder / "sub").mkdir()
    first = write({**PHOTO, "objects": [BOX]})
    Image.open(folder / "a.png").save(folder / "sub/a.png")
    second = write({**PHOTO, "objects": []}, name="sub/train.jsonl")
    data = check.data_of(train={"a": first, "b": second}, val=None)
    fixed = check_data(data, check.survey_of(fix=True, folder=folder / "run")).fixed
    assert {name: path.name for name, path in fixed.items()} == {
        "train/a": "train.fixed.jsonl",
        "train/b": "train-train-b.fixed.jsonl",
    }


coordinate = st.integers(-20, 80) | st.floats(-1e3, 1e3).map(lambda value: round(value, 2))
text = st.sampled_from(["plate", " plate", "", " ", "x\ty", "a\nb", None, 5])
values = st.lists(coordinate, max_size=9) | st.just("1,2") | st.lists(st.lists(coordinate, min_size=2, max_size=2))
item = st.fixed_dictionaries(
    {},
    optional={
        "bbox_2d": st.lists(coordinate, min_size=4, max_size=4) | values,
        "quad": values,
        "poly": values,
        "line": values,
        "poly_points": st.integers(0, 5),
        "line_points": st.integers(0, 5),
        "image": st.integers(-1, 2),
        "desc": text,
    },
) | st.fixed_dictionaries({"bbox_2d": st.lists(coordinate, min_size=4, max_size=4), "desc": st.just("plate")})
record = st.fixed_dictionaries(
    {"images": st.sampled_from([["a.png"], ["a.png", "a.png"], ["gone.png"], [], "a.png", [5]])},
    optional={
        "width": st.sampled_from([60, 50, 61, 0, "60", [60, 60], None]),
        "height": st.sampled_from([40, 41, [40, 40], None]),
        "objects": st.lists(item, max_size=4) | st.just({}),
        "summary": text,
    },
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(record, min_size=1, max_size=5))
def test_the_copy_of_any_broken_file_passes_the_check_and_needs_no_repair(repair, check, folder, rows):
    lines, repairs, path = repair(*rows)
    left_out = {line for line, code, _ in repairs if code == "left-out"}
    assert len(lines) == len(rows) - len(left_out)
    if lines:
        text = path.read_text(encoding="utf-8")
        again = check(*text.splitlines(), fix=True, folder=folder / "again")
        assert again.count("error") == again.count("repair") == 0, again.findings
        assert next(iter(again.fixed.values())).read_text(encoding="utf-8") == text
