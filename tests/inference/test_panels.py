"""Pictures of answers: one a photo, with that photo's objects, and a sheet of all with the worst first."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.data.datamodule import EvaluationItem
from qcvl.geometry.shapes import Shape
from qcvl.inference.evaluator import predict
from qcvl.inference.panels import SHEET_PX, draw_panels, write_panels
from qcvl.inference.predictor import Reply
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from qcvl.viz.draw import resize
from qcvl.viz.sheet import grid
from tests.conftest import photo

PLATE = Annotation(Shape("bbox_2d", [10, 10, 60, 40]), "plate")
SECOND = Annotation(Shape("bbox_2d", [20, 5, 90, 45]), "screw", 1)


class Silent:
    """Answers nothing, or what it is told to."""

    def __init__(self, text: str = "{}") -> None:
        self.text = text

    def seen_size(self, size_wh):
        return size_wh

    def answer(self, requests):
        return [Reply(self.text, 2, True) for _ in requests]


def record(*notes: Annotation, photos: int = 1) -> Record:
    return Record(images=tuple(photo(100, 50, seed) for seed in range(photos)), annotations=notes, summary="s")


@pytest.fixture
def ask(prompts):
    def make(records, text="{}", tasks=("dense",)):
        items = [EvaluationItem(one, index, task, prompts) for task in tasks for index, one in enumerate(records)]
        return items, predict(items, Silent(text), DEFAULT_FORMAT, source="val")

    return make


FOUND = json.dumps({"object_1": {"bbox_2d": [100, 200, 600, 800], "desc": "plate"}})


def test_a_picture_and_its_text_are_written_for_each_photo_of_a_dense_answer(ask, tmp_path):
    items, predictions = ask([record(PLATE), record(PLATE, SECOND, photos=2)], tasks=("dense", "summary"))
    panels = write_panels(tmp_path / "step-3", "val", items, predictions)
    names = ["val-0000", "val-0001-0", "val-0001-1"]
    assert [panel.name for panel in panels] == names
    written = {path.name for path in (tmp_path / "step-3").iterdir()}
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "txt")} | {"sheet-val.png"}
    for panel in panels:
        picture = np.asarray(Image.open(tmp_path / "step-3" / f"{panel.name}.png"))
        assert np.array_equal(picture, panel.picture)
        assert picture.shape[1] > 2 * 320 and picture.shape[0] > 160  # truth and prediction side by side, enlarged
    text = (tmp_path / "step-3/val-0001-1.txt").read_text().splitlines()
    assert text == [
        "val 1: strict",
        "truth: 1 object: 1 missed",
        "  1  screw  [missed]  bbox_2d 20.0 5.0 90.0 45.0",
        "prediction: no objects",
    ]


def test_the_worst_photo_comes_first_and_file_names_do_not_move(ask, tmp_path):
    screw, nut = (Annotation(Shape("bbox_2d", [x, 0, x + 8, 50]), f"part {x}") for x in (70, 90))
    right, none, misses_one, misses_two = record(PLATE), record(), record(PLATE, screw), record(PLATE, screw, nut)
    # errors and F1: 0 and 1; 1 and 0 (a false alarm); 1 and 2/3; 2 and 1/2; then a second photo like the third
    items, predictions = ask([right, none, misses_one, misses_two, misses_one], FOUND)
    panels = write_panels(tmp_path, "val", items, predictions)
    assert [panel.prediction.index for panel in panels] == [3, 1, 2, 4, 0]
    assert [panel.comparison.errors for panel in panels] == [2, 1, 1, 1, 0]
    assert {path.stem for path in tmp_path.glob("val-*.png")} == {f"val-000{index}" for index in range(5)}
    sheet = np.asarray(Image.open(tmp_path / "sheet-val.png"))
    pictures = [np.asarray(Image.open(tmp_path / f"val-{index:04d}.png")) for index in (3, 1, 2, 4, 0)]
    small = [resize(picture, SHEET_PX / picture.shape[1]) for picture in pictures]
    assert np.array_equal(sheet, grid(small, columns=2))


def test_items_without_an_answer_have_no_picture(ask, tmp_path):
    items, predictions = ask([record(PLATE), record(PLATE)])
    assert [panel.name for panel in write_panels(tmp_path, "val", items, predictions[1:])] == ["val-0001"]
    assert write_panels(tmp_path / "other", "other", items, predictions) == []
    assert not (tmp_path / "other").exists()


def test_each_photo_shows_its_own_objects_and_no_other_photos(ask):
    def panels(*notes):
        one = record(*notes, photos=2)
        return [panel.picture for panel in draw_panels(one, ask([one])[1][0])]

    both, first, second = panels(PLATE, SECOND), panels(PLATE), panels(SECOND)
    assert np.array_equal(both[0], first[0]) and np.array_equal(both[1], second[1])
    assert not np.array_equal(both[0], second[0]) and not np.array_equal(both[1], first[1])


def test_the_prediction_is_drawn_beside_the_truth(ask):
    one = record(PLATE)
    (empty,), (right,) = (draw_panels(one, ask([one], text)[1][0]) for text in ("{}", FOUND))
    assert [panel.comparison.errors for panel in (empty, right)] == [1, 0]
    empty, right = empty.picture, right.picture
    assert empty.shape[1] == right.shape[1]
    half, height = right.shape[1] // 2, min(empty.shape[0], right.shape[0])
    assert not np.array_equal(empty[:height, half:], right[:height, half:])
