"""Pictures of answers: one a photo, with that photo's objects."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.data.datamodule import EvaluationItem
from qcvl.geometry.shapes import Shape
from qcvl.inference.evaluator import predict
from qcvl.inference.panels import draw_panels, write_panels
from qcvl.inference.predictor import Reply
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
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


def test_one_picture_is_written_for_each_photo_of_a_dense_answer(ask, tmp_path):
    items, predictions = ask([record(PLATE), record(PLATE, SECOND, photos=2)], tasks=("dense", "summary"))
    paths = write_panels(tmp_path / "step-3", "val", items, predictions)
    assert [path.name for path in paths] == ["val-0000.png", "val-0001-0.png", "val-0001-1.png"]
    assert sorted((tmp_path / "step-3").glob("*.png")) == sorted(paths)
    for path in paths:
        with Image.open(path) as image:
            assert image.width > 2 * 320 and image.height > 160  # truth and prediction side by side, enlarged


def test_items_without_an_answer_have_no_picture(ask, tmp_path):
    items, predictions = ask([record(PLATE), record(PLATE)])
    assert [path.name for path in write_panels(tmp_path, "val", items, predictions[1:])] == ["val-0001.png"]
    assert write_panels(tmp_path, "other", items, predictions) == []


def test_each_photo_shows_its_own_objects_and_no_other_photos(ask):
    def panels(*notes):
        one = record(*notes, photos=2)
        return draw_panels(one, ask([one])[1][0])

    both, first, second = panels(PLATE, SECOND), panels(PLATE), panels(SECOND)
    assert np.array_equal(both[0], first[0]) and np.array_equal(both[1], second[1])
    assert not np.array_equal(both[0], second[0]) and not np.array_equal(both[1], first[1])


def test_the_prediction_is_drawn_beside_the_truth(ask):
    one = record(PLATE)
    found = json.dumps({"object_1": {"bbox_2d": [100, 200, 600, 800], "desc": "plate"}})
    empty, right = draw_panels(one, ask([one])[1][0])[0], draw_panels(one, ask([one], found)[1][0])[0]
    assert empty.shape[1] == right.shape[1]
    half, height = right.shape[1] // 2, min(empty.shape[0], right.shape[0])
    assert not np.array_equal(empty[:height, half:], right[:height, half:])
