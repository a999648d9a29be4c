"""Copies of objects: what is copied, to where, and that pixels and annotations agree."""

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcvl.geometry.overlap import coverage, iou
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample
from tests.augment.ops import compose, op

KEY = (0, 0, 0)
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOX = ("bbox_2d", [100, 80, 140, 100])
QUAD = ("quad", [200, 50, 230, 60, 220, 90, 190, 80])
LINE = ("line", [10, 150, 290, 180])
POLY = ("poly", [20, 20, 60, 20, 40, 50])
SIZE = (300, 200)


def pasting(**changes):
    return compose(paste=op("copy_paste", **{"blend_px": 0.0} | changes))


def test_a_copy_has_the_pixels_the_desc_and_the_shape_of_its_object(make_sample):
    sample = make_sample(BOX, size=SIZE, descs=["BBU设备"])
    out = pasting()(sample, KEY)
    assert out.kept_indices == (0, 0) and out.coverages == (1.0, 1.0)
    assert [note.desc for note in out.annotations] == ["BBU设备"] * 2
    (copy,) = [note.shape for note in out.annotations if note.shape != sample.annotations[0].shape]
    x1, y1, x2, y2 = map(int, copy.bounds)
    assert (x2 - x1, y2 - y1) == (40, 20)
    assert np.array_equal(out.images[0][y1:y2, x1:x2], sample.images[0][80:100, 100:140])
    elsewhere = out.images[0].copy()
    elsewhere[y1:y2, x1:x2] = sample.images[0][y1:y2, x1:x2]
    assert np.array_equal(elsewhere, sample.images[0])
    assert (out.telemetry["paste/applied"], out.telemetry["objects/dropped"]) == (1, 0)


@FEW
@given(seed=st.integers(0, 10**6))
def test_no_copy_covers_more_of_another_object_than_the_limit(make_sample, seed):
    sample = make_sample(BOX, QUAD, LINE, POLY, size=SIZE)
    out = pasting(max_overlap=0.1)(sample, (seed, 0, 0))
    old = [note.shape for note in sample.annotations]
    copies = [note.shape for note in out.annotations if note.shape not in old]
    assert len(copies) == out.telemetry.get("paste/applied", 0)
    for copy in copies:
        x1, y1, x2, y2 = copy.bounds
        assert min(x1, y1) >= 0 and x2 <= 300 and y2 <= 200
        assert all(coverage(shape, copy.bounds) <= 0.1 and iou(shape, copy) <= 0.1 for shape in old)


def test_lines_and_polygons_are_never_copied(make_sample):
    sample = make_sample(LINE, POLY, size=SIZE)
    assert pasting()(sample, KEY).telemetry["paste/no_object"] == 1


def test_an_object_that_carries_others_is_not_copied_but_those_on_it_are(make_sample):
    cabinet = ("bbox_2d", [50, 40, 260, 160])
    sample = make_sample(cabinet, BOX, size=SIZE, descs=["cabinet", "fan"])
    for index in range(20):
        out = pasting()(sample, (0, 0, index))
        assert sorted(note.desc for note in out.annotations) == ["cabinet", "fan", "fan"]


def test_an_object_that_is_not_whole_in_the_frame_is_not_copied(make_sample):
    beyond = make_sample(("bbox_2d", [-10, 80, 40, 100]), size=SIZE)
    assert pasting()(beyond, KEY).telemetry["paste/no_object"] == 1
    pushed = compose(zoom=op("scale", min_scale=3.0, max_scale=3.0), paste=op("copy_paste"))
    cut = pushed(make_sample(("bbox_2d", [90, 80, 150, 120]), size=SIZE), KEY)
    assert cut.telemetry["paste/no_object"] == 1


def test_a_photo_that_is_full_gets_no_copy(make_sample):
    full = make_sample(("bbox_2d", [0, 0, 300, 200]), size=SIZE)
    out = pasting()(full, KEY)
    assert out.telemetry["paste/no_place"] == 1 and out.images[0] is full.images[0]


@pytest.mark.parametrize(("task", "reason"), [("summary", "adds_object"), ("chat", "chat_text")])
def test_only_dense_samples_get_copies(make_sample, task, reason):
    sample = make_sample(BOX, size=SIZE, task=task, summary="one part")
    out = pasting()(sample, KEY)
    assert out.telemetry[f"paste/{reason}"] == 1 and out.images[0] is sample.images[0]


def test_edges_fade_over_the_given_distance(make_sample):
    black = np.zeros((200, 300, 3), np.uint8)
    black[80:100, 100:140] = 240
    sample = Sample(images=(black,), annotations=(Annotation(Shape(*BOX), "x"),), task="dense")
    out = pasting(blend_px=4.0)(sample, KEY)
    (copy,) = [note.shape for note in out.annotations if note.shape != sample.annotations[0].shape]
    x1, y1, x2, y2 = map(int, copy.bounds)
    assert out.images[0][y1 + 10, x1 : x1 + 6, 0].tolist() == [60, 120, 180, 240, 240, 240]
    assert out.images[0][y2 - 1, x1 + 20, 0] == 60 and out.images[0][y2, x1 + 20, 0] == 0


def test_the_object_is_copied_only_in_its_own_photo(make_sample):
    sample = make_sample(BOX, images=[1], photos=2, size=SIZE)
    out = compose(paste=op("copy_paste"), share_draw=True)(sample, KEY)
    assert np.array_equal(out.images[0], sample.images[0])
    assert not np.array_equal(out.images[1], sample.images[1])
    assert [note.image for note in out.annotations] == [1, 1]


def test_a_copy_can_be_cropped_and_flipped_like_its_object(make_sample):
    sample = make_sample(BOX, size=SIZE)
    ops = {"paste": op("copy_paste"), "flip": op("hflip"), "pad": op("pad_to_multiple", multiple=64)}
    out = compose(**ops)(sample, KEY)
    alone = compose(paste=ops["paste"])(sample, KEY)
    mirrored = {(300 - n.shape.bounds[2], 300 - n.shape.bounds[0]) for n in alone.annotations}
    assert {(n.shape.bounds[0], n.shape.bounds[2]) for n in out.annotations} == mirrored


@FEW
@given(seed=st.integers(0, 10**6))
def test_after_waiting_moves_the_copys_outline_is_where_its_pixels_are(seed):
    x, y = np.meshgrid(np.arange(300) + 0.5, np.arange(200) + 0.5)
    image = np.repeat(shapely.contains_xy(shapely.Polygon(Shape(*QUAD).points), x, y)[..., None] * np.uint8(255), 3, 2)
    sample = Sample(images=(image,), annotations=(Annotation(Shape(*QUAD), "x"),), task="dense")
    ops = {"turn": op("rotate", max_rotation_degrees=20.0), "paste": op("copy_paste", blend_px=0.0)}
    out = compose(**ops, fill=0)(sample, (seed, 0, 0))
    drawn = np.zeros((200, 300), dtype=bool)
    for note in out.annotations:
        drawn |= shapely.contains_xy(shapely.Polygon(note.shape.outline), x, y)
    white = out.images[0][..., 0] > 127
    assert len(out.annotations) == 1 + out.telemetry.get("paste/applied", 0)
    assert (white & drawn).sum() / (white | drawn).sum() > 0.93
