"""Which windows the crops keep."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcvl.augment.view import view_of
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation
from tests.augment.ops import compose, op, plain_crop

KEY = (0, 0, 0)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOX, QUAD = ("bbox_2d", [100, 80, 140, 100]), ("quad", [200, 50, 230, 60, 220, 90, 190, 80])
LINE = ("line", [10, 150, 290, 180])


def view(*shapes, size=(300, 200), descs=None):
    notes = [
        Annotation(Shape(kind, points), desc) for (kind, points), desc in zip(shapes, descs or "abc", strict=False)
    ]
    return view_of(enumerate(notes), size, "dense")


def windows(crop, count=200, of=None):
    """Windows ``[count, 4]`` drawn one by one."""
    drawn = [crop.draw(of or view(BOX), np.random.default_rng(index)) for index in range(count)]
    return np.array([action.window for action in drawn])


def sides(found):
    return found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]


def test_a_random_crops_aspect_is_that_of_the_photo_times_a_factor_of_the_range():
    found = windows(plain_crop(min_scale=0.5, max_scale=0.5, min_aspect=0.8, max_aspect=1.25, min_objects=0))
    width, height = sides(found)
    factors = (width / height) / 1.5
    assert 0.79 < factors.min() < 0.83 and 1.2 < factors.max() < 1.27
    assert abs(np.log(factors).mean()) < 4 * (2 * np.log(1.25)) / np.sqrt(12 * 200)  # as often wider as higher
    assert np.allclose(width * height, 0.25 * 300 * 200, rtol=0.02)  # the scale is that of the area's root


def test_a_window_never_reaches_beyond_the_photo():
    found = windows(plain_crop(min_scale=0.9, max_scale=1.0, min_aspect=0.5, max_aspect=2.0, min_objects=0))
    assert (found[:, :2] >= 0).all() and (found[:, 2] <= 300).all() and (found[:, 3] <= 200).all()


@pytest.mark.parametrize(("skip", "reason"), [(True, "has_line"), (False, None)])
def test_a_photo_with_a_line_is_cropped_only_when_asked_to(make_sample, skip, reason):
    sample = make_sample(BOX, LINE, size=(300, 200))
    out = compose(crop=plain_crop(skip_if_line=skip, min_scale=0.9, max_scale=0.9))(sample, KEY)
    assert out.telemetry.get("crop/has_line", 0) == (1 if reason else 0)
    assert (out.images[0] is sample.images[0]) == skip
    without = compose(crop=plain_crop(skip_if_line=skip, min_scale=0.9, max_scale=0.9))
    assert without(make_sample(BOX, size=(300, 200)), KEY).telemetry["crop/applied"] == 1


def test_a_roi_crop_holds_the_object_whole_and_has_the_wanted_size():
    crop = op("roi_crop", classes=[], min_scale=1.5, max_scale=3.0, min_size_px=1)
    found = windows(crop)
    assert (found[:, 0] <= 100).all() and (found[:, 2] >= 140).all()
    assert (found[:, 1] <= 80).all() and (found[:, 3] >= 100).all()
    width, height = sides(found)
    assert 59 <= width.min() < 65 and 115 < width.max() <= 120
    assert np.abs(width / height - 2).max() < 0.1  # the object's own aspect, in whole pixels
    assert len(np.unique(found[:, 0])) > 20  # the object lies anywhere inside


def test_a_roi_crop_has_at_least_the_least_size_and_at_most_the_photos():
    width, height = sides(windows(op("roi_crop", classes=[], min_scale=1.0, max_scale=1.0, min_size_px=128), 20))
    assert set(width) == set(height) == {128}
    width, height = sides(windows(op("roi_crop", classes=[], min_scale=9.0, max_scale=9.0, min_size_px=128), 20))
    assert set(width) == {300} and set(height) == {180}


def test_a_roi_crop_is_around_objects_of_the_chosen_classes_alone():
    descs = ["BBU设备/品牌:华为,显示完整", "螺丝/品牌:中兴", "BBU设备柜"]
    seen = view(BOX, QUAD, LINE, descs=descs)
    crop = op("roi_crop", classes=["BBU设备", "中兴"], min_scale=1.0, max_scale=1.0, min_size_px=1)
    found = {tuple(window) for window in windows(crop, 60, seen)}
    assert found == {(100, 80, 140, 100), (190, 50, 230, 90)}  # never the line, whose token is another
    nothing = op("roi_crop", classes=["BBU"]).draw(seen, np.random.default_rng(0))
    assert nothing.reason == "no_object"


def test_an_object_that_waiting_moves_pushed_out_is_no_place_for_a_crop(make_sample):
    sample = make_sample(("bbox_2d", [250, 80, 290, 100]), size=(300, 200))
    away = op("scale", min_scale=4.0, max_scale=4.0)
    out = compose(zoom=away, crop=op("roi_crop"))(sample, KEY)
    assert out.telemetry["crop/no_object"] == 1


@FEW
@given(seed=st.integers(0, 10**6))
def test_after_a_rotation_the_roi_crop_still_holds_all_that_showed(make_sample, seed):
    sample = make_sample(QUAD, size=(300, 200))
    ops = {"rotate": op("rotate", max_rotation_degrees=20.0)}
    crop = op("roi_crop", min_scale=1.0, max_scale=2.0, min_size_px=1)
    out = compose(**ops, crop=crop)(sample, (seed, 0, 0))
    assert out.coverages == (1.0,) and out.telemetry["crop/applied"] == 1


def test_a_center_crop_keeps_the_middle(make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 300, 200]), size=(300, 200))
    out = compose(crop=op("center_crop", scale=0.5))(sample, KEY)
    assert np.array_equal(out.images[0], sample.images[0][50:150, 75:225])
    assert out.coverages == () and out.telemetry["objects/dropped"] == 1  # a quarter is below .3
    assert compose(crop=op("center_crop", scale=0.5, min_coverage=0.2))(sample, KEY).coverages == (0.25,)


def test_a_center_crop_of_all_keeps_all(make_sample):
    sample = make_sample(BOX, size=(301, 201))
    out = compose(crop=op("center_crop", scale=1.0))(sample, KEY)
    assert np.array_equal(out.images[0], sample.images[0]) and out.annotations == sample.annotations
