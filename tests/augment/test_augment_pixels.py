"""Pixels and shapes move as one: exact where the grid allows it, by mask overlap where it does not."""

from dataclasses import dataclass

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcvl.augment.actions import Move
from qcvl.augment.warp import warp
from qcvl.geometry.affine import rotation_matrix, translation_matrix
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample
from tests.augment.ops import op, plain_crop

KEY = (0, 0, 0)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Turn:
    """A move by a fixed angle about the centre."""

    degrees: float

    def draw(self, view, rng):
        return Move(rotation_matrix(self.degrees, view.center))


@dataclass(frozen=True)
class Shift:
    """A move by a fixed number of pixels."""

    dx: float
    dy: float

    def draw(self, view, rng):
        return Move(translation_matrix(self.dx, self.dy))


def mask_of(shape, size):
    """Bool ``[H, W]``: pixels whose centre the outline holds, by shapely."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return shapely.contains_xy(shapely.Polygon(shape.outline), x, y)


def painted(kind, points, size):
    """A black photo with one shape filled white, as a dense sample."""
    shape = Shape(kind, points)
    image = np.repeat(mask_of(shape, size)[..., None] * np.uint8(255), 3, axis=2)
    return Sample(images=(image,), annotations=(Annotation(shape, "part"),), task="dense")


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("size", [(7, 5), (8, 6), (60, 41)])
def test_hflip_mirrors_every_pixel_exactly(make_pipeline, make_sample, size):
    sample = make_sample(size=size)
    out = make_pipeline(hflip=op("hflip"))(sample, KEY)
    assert np.array_equal(out.images[0], np.fliplr(sample.images[0]))


@pytest.mark.parametrize("size", [(7, 5), (8, 6), (60, 41)])
def test_vflip_mirrors_every_pixel_exactly(make_pipeline, make_sample, size):
    sample = make_sample(size=size)
    out = make_pipeline(vflip=op("vflip"))(sample, KEY)
    assert np.array_equal(out.images[0], np.flipud(sample.images[0]))


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (7, 4), (60, 41)])
def test_a_quarter_turn_with_expand_to_fit_moves_every_pixel_exactly(make_pipeline, make_sample, size):
    height = size[1]
    sample = make_sample(("bbox_2d", [1, 0, 3, 2]), size=size)
    out = make_pipeline(turn=Turn(90), expand=op("expand_to_fit_affine", multiple=1))(sample, KEY)
    assert np.array_equal(out.images[0], np.rot90(sample.images[0], k=-1))  # clockwise on screen
    assert out.annotations[0].shape == Shape("bbox_2d", [height - 2, 1, height, 3])  # (x, y) -> (H - y, x)


def test_a_quarter_turn_of_a_square_photo_needs_no_barrier(make_pipeline, make_sample):
    sample = make_sample(size=(9, 9))
    out = make_pipeline(turn=Turn(-90))(sample, KEY)
    assert np.array_equal(out.images[0], np.rot90(sample.images[0]))


def test_four_quarter_turns_leave_the_sample_as_it_was(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 60, 40]), ("line", [5, 5, 50, 30]))
    out = make_pipeline(order=["turn"] * 4, turn=Turn(90))(sample, KEY)
    assert np.array_equal(out.images[0], sample.images[0])
    assert out.annotations == sample.annotations


def test_a_whole_pixel_shift_fills_the_uncovered_part_with_mid_grey(make_pipeline, make_sample):
    sample = make_sample(size=(10, 8))
    out = make_pipeline(shift=Shift(3, 2))(sample, KEY)
    expected = np.full((8, 10, 3), 128, dtype=np.uint8)
    expected[2:, 3:] = sample.images[0][:6, :7]
    assert np.array_equal(out.images[0], expected)


def test_pad_to_multiple_fills_right_and_bottom_and_keeps_pixels_and_coordinates(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [3.25, 4.5, 60, 40]), size=(60, 40))
    out = make_pipeline(pad=op("pad_to_multiple", multiple=32))(sample, KEY)
    assert out.size() == (64, 64)
    assert np.array_equal(out.images[0][:40, :60], sample.images[0])
    assert (out.images[0][40:] == 128).all()
    assert (out.images[0][:, 60:] == 128).all()
    assert out.annotations == sample.annotations


def test_pad_after_a_rotation_shows_no_photo_beyond_the_rotated_canvas(make_pipeline, make_sample):
    sample = make_sample(size=(60, 40))
    turned = make_pipeline(turn=Turn(30))(sample, KEY)
    out = make_pipeline(turn=Turn(30), pad=op("pad_to_multiple", multiple=32))(sample, KEY)
    assert np.array_equal(out.images[0][:40, :60], turned.images[0])
    assert (out.images[0][40:] == 128).all()
    assert (out.images[0][:, 60:] == 128).all()


def test_crop_cuts_whole_pixels_exactly(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 60, 40]))
    crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.1, min_objects=1)
    out = make_pipeline(crop=crop)(sample, KEY)
    windows = np.lib.stride_tricks.sliding_window_view(sample.images[0], (20, 30), axis=(0, 1))
    same = (windows == out.images[0].transpose(2, 0, 1)).all(axis=(2, 3, 4))
    assert same.sum() == 1
    assert out.annotations[0].shape == Shape("bbox_2d", [0, 0, 30, 20])
    assert out.coverages == (0.25,)


def test_every_window_of_a_crop_can_come_up(make_pipeline, make_sample):
    sample = make_sample(size=(4, 2))
    crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.3, min_objects=0)
    seen = {make_pipeline(crop=crop)(sample, (0, 0, index)).images[0].tobytes() for index in range(100)}
    assert seen == {sample.images[0][y : y + 1, x : x + 2].tobytes() for x in range(3) for y in range(2)}


def test_crop_after_rotation_equals_cropping_the_rotated_photo(make_pipeline, make_sample):
    sample = make_sample(size=(60, 40))
    crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.3, min_objects=0)
    one_warp = make_pipeline(turn=Turn(20), crop=crop)(sample, KEY)
    turned = make_pipeline(turn=Turn(20))(sample, KEY)
    two_steps = make_pipeline(still=Turn(0), crop=crop)(turned, KEY)  # `still` keeps the crop at its position
    assert np.array_equal(one_warp.images[0], two_steps.images[0])


def test_warp_by_half_a_pixel_is_the_mean_of_neighbours():
    image = np.zeros((1, 4, 3), dtype=np.uint8)
    image[0, :, 0] = (0, 100, 200, 40)
    out = warp(image, translation_matrix(-0.5, 0), (3, 1), (0.0, 0.0, 3.0, 1.0), 128)
    assert out[0, :, 0].tolist() == [50, 150, 120]


SHAPES = [
    ("bbox_2d", [40, 30, 120, 90]),
    ("quad", [50, 30, 130, 50, 115, 100, 35, 80]),
    ("poly", [40, 25, 130, 25, 130, 55, 80, 55, 80, 100, 40, 100]),
]


@pytest.mark.parametrize(("kind", "points"), SHAPES)
@FEW
@given(seed=st.integers(0, 10**6))
def test_transform_then_draw_equals_draw_then_warp(make_pipeline, kind, points, seed):
    sample = painted(kind, points, (160, 120))
    pipeline = make_pipeline(
        hflip=op("hflip", p=0.5),
        vflip=op("vflip", p=0.5),
        rotate=op("rotate", max_rotation_degrees=180.0),
        scale=op("scale", min_scale=0.8, max_scale=1.5),
        expand=op("expand_to_fit_affine", multiple=1),
        pad=op("pad_to_multiple", multiple=32),
        fill=0,
    )
    out = pipeline(sample, (seed, 0, 0))
    (annotation,) = out.annotations
    assert overlap(out.images[0][..., 0] > 127, mask_of(annotation.shape, out.size())) > 0.97


@FEW
@given(seed=st.integers(0, 10**6))
def test_a_polygon_cut_by_rotation_and_crop_is_what_the_pixels_show(make_pipeline, seed):
    sample = painted(*SHAPES[2], (160, 120))
    pipeline = make_pipeline(
        rotate=op("rotate", max_rotation_degrees=45.0),
        crop=plain_crop(min_scale=0.6, max_scale=0.8, min_coverage=0.3, min_objects=1),
        again=op("rotate", max_rotation_degrees=45.0),
        fill=0,
        min_coverage=0.0,
    )
    out = pipeline(sample, (seed, 0, 0))
    drawn = np.zeros(out.images[0].shape[:2], dtype=bool)
    for annotation in out.annotations:
        drawn |= mask_of(annotation.shape, out.size())
    assert overlap(out.images[0][..., 0] > 127, drawn) > 0.97


@FEW
@given(seed=st.integers(0, 10**6))
def test_coverage_over_two_crops_is_the_share_of_the_original_area(make_pipeline, seed):
    sample = painted("bbox_2d", [20, 20, 140, 100], (160, 120))
    crop = plain_crop(min_scale=0.6, max_scale=0.9, min_coverage=0.0, min_objects=1)
    out = make_pipeline(first=crop, flip=op("hflip", p=0.5), second=crop, min_coverage=0.0)(sample, (seed, 0, 0))
    white = (out.images[0][..., 0] > 127).sum()  # crops are at whole pixels, so counting them is exact
    assert out.coverages == pytest.approx((white / (120 * 80),))
