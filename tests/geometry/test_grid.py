"""The text grid: the rounding rule, the round-trip bound, and shapes that never collapse."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry import Shape, from_grid, grid_limits, settle_on_grid, signed_area, to_grid

norms = st.sampled_from(["norm1000", "norm100", "none"])
sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@st.composite
def placed(draw: st.DrawFn, count: int = 6) -> tuple[tuple[int, int], np.ndarray]:
    """An image size and points in its closed frame."""
    size = draw(sizes)
    share = st.floats(0, 1)
    points = draw(st.lists(st.tuples(share, share), min_size=count, max_size=count))
    return size, np.array(points) * size


@st.composite
def clustered(draw: st.DrawFn) -> tuple[tuple[int, int], np.ndarray]:
    """An image size and four points so close, or so well aligned, that most collapse on the grid."""
    size = draw(sizes)
    offset, spread = (
        draw(st.tuples(st.floats(-0.1, 1.1), st.floats(-0.1, 1.1))),
        draw(st.sampled_from([1e-4, 1e-3, 1e-2])),
    )
    steps = draw(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=4, max_size=4))
    return size, (np.array(offset) + np.array(steps) * spread) * size


def on_one_line(grid: np.ndarray) -> bool:
    return np.linalg.matrix_rank(grid - grid[0]) < 2


def test_the_frame_reaches_the_last_grid_line():
    assert to_grid([0, 0, 1920, 1080], (1920, 1080), "norm1000").tolist() == [[0, 0], [1000, 1000]]
    assert to_grid([0, 0, 1920, 1080], (1920, 1080), "norm100").tolist() == [[0, 0], [100, 100]]
    assert to_grid([0, 0, 1920, 1080], (1920, 1080), "none").tolist() == [[0, 0], [1920, 1080]]


def test_halves_round_up_and_the_outside_is_clamped():
    assert to_grid([0.5, 1.5, 2.4999, 700], (1000, 500), "norm1000").tolist() == [[1, 3], [2, 1000]]
    assert to_grid([0.5, 1.5, -3, 700], (640, 500), "none").tolist() == [[1, 2], [0, 500]]


@given(sizes, st.integers(-100, 6000), st.sampled_from([("norm1000", 1000), ("norm100", 100)]))
def test_the_rule_holds_in_exact_arithmetic(size, x, norm):
    name, limit = norm
    expected = [min(max(math.floor(Fraction(limit * x, side) + Fraction(1, 2)), 0), limit) for side in size]
    assert to_grid([x, x], size, name).tolist() == [expected]


@given(placed(), norms)
def test_the_round_trip_stays_within_half_a_cell(case, norm):
    size, points = case
    back = from_grid(to_grid(points, size, norm), size, norm)
    half_cell = np.array(size) / grid_limits(size, norm) / 2
    assert np.all(np.abs(back - points) <= half_cell * (1 + 1e-9))


@given(sizes, st.integers(0, 1000), st.integers(0, 1000))
def test_grid_points_survive_pixels_exactly(size, x, y):
    assert to_grid(from_grid([x, y], size, "norm1000"), size, "norm1000").tolist() == [[x, y]]


@pytest.mark.parametrize(("size", "norm", "found"), [((0, 5), "norm1000", "0 x 5"), ((5, 5), "auto", "'auto'")])
def test_an_empty_image_or_an_unresolved_norm_is_named(size, norm, found):
    with pytest.raises(ValueError, match=found):
        to_grid([1, 1], size, norm)


def test_a_thin_box_at_the_right_edge_opens_inwards():
    grid, degenerate = settle_on_grid(Shape("bbox_2d", [99.99, 10, 100, 50]), (100, 100), "norm1000")
    assert grid.tolist() == [[999, 100], [1000, 500]]
    assert degenerate


def test_a_thin_box_takes_the_cell_its_middle_lies_in():
    left, _ = settle_on_grid(Shape("bbox_2d", [49.96, 0, 49.98, 100]), (100, 100), "norm1000")
    right, _ = settle_on_grid(Shape("bbox_2d", [50.02, 0, 50.04, 100]), (100, 100), "norm1000")
    assert left[:, 0].tolist() == [499, 500]
    assert right[:, 0].tolist() == [500, 501]


def test_a_flat_quad_becomes_a_strip_and_a_dot_a_cell():
    strip, degenerate = settle_on_grid(Shape("quad", [0, 0, 90, 0.001, 90, 0.002, 0, 0.001]), (100, 100), "norm100")
    assert strip.tolist() == [[0, 0], [90, 0], [90, 1], [0, 1]]
    assert degenerate
    cell, _ = settle_on_grid(Shape("poly", [1, 1] * 5), (100, 100), "norm100")
    assert cell.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]


def test_a_level_line_is_no_collapse_but_a_dot_becomes_one_cell_long():
    level, degenerate = settle_on_grid(Shape("line", [0, 5, 50, 5]), (100, 100), "norm100")
    assert level.tolist() == [[0, 5], [50, 5]]
    assert not degenerate
    dot, degenerate = settle_on_grid(Shape("line", [3.1, 3, 3.2, 3.4]), (100, 100), "norm100")
    assert dot.tolist() == [[3, 3], [3, 4]]
    assert degenerate


@given(placed(4), norms, st.sampled_from(["bbox_2d", "quad", "poly", "line"]))
def test_a_shape_that_does_not_collapse_is_written_as_gridded(case, norm, kind):
    size, points = case
    shape = Shape(kind, points[:2] if kind == "bbox_2d" else points)
    grid, degenerate = settle_on_grid(shape, size, norm)
    if not degenerate:
        expected = to_grid(shape.points, size, norm)
        np.testing.assert_array_equal(grid, np.sort(expected, axis=0) if kind == "bbox_2d" else expected)


@given(clustered(), norms)
def test_a_settled_box_has_two_different_sides_inside_the_grid(case, norm):
    size, points = case
    grid, degenerate = settle_on_grid(Shape("bbox_2d", points[:2]), size, norm)
    (x1, y1), (x2, y2) = grid.tolist()
    limit_x, limit_y = grid_limits(size, norm)
    assert 0 <= x1 < x2 <= limit_x
    assert 0 <= y1 < y2 <= limit_y
    assert degenerate == bool(np.any(np.ptp(to_grid(points[:2], size, norm), axis=0) == 0))


@given(clustered(), norms, st.sampled_from(["quad", "poly", "line"]))
def test_a_settled_shape_keeps_its_dimension_inside_the_grid_and_near_itself(case, norm, kind):
    size, points = case
    grid, degenerate = settle_on_grid(Shape(kind, points), size, norm)
    plain, limits = to_grid(points, size, norm), np.array(grid_limits(size, norm))
    assert grid.dtype == np.int64
    assert np.all(grid >= 0)
    assert np.all(grid <= limits)
    assert np.all(np.abs(grid.min(axis=0) - plain.min(axis=0)) <= 1)
    assert np.all(np.abs(grid.max(axis=0) - plain.max(axis=0)) <= 1)
    if kind == "line":
        assert degenerate == bool(np.all(plain == plain[0]))
        assert np.ptp(grid, axis=0).max() >= 1
    else:
        assert degenerate == on_one_line(plain)
        assert not on_one_line(grid)
        assert kind == "poly" or len(grid) == 4
        assert not degenerate or signed_area(grid) > 0
