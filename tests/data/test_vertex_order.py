"""Sources whose shapes keep the order of their points: in answers, and through every augmentation."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from qcvl.augment.view import Tracked
from qcvl.data.chat import IGNORE
from qcvl.errors import ConfigError
from qcvl.geometry.affine import hflip_matrix, transform_shape
from qcvl.geometry.norm import canonical, ordered_like, signed_area
from qcvl.geometry.shapes import Shape
from qcvl.models.text import decoded
from qcvl.schema.answer import parse_answer
from qcvl.schema.types import Annotation, Sample
from tests.augment.ops import compose, op, plain_crop

SIZE = (100, 80)
TURNED = [70.0, 60, 30, 60, 30, 40, 70, 40]  # a text upside down: it starts at its bottom right corner
SHAPES = {"quad": TURNED, "line": [90, 10, 50, 12, 10, 10], "poly": [80, 70, 20, 70, 20, 65, 50, 62, 80, 65]}

angles = st.lists(st.integers(0, 359), min_size=3, max_size=8, unique=True).map(sorted)


@given(angles, st.booleans(), st.integers(0, 7))
def test_a_ring_written_from_any_vertex_in_any_direction_is_put_in_the_order_of_the_whole(degrees, reverse, turn):
    whole = 100 + 50 * np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    assume(abs(signed_area(whole)) > 1)
    written = np.roll(whole[::-1] if reverse else whole, turn, axis=0)
    np.testing.assert_array_equal(ordered_like(written, whole), whole)


@pytest.fixture
def texts(make_data, make_datamodule, tmp_path):
    """``texts(augment, keep_vertex_order=…)``: the training samples of one photo with a quad, a line and a polygon."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)).save(tmp_path / "a.png")
    objects = [{kind: numbers, "desc": kind} for kind, numbers in SHAPES.items()]
    (tmp_path / "a.jsonl").write_text(json.dumps({"images": ["a.png"], "objects": objects}) + "\n")

    def make(augment=None, **changes):
        path = {"signs": str(tmp_path / "a.jsonl")}
        return make_datamodule(data=make_data(**{"train": path, "sampling": "dense"} | changes), augment=augment)

    return make


def answered(dataset) -> dict[str, np.ndarray]:
    """The points of each object in the answer that is trained, in pixels."""
    labels = dataset[(0, 0)].labels
    text = decoded(dataset.encoder.processing, labels[labels != IGNORE][:-1].tolist())
    answer = parse_answer(text, SIZE, answer_format=dataset.encoder.answer_format)
    return {note.desc: note.shape.points for note in answer.annotations}


@pytest.mark.parametrize("flip", [False, True])
def test_points_keep_their_order_in_the_answer_of_a_source_that_says_so_and_no_other(texts, flip):
    augment = compose(flip=op("hflip", word_pairs=[])) if flip else None
    matrix = hflip_matrix(SIZE[0]) if flip else np.eye(3)
    kept = answered(texts(augment, keep_vertex_order=["signs"]).train_dataset())
    usual = answered(texts(augment).train_dataset())
    for kind, numbers in SHAPES.items():
        shown = transform_shape(Shape(kind, numbers), matrix)
        np.testing.assert_allclose(kept[kind], shown.points, atol=0.06)  # half a cell of a grid of 1000
        np.testing.assert_allclose(usual[kind], canonical(shown).points, atol=0.06)
    assert not np.allclose(kept["quad"], usual["quad"])


def test_a_validation_source_keeps_its_order_too(texts, tmp_path):
    val = {"signs": str(tmp_path / "a.jsonl"), "others": str(tmp_path / "a.jsonl")}
    signs, others = texts(train=None, val=val, keep_vertex_order=["signs"]).val_dataloader()
    assert next(iter(signs))["labels"].tolist() != next(iter(others))["labels"].tolist()


def test_a_name_that_is_no_source_is_refused(make_data):
    with pytest.raises(ConfigError, match=r"keep_vertex_order: 'sing' is not a source of data.train or data.val \(zh,"):
        make_data(keep_vertex_order=["sing"])


@given(st.integers(0, 200), st.sampled_from(["quad", "poly"]), st.booleans(), st.booleans())
def test_what_a_cut_leaves_goes_on_where_the_whole_shape_started(seed, kind, mirrored, reverse):
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, 4 if kind == "quad" else 6))
    points = 50 + 45 * np.stack([np.cos(angles), np.sin(angles)], axis=1)[:: -1 if reverse else 1]
    assume(abs(signed_area(points)) > 400)

    def varied(keep: bool) -> list[np.ndarray]:
        photo = np.zeros((100, 100, 3), np.uint8)
        sample = Sample(
            images=(photo,), annotations=(Annotation(Shape(kind, points), "x"),), task="dense", keep_vertex_order=keep
        )
        flip = {"flip": op("hflip", word_pairs=[])} if mirrored else {}
        crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.1)
        return [note.shape.points for note in compose(**flip, crop=crop)(sample, (seed, 0, 0)).annotations]

    for kept, usual in zip(varied(True), varied(False), strict=True):
        assert sorted(kept.tolist()) == sorted(usual.tolist())  # the same vertices
        direction = signed_area(points) * (-1 if mirrored else 1)
        assert signed_area(kept) * direction > 0


def test_a_text_cut_short_still_starts_at_its_own_end():
    upside_down = Shape("quad", [90, 50, 10, 50, 10, 10, 90, 10])
    for ordered, expected in [(True, [80, 50, 10, 50, 10, 10, 80, 10]), (False, [10, 10, 80, 10, 80, 50, 10, 50])]:
        tracked = Tracked.start(0, Annotation(upside_down, "text"), (0, 0, 100, 100), ordered=ordered)
        (left,) = tracked.carried(np.eye(3), (0, 0, 80, 100)).shapes(80, 100)
        assert left.points.ravel().tolist() == expected


def test_the_copy_of_a_text_is_read_as_the_text():
    photo = np.full((100, 200, 3), 128, np.uint8)
    text = Annotation(Shape("quad", [60, 50, 20, 50, 20, 30, 60, 30]), "text")
    sample = Sample(images=(photo,), annotations=(text,), task="dense", keep_vertex_order=True)
    pasted = compose(copy=op("copy_paste"))(sample, (0, 0, 0)).annotations
    assert len(pasted) == 2
    for note in pasted:
        np.testing.assert_allclose(note.shape.points - note.shape.points[0], text.shape.points - text.shape.points[0])
