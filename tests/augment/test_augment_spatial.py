"""Shears, shifts and new canvases: exact where the grid allows it, else by what the pixels show."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qcvl.augment.actions import Move
from qcvl.augment.spatial import ExpandToFitAffine
from qcvl.augment.view import view_of
from qcvl.errors import ConfigError
from qcvl.geometry.affine import apply_affine, shear_matrix
from qcvl.geometry.grid import to_grid
from qcvl.geometry.shapes import Shape
from tests.augment.ops import compose, op, plain_crop
from tests.augment.test_augment_pixels import FEW, SHAPES, mask_of, overlap, painted

KEY = (0, 0, 0)


def drawn(op, count=300, size=(200, 100)):
    """The actions of that many draws."""
    view = view_of([], size, "dense")
    return [op.draw(view, np.random.default_rng(index)) for index in range(count)]


def test_a_shear_leans_by_up_to_its_degrees_and_keeps_the_centre():
    matrices = np.array([action.matrix for action in drawn(op("shear", max_x_degrees=10.0, max_y_degrees=4.0))])
    x, y = np.degrees(np.arctan(matrices[:, 0, 1])), np.degrees(np.arctan(matrices[:, 1, 0]))
    for angles, limit in ((x, 10.0), (y, 4.0)):
        assert np.abs(angles).max() <= limit and angles.min() < -0.9 * limit and angles.max() > 0.9 * limit
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2
    assert all(np.allclose(apply_affine([[100, 50]], matrix), [[100, 50]]) for matrix in matrices)


def test_a_shift_is_whole_pixels_up_to_a_share_of_each_side():
    matrices = np.array([action.matrix for action in drawn(op("translate", max_x_share=0.1, max_y_share=0.2))])
    shifts = matrices[:, :2, 2]
    assert np.array_equal(shifts, shifts.round()) and np.abs(shifts).max(axis=0).tolist() == [20, 20]
    assert np.array_equal(matrices[:, :2, :2], np.broadcast_to(np.eye(2), (300, 2, 2)))


def test_a_shift_moves_pixels_and_shapes_without_interpolation(make_sample):
    sample = make_sample(("bbox_2d", [20, 10, 40, 30]))
    for index in range(20):
        out = compose(shift=op("translate"), fill=7)(sample, (0, 0, index))
        if not out.annotations:
            continue
        dx, dy = out.annotations[0].shape.points[0] - (20, 10)
        expected = np.full_like(sample.images[0], 7)
        left, top = max(int(dx), 0), max(int(dy), 0)
        shown = sample.images[0][max(-int(dy), 0) : 40 - top, max(-int(dx), 0) : 60 - left]
        expected[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        assert np.array_equal(out.images[0], expected)


@pytest.mark.parametrize("field", ["max_x_degrees", "max_y_degrees"])
def test_a_shear_that_could_flatten_the_photo_is_refused(field):
    with pytest.raises(ValidationError, match="less than or equal to 40"):
        op("shear", **{field: 50.0})


@given(st.floats(1, 3000), st.floats(1, 3000), st.sampled_from([1, 14, 28, 32, 64]), st.integers(4096, 3_000_000))
def test_an_expanded_canvas_is_of_multiples_within_the_budget_and_holds_the_photo(width, height, multiple, budget):
    canvas, scale = ExpandToFitAffine(multiple=multiple, max_pixels=budget)._canvas(width, height)
    assert canvas[0] % multiple == canvas[1] % multiple == 0
    assert canvas[0] * canvas[1] <= budget
    assert canvas[0] >= width * scale - 1e-5 and canvas[1] >= height * scale - 1e-5
    assert scale <= 1
    needed = (np.ceil((width - 1e-6) / multiple) * np.ceil((height - 1e-6) / multiple)) * multiple**2
    assert scale == 1 or needed > budget  # it shrinks only where it must


def test_a_canvas_above_the_budget_is_scaled_down_with_its_objects(make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 400, 300]), size=(400, 300))
    out = compose(expand=op("expand_to_fit_affine", multiple=1, max_pixels=30_000))(sample, KEY)
    assert out.size() == (200, 150)
    assert out.annotations[0].shape == Shape("bbox_2d", [0, 0, 200, 150]) and out.coverages == (1.0,)


def test_a_rotated_photo_is_whole_on_a_canvas_of_multiples(make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 60, 40]), size=(60, 40))
    ops = {"rotate": op("rotate", max_rotation_degrees=30.0), "expand": op("expand_to_fit_affine", multiple=32)}
    for index in range(10):
        out = compose(**ops)(sample, (0, 0, index))
        assert out.size()[0] % 32 == out.size()[1] % 32 == 0
        assert out.coverages == (1.0,)
        x1, y1, _, _ = out.annotations[0].shape.bounds
        assert max(x1, y1) < 1e-6  # what is left over lies on the right and at the bottom


def test_a_photo_that_fits_is_left_alone(make_sample):
    sample = make_sample(size=(64, 32))
    out = compose(expand=op("expand_to_fit_affine", multiple=32))(sample, KEY)
    assert out.images[0] is sample.images[0] and out.telemetry["expand/already_fits"] == 1


def test_a_budget_below_the_smallest_canvas_is_refused():
    with pytest.raises(ConfigError, match="max_pixels 1000 holds no canvas of 32x32"):
        op("expand_to_fit_affine", multiple=32, max_pixels=1000)


def test_a_resized_photo_has_sides_of_multiples_near_the_scale(make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 300, 200]), size=(300, 200))
    resize = op("resize_by_scale", min_scale=0.5, max_scale=1.5, align_multiple=32)
    sizes = np.array([compose(resize=resize)(sample, (0, 0, index)).size() for index in range(60)])
    assert (sizes % 32 == 0).all()
    assert sizes.min(axis=0).tolist() == [160, 96] and sizes.max(axis=0).tolist() == [448, 288]


def test_a_resize_by_a_whole_factor_repeats_pixels_and_scales_shapes(make_sample):
    sample = make_sample(("bbox_2d", [3, 5, 20, 30]), ("line", [0, 0, 60, 40]))
    out = compose(resize=op("resize_by_scale", min_scale=2.0, max_scale=2.0, align_multiple=1))(sample, KEY)
    assert out.size() == (120, 80)
    assert [n.shape.points.tolist() for n in out.annotations] == [[[0, 0], [120, 80]], [[6, 10], [40, 60]]]


def test_a_resize_to_the_same_size_is_skipped(make_sample):
    sample = make_sample(size=(64, 32))
    out = compose(resize=op("resize_by_scale", min_scale=0.9, max_scale=1.1, align_multiple=32))(sample, KEY)
    assert out.images[0] is sample.images[0] and out.telemetry["resize/same_size"] == 1


ALL = {
    "hflip": op("hflip", p=0.5, directional_text="swap"),
    "shear": op("shear", max_x_degrees=15.0, max_y_degrees=15.0),
    "shift": op("translate"),
    "expand": op("expand_to_fit_affine", multiple=32, max_pixels=20_000),
    "rotate": op("rotate", max_rotation_degrees=30.0),
    "resize": op("resize_by_scale", min_scale=0.8, max_scale=1.4),
    "center": op("center_crop", scale=0.95, min_coverage=0.05),
    "crop": plain_crop(min_scale=0.8, max_scale=1.0, min_aspect=0.8, max_aspect=1.25, min_coverage=0.05),
    "roi": op("roi_crop", min_scale=1.5, max_scale=3.0, min_size_px=96, min_coverage=0.05),
}


@pytest.mark.parametrize(("kind", "points"), SHAPES)
@FEW
@given(seed=st.integers(0, 10**6))
def test_transform_then_draw_equals_draw_then_warp_through_all_new_ops(kind, points, seed):
    outline = Shape(kind, points).outline  # as a polygon: a cut quad would become the rectangle around what shows
    out = compose(**ALL, fill=0, min_coverage=0.0)(painted("poly", outline, (160, 120)), (seed, 0, 0))
    shown = np.zeros(out.images[0].shape[:2], dtype=bool)
    for note in out.annotations:
        shown |= mask_of(note.shape, out.size())
    assert overlap(out.images[0][..., 0] > 127, shown) > 0.93


@FEW
@given(seed=st.integers(0, 10**6), epoch=st.integers(0, 5), index=st.integers(0, 1000))
def test_a_sample_is_a_pure_function_of_seed_epoch_and_index(make_sample, seed, epoch, index):
    sample = make_sample(("bbox_2d", [40, 30, 90, 60]), ("quad", [100, 50, 130, 55, 128, 80, 98, 75]), size=(160, 120))
    ops = ALL | {"paste": op("copy_paste"), "noise": op("noise"), "blur": op("blur"), "jpeg": op("jpeg")}
    first = compose(**ops)(sample, (seed, epoch, index))
    compose(**ops)(sample, (seed, epoch, index + 1))
    again = compose(**ops)(sample, (seed, epoch, index))
    assert np.array_equal(first.images[0], again.images[0])
    assert first.annotations == again.annotations and first.telemetry == again.telemetry


@dataclass(frozen=True)
class Fixed:
    """A move by a fixed matrix."""

    matrix: np.ndarray

    def draw(self, view, rng):
        return Move(self.matrix)


IDENTITIES = {
    "shear": op("shear", max_x_degrees=0.0, max_y_degrees=0.0),
    "shift": op("translate", max_x_share=0.0, max_y_share=0.0),
    "scale": op("scale", min_scale=1.0, max_scale=1.0),
    "rotate": op("rotate", max_rotation_degrees=0.0),
    "expand": op("expand_to_fit_affine", multiple=1),
    "resize": op("resize_by_scale", min_scale=1.0, max_scale=1.0, align_multiple=1),
    "center": op("center_crop", scale=1.0),
    "crop": plain_crop(min_scale=1.0, max_scale=1.0),
    "roi": op("roi_crop", min_scale=100.0, max_scale=100.0),
}


@FEW
@given(order=st.lists(st.sampled_from([*IDENTITIES, "hflip"]), max_size=12), width=st.integers(33, 90))
def test_a_box_at_the_frames_edge_reaches_1000_after_any_chain_of_identities(make_sample, order, width):
    order = order + ["hflip"] * (order.count("hflip") % 2)  # two mirrors are none
    sample = make_sample(("bbox_2d", [0, 0, width, 41]), ("bbox_2d", [3.25, 5, 20, 41]), size=(width, 41))
    out = compose(order=order, ops=IDENTITIES | {"hflip": op("hflip")})(sample, KEY)
    assert out.annotations == sample.annotations and np.array_equal(out.images[0], sample.images[0])
    assert to_grid(out.annotations[0].shape.points, out.size(), "norm1000").ravel().tolist() == [0, 0, 1000, 1000]


@FEW
@given(seed=st.integers(0, 10**6), turns=st.integers(1, 6))
def test_a_full_frame_box_stays_full_frame_through_shears_and_turns_undone(make_sample, seed, turns):
    """Rounding of matrices that undo each other only to 1e-13 never costs a grid cell."""
    rng = np.random.default_rng(seed)
    sample = make_sample(("bbox_2d", [0, 0, 61, 41]), size=(61, 41))
    pairs = [rng.uniform(-40, 40, 2) for _ in range(turns)]

    there = [shear_matrix(*pair, (30.5, 20.5)) for pair in pairs]
    back = [np.linalg.inv(matrix) for matrix in reversed(there)]
    ops = {f"op{number}": Fixed(matrix) for number, matrix in enumerate([*there, *back])}
    out = compose(ops=ops)(sample, KEY)
    (note,) = out.annotations
    x1, y1, x2, y2 = note.shape.bounds
    assert to_grid([[x1, y1], [x2, y2]], out.size(), "norm1000").ravel().tolist() == [0, 0, 1000, 1000]
    assert out.coverages == (1.0,)
