import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qcvl import config
from qcvl.errors import ConfigError, DataError
from qcvl.visualize import visualize
from qcvl.viz.compare import STYLES

ROW = {"images": ["a.png"], "objects": [{"bbox_2d": [10, 10, 40, 30], "desc": "plate"}]}


@pytest.fixture
def photos(tmp_path):
    """``photos("val.jsonl", 3)`` writes a file of three records of one grey photo; returns its path."""
    Image.fromarray(np.full((50, 60, 3), 128, np.uint8)).save(tmp_path / "a.png")

    def write(name, count):
        (tmp_path / name).write_text((json.dumps(ROW) + "\n") * count, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def draw(tmp_path):
    """``draw("data=jsonl", …)`` gives the names of the pictures in the run directory, in order."""

    def run(*overrides):
        paths = visualize(config.load("visualize", ["data=jsonl", *overrides, f"paths.output_dir={tmp_path}/run"]))
        return [str(path.relative_to(tmp_path / "run")) for path in paths]

    return run


def write_answers(path, *rows):
    base = {
        "source": "val",
        "task": "dense",
        "images": ["a.png"],
        "sizes": [[60, 50]],
        "text_sizes": [[60, 50]],
        "tokens": 1,
        "finished": True,
    }
    text = json.dumps({"object_1": {"bbox_2d": [167, 200, 667, 600], "desc": "plate"}})
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({**base, "text": text, **row}) + "\n" for row in rows), encoding="utf-8")


def test_the_first_records_of_each_source_of_a_split_are_drawn_and_put_on_a_sheet(photos, draw, tmp_path, capsys):
    sources = f"{{a: {photos('a.jsonl', 3)}, b: {photos('b.jsonl', 1)}}}"
    assert draw(f"data.val={sources}", "limit=2") == [
        "pictures/a-0000.png",
        "pictures/a-0001.png",
        "pictures/b-0000.png",
        "sheet.png",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"picture {tmp_path}/run/sheet.png" and len(printed) == 4
    sheet, picture = (Image.open(tmp_path / "run" / name) for name in ("sheet.png", "pictures/a-0000.png"))
    assert sheet.width > 2.5 * picture.width


def test_a_split_that_is_not_given_is_an_error_that_says_what_to_add(photos, draw):
    with pytest.raises(ConfigError, match="add data.train=F.jsonl, or data=demo"):
        draw(f"data.val={photos('a.jsonl', 1)}", "split=train")


def part_of(path, image):
    """Part ``image`` of the four pictures in a row, int ``[h, w, 3]``."""
    picture = np.asarray(Image.open(path)).astype(int)
    return picture[:, image * picture.shape[1] // 4 : (image + 1) * picture.shape[1] // 4]


ALWAYS = ["augment=light", "augment.order=[hflip,gamma]", "augment.ops.hflip.p=1", "augment.ops.gamma.p=1"]


def test_with_augmentation_each_photo_is_a_row_of_it_and_its_draws(photos, draw, tmp_path):
    drawn = draw(f"data.val={photos('val.jsonl', 2)}", "limit=1", *ALWAYS)
    assert drawn == ["pictures/val-0000.png", "sheet.png"]
    path = tmp_path / "run/pictures/val-0000.png"
    original, *draws = (part_of(path, image) for image in range(4))
    for one in draws:
        assert np.abs(one[60:-60] - original[60:-60]).max() > 60  # the box is elsewhere
    row = Image.open(path)
    plain = draw(f"data.val={photos('val.jsonl', 2)}", "limit=1")[0]
    assert row.width > 3.7 * Image.open(tmp_path / "run" / plain).width
    assert row.height > Image.open(tmp_path / "run" / plain).height  # what the ops did is written below


def test_the_number_of_draws_is_a_setting_and_draws_follow_from_the_seed(photos, draw, tmp_path):
    val, path, widths, pixels = photos("val.jsonl", 1), tmp_path / "run/pictures/val-0000.png", {}, {}
    for name, more in (("one", ["draws=1"]), ("three", []), ("again", []), ("other", ["seed=5"])):
        draw(f"data.val={val}", *ALWAYS, *more)
        picture = np.asarray(Image.open(path))
        widths[name], pixels[name] = picture.shape[1], picture.tobytes()
    assert widths["three"] > 1.8 * widths["one"]
    assert pixels["three"] == pixels["again"] != pixels["other"]


def test_quads_lines_and_several_photos_are_augmented_each_in_its_row(photos, draw, tmp_path):
    photos("val.jsonl", 1)
    objects = [
        {"quad": [10, 10, 30, 12, 28, 30, 8, 26], "desc": "label"},
        {"line": [5, 40, 50, 45], "desc": "cable", "image": 1},
    ]
    record = {"images": ["a.png", "a.png"], "objects": objects, "summary": "label x1, cable x1"}
    (tmp_path / "two.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    drawn = draw(f"data.val={tmp_path}/two.jsonl", "augment=strong")
    assert drawn == ["pictures/val-0000-0.png", "pictures/val-0000-1.png", "sheet.png"]


def test_predictions_and_augmentation_at_once_are_refused(photos, draw, tmp_path):
    write_answers(tmp_path / "answers/val.jsonl", {"index": 0})
    with pytest.raises(ConfigError, match="leave out one of predictions and augment"):
        draw(f"data.val={photos('val.jsonl', 1)}", f"predictions={tmp_path}/answers", "augment=light")


@pytest.mark.parametrize("preset", ["light", "dense", "strong", "color", "industrial", "aerial"])
def test_every_preset_writes_a_grid_that_differs_from_the_photos(preset, tmp_path):
    overrides = [f"augment={preset}", "limit=1", "data=scenes", f"paths.output_dir={tmp_path}/run"]
    *paths, sheet = visualize(config.load("visualize", overrides))
    assert sheet.is_file() and len(paths) == 2
    differing = 0
    for path in paths:
        original, *draws = (part_of(path, image) for image in range(4))
        differing += sum(one.shape != original.shape or np.abs(one - original).max() > 60 for one in draws)
    assert differing >= 3  # of 6


def test_answers_are_drawn_beside_the_truth_from_a_file_or_a_folder_of_files(photos, draw, tmp_path):
    val = photos("val.jsonl", 3)
    write_answers(tmp_path / "answers/val.jsonl", {"index": 1}, {"index": 2, "task": "summary"}, {"index": 7})
    assert draw(f"data.val={val}", f"predictions={tmp_path}/answers") == ["pictures/val-0001.png", "sheet.png"]
    beside = Image.open(tmp_path / "run/pictures/val-0001.png").width
    assert draw(f"data.val={val}", f"predictions={tmp_path}/answers/val.jsonl")[0] == "pictures/val-0001.png"
    draw(f"data.val={val}")
    assert beside > 1.8 * Image.open(tmp_path / "run/pictures/val-0001.png").width


def test_answers_are_drawn_worst_first_each_with_its_text(photos, draw, tmp_path):
    val = photos("val.jsonl", 3)
    write_answers(tmp_path / "answers/val.jsonl", {"index": 0}, {"index": 1, "text": "{}"}, {"index": 2})
    drawn = draw(f"data.val={val}", f"predictions={tmp_path}/answers")
    assert drawn == [*(f"pictures/val-000{index}.png" for index in (1, 0, 2)), "sheet.png"]
    texts = [(tmp_path / "run" / path).with_suffix(".txt").read_text() for path in drawn[:-1]]
    assert ["[missed]" in text for text in texts] == [True, False, False]


def test_an_answer_is_read_in_the_format_that_is_given(photos, draw, tmp_path):
    val, found = photos("val.jsonl", 1), {}
    for grid, box in (("norm1000", [167, 200, 667, 600]), ("none", [10, 10, 40, 30]), ("norm100", [10, 10, 40, 30])):
        text = json.dumps({"object_1": {"bbox_2d": box, "desc": "plate"}})
        write_answers(tmp_path / "answers/val.jsonl", {"index": 0, "text": text})
        draw(f"data.val={val}", f"predictions={tmp_path}/answers", f"answer.emit_norm={grid}")
        picture = np.asarray(Image.open(tmp_path / "run/pictures/val-0000.png")).astype(int)
        found[grid] = (np.abs(picture - STYLES["missed"].color).max(axis=2) < 8).sum() == 0
    assert found == {"norm1000": True, "none": True, "norm100": False}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": 0, "images": ["b.png"]}, r"val\.jsonl:1 is about a\.png but the answer to val 0 is about b\.png"),
        ({"index": 5}, "none is about the drawn records of val"),
        ({"index": 0, "source": "zh"}, "none is about the drawn records of val"),
        ({"index": 0, "task": "summary"}, "holds no dense answers"),
    ],
)
def test_answers_of_another_evaluation_are_refused(photos, draw, tmp_path, row, message):
    write_answers(tmp_path / "answers/val.jsonl", row)
    with pytest.raises(DataError, match=message):
        draw(f"data.val={photos('val.jsonl', 2)}", f"predictions={tmp_path}/answers")


def test_predictions_that_are_not_there_are_named(photos, draw, tmp_path):
    with pytest.raises(DataError, match="nowhere holds no dense answers; give the file or folder"):
        draw(f"data.val={photos('val.jsonl', 1)}", f"predictions={tmp_path}/nowhere")


def test_the_command_draws_the_truth_without_torch(photos, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "qcvl.visualize",
            "data=jsonl",
            f"data.val={photos('val.jsonl', 1)}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(config.CONF_DIR.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported and not imported & {"torch", "transformers", "lightning", "peft"}
    for line in done.stdout.splitlines():
        assert Image.open(line.removeprefix("picture ")).format == "PNG"
    assert len(done.stdout.splitlines()) == 2


def test_conversations_without_images_have_nothing_to_draw(photos, draw, tmp_path):
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    with pytest.raises(DataError, match="the records of train have no image to draw; give others or raise limit"):
        draw("split=train", f"data.train={tmp_path}/talk.jsonl")
    photos("val.jsonl", 1)
    both = f"data.train={{talk: {tmp_path}/talk.jsonl, photos: {tmp_path}/val.jsonl}}"
    assert draw("split=train", both) == ["pictures/photos-0000.png", "sheet.png"]
