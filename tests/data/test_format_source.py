"""Data sets of other tools as sources, by ``data.format`` and by a source of their own; other folders of photos."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from qcvl import config
from qcvl.callbacks.environment import write_environment
from qcvl.check import check
from qcvl.convert import convert
from qcvl.data.reading import located
from qcvl.data.settings import DeepPCBData
from qcvl.data.sources import FormatSource, JsonlSource
from qcvl.doctor.survey import check_data, quick
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.schema.records import read_records
from tests.conftest import choice

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 128, "height": 96}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "screw"}],
}


@pytest.fixture
def coco(tmp_path):
    Image.new("RGB", (128, 96)).save(tmp_path / "a.png")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO))
    return path


def source(path, **changes):
    values = {"format": "coco", "path": str(path), "split": "train", "root": None, "repeat": 1, "task": None}
    return FormatSource(**values | {"prompts": None} | changes)


def test_a_format_source_opens_its_records_and_logs_what_was_left_out(coco, caplog):
    with caplog.at_level(logging.WARNING):
        (record,) = source(coco).open()
    assert [note.desc for note in record.annotations] == ["screw"]
    assert caplog.messages == [f"{coco}: 1 x object marked iscrowd, first {coco}: annotations[1]"]


def errors_of(data) -> list[str]:
    return [str(found) for found in check_data(data, quick(data)).findings if found.severity == "error"]


def test_the_check_reads_a_format_source_and_names_a_missing_photo(coco, make_data):
    data = make_data(train={"a": source(coco)}, val=None, sampling="dense")
    assert errors_of(data) == []
    (coco.parent / "a.png").unlink()
    (problem,) = errors_of(data)
    assert problem.startswith(f"{coco}:1: images[0] ({coco.parent}/a.png) not found")


def test_a_broken_file_is_a_problem_of_the_check(coco, make_data):
    coco.write_text(json.dumps({**COCO, "categories": []}))
    (problem,) = errors_of(make_data(train={"a": source(coco)}, val=None, sampling="dense"))
    assert problem.startswith(f"{coco}: annotations[0].category_id is 1; expected an id of categories")


def test_every_plain_path_is_read_by_the_format_of_the_data_and_sources_stay_what_they_are(coco, make_data):
    jsonl = make_data.source("en.jsonl")
    data = make_data(format="coco", train={"a": str(coco), "own": jsonl}, val=str(coco))
    train, val = data.sources("train"), data.sources("val")
    assert train == {"a": source(coco), "own": jsonl}
    assert val == {"val": source(coco, split="val")}


def test_photos_of_jsonl_and_of_other_formats_are_read_below_the_root(coco, make_data, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "a.png").rename(photos / "a.png")
    lines = tmp_path / "train.jsonl"
    lines.write_text('{"images": ["a.png"], "objects": []}\n')
    for path, given in ((coco, "coco"), (lines, None)):
        (found,) = make_data(format=given, root=str(photos), train=str(path)).sources("train").values()
        assert found.open()[0].images == (str(photos / "a.png"),)
    assert isinstance(make_data(train=str(lines)).sources("train")["train"], JsonlSource)


def test_a_file_that_is_no_jsonl_needs_its_format(coco, make_data):
    for path in (coco, coco.parent):
        with pytest.raises(DataError, match=r"is no JSONL file; say what it is: data\.format=coco"):
            make_data(train=str(path)).sources("train")


def test_an_unknown_format_is_refused_with_the_known_ones(make_data, coco):
    for make in (lambda: make_data(format="cocoo"), lambda: source(coco, format="my.reader")):
        with pytest.raises(
            ValidationError, match="should be one of coco, culane, .*; a reader of your own is a source"
        ):
            make()


def test_the_root_of_deeppcb_is_that_of_its_lists_alone(tmp_path):
    values = {**choice("data/deeppcb.yaml"), "root": "/boards", "folder": str(tmp_path), "crops": None}
    values |= {"train": "mine.jsonl", "val": None}
    assert isinstance(DeepPCBData(**values).sources("train")["train"], JsonlSource)


def test_environment_json_has_fingerprints_of_files_and_of_label_folders(coco, make_data, make_datamodule, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    data = make_data(
        train={"coco": source(coco), "labelme": source(labels, format="labelme", root=str(tmp_path))},
        val=None,
        sampling="dense",
    )

    def fingerprints():
        write_environment(tmp_path / "run", make_datamodule(data=data))
        return json.loads((tmp_path / "run/environment.json").read_text())["data"]

    first = fingerprints()
    (labels / "photo.png").write_bytes(b"photos are no part of it")
    assert fingerprints() == first
    (labels / "b.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    changed = fingerprints()
    assert changed["train/coco"] == first["train/coco"] and changed["train/labelme"] != first["train/labelme"]


def test_training_samples_come_from_a_format_source(coco, make_data, make_datamodule):
    data = make_data(format="coco", train=str(coco), val=None, sampling="dense")
    module = make_datamodule(data=data)
    features = module.train_dataset()[(0, 0)]
    assert features.labels.max() > 0 and len(module.sources("train")[0].records) == 1


def test_the_check_takes_a_format_and_a_folder_of_photos_from_the_command_line(coco, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "photos/a.png")
    given = [f"data.train={coco}", "data.format=coco", "decode=true", f"paths.output_dir={tmp_path}/run"]
    check(config.load("check", [*given, f"data.root={tmp_path}/photos"]))
    assert "128x96" in capsys.readouterr().out
    with pytest.raises(DataError, match="1 problem in the data"):
        check(config.load("check", given))
    assert "a.png) not found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("icdar", "quads/icdar2015_mmocr/textdet_test.json"),
        ("icdar", "quads/icdar2015_raw"),
        ("icdar", "quads/wildreceipt/data.txt"),
        ("dota", "quads/dota_mmrotate"),
        ("tusimple", "polylines/tusimple/label_data_0601.json"),
        ("deeppcb", "deeppcb"),
    ],
)
def test_real_data_are_the_same_in_place_and_converted(shared_data, tmp_path, name, place):
    path = shared_data(place.split("/")[0]) / "/".join(place.split("/")[1:])
    output = [f"output={tmp_path}/all.jsonl", f"paths.output_dir={tmp_path}/run", "split=val"]
    written = read_records(convert(config.load("convert", [f"format={name}", f"input={path}", *output])))
    assert [located(record) for record in written] == list(source(path, format=name, split="val").open())


def test_a_percentage_of_a_foreign_file_is_drawn_as_that_of_a_jsonl_file(tmp_path, make_data):
    photos = [{"id": k, "file_name": f"{k}.png", "width": 8, "height": 8} for k in range(40)]
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps({"images": photos, "annotations": [], "categories": []}))
    lines = [json.dumps({"images": [f"{k}.png"], "objects": []}) + "\n" for k in range(40)]
    (tmp_path / "same.jsonl").write_text("".join(lines))
    paths = {"a": f"{tmp_path}/a.json%30", "b": f"{tmp_path}/b.json%2.5", "whole": f"{tmp_path}/b.json"}
    own = source(f"{tmp_path}/a.json%30", repeat=2)
    data = make_data(train={**paths, "own": own}, val=f"{tmp_path}/a.json%10", format="coco")

    def names(source) -> list[str]:
        return [Path(record.images[0]).name for record in source.open()]

    found = {name: names(source) for name, source in data.sources("train").items()}
    (lines,) = make_data(train=f"{tmp_path}/same.jsonl%30").sources("train").values()
    assert found["a"] == found["own"] == names(lines) and len(found["a"]) == 12
    assert len(found["b"]) == 1 and len(found["whole"]) == 40
    assert data.sources("train")["own"].repeat == 2
    assert len(names(data.sources("val")["val"])) == 4


def test_a_percentage_of_a_foreign_path_is_refused_as_that_of_a_jsonl_file_is(coco, make_data):
    with pytest.raises(ConfigError, match=r"instances.json%101 asks for 101 percent"):
        make_data(train={"a": source(f"{coco}%101")})
    with pytest.raises(DataError, match=r"instances.json is no JSONL file; say what it is: data.format=coco"):
        make_data(train=f"{coco}%30").sources("train")
    (coco.parent / "half%50").mkdir()
    data = make_data(train=str(coco.parent / "half%50"), format="labelme")
    assert data.sources("train")["train"].path.endswith("half%50")


def broken(count: int) -> dict:
    """A COCO file of which every other one of so many photos has no height."""
    photos = [
        {"id": k, "file_name": f"{k}.png", "width": 8} | ({} if k % 2 else {"height": 8}) for k in range(2 * count)
    ]
    return {"images": photos, "annotations": [], "categories": []}


@pytest.mark.parametrize("count", [1, 3, 20, 23])
def test_one_error_names_the_first_twenty_of_all_that_is_wrong_in_a_foreign_file(tmp_path, count):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken(count)))
    with pytest.raises(RecordError if count == 1 else DataError) as caught:
        source(path).open()
    lines = str(caught.value).splitlines()
    named = [f"{path}: images[{2 * k + 1}].height is missing; the format needs it" for k in range(count)]
    rest = ["and 3 more problems; python -m qcvl.check lists all of them"] if count > 20 else []
    assert lines == named[:20] + rest


def test_records_of_another_folder_of_photos_are_all_read_before_one_error_names_what_is_wrong(tmp_path):
    sound = '{"images": ["a.png"], "objects": []}'
    (tmp_path / "all.jsonl").write_text(f'{sound}\n{{"images": []}}\n{sound}\n{{"image": ["a.png"]}}\n')
    with pytest.raises(DataError) as caught:
        source(tmp_path / "all.jsonl", format="jsonl", root=str(tmp_path / "photos")).open()
    said = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in said] == [f"{tmp_path}/all.jsonl:2", f"{tmp_path}/all.jsonl:4"]
    assert "images is an empty list" in said[0] and "did you mean images?" in said[1]


def test_the_check_lists_everything_that_is_wrong_in_a_foreign_file(tmp_path, make_data):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken(3)))
    data = make_data(train={"a": source(path)}, val=None, sampling="dense")
    missing = [line for line in errors_of(data) if "height is missing" in line]
    assert [line.partition(" is ")[0] for line in missing] == [f"{path}: images[{k}].height" for k in (1, 3, 5)]


def test_lines_go_on_after_a_bad_one_and_end_at_one_that_is_no_json(tmp_path):
    path = tmp_path / "lanes.json"
    lane = {"lanes": [[1, 2]], "h_samples": [0, 5], "raw_file": "a.png"}
    bad = [lane | {"lanes": [[1]]}, lane, lane | {"h_samples": "x"}]
    path.write_text("".join(json.dumps(item) + "\n" for item in bad) + "{\n")
    with pytest.raises(DataError) as caught:
        source(path, format="tusimple").open()
    starts = [line.split(" ")[1] for line in str(caught.value).splitlines()]
    assert starts == ["lanes[0]", "h_samples", "is"]
