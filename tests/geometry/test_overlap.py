"""Overlap: exact cases, symmetry and invariance, and closed forms as the second method."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from qcvl.geometry import (
    Shape,
    apply_affine,
    buffered_line_iou,
    buffered_line_iou_matrix,
    clip_polygon_parts,
    coverage,
    hflip_matrix,
    iou,
    iou_matrix,
    rotation_matrix,
    signed_area,
)

coordinates = st.integers(0, 100 * 8).map(lambda n: n / 8)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])]
)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7).map(np.array)
SQUARE = [0, 0, 100, 0, 100, 100, 0, 100]


def box_iou(a: list[float], b: list[float]) -> float:
    """Closed form for axis-aligned boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def test_half_a_box_over_is_a_third():
    assert iou([0, 0, 100, 100], [50, 0, 150, 100]) == pytest.approx(1 / 3, abs=1e-15)


def test_a_diamond_in_its_square_is_a_half():
    assert iou(SQUARE, [50, 0, 100, 50, 50, 100, 0, 50]) == pytest.approx(0.5)


def test_every_way_to_write_a_box_is_the_same_box():
    ways = [
        [10, 20, 30, 40],
        [[10, 20], [30, 40]],
        Shape("bbox_2d", [10, 20, 30, 40]),
        [10, 20, 30, 20, 30, 40, 10, 40],
    ]
    np.testing.assert_array_equal(iou_matrix(ways, ways), np.ones((4, 4)))


def test_a_bow_tie_counts_as_its_two_triangles():
    assert iou(SQUARE, [0, 0, 100, 100, 100, 0, 0, 100]) == pytest.approx(0.5)


def test_what_a_ring_encloses_twice_counts_once():
    angles = -np.pi / 2 + 2 * np.pi * np.arange(5) / 5
    tips = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 50
    inner = -tips * (3 - 5**0.5) / 2  # the small pentagon where the sides of a pentagram cross
    outline = np.stack([tips, np.roll(inner, 2, axis=0)], axis=1).reshape(-1, 2)
    assert iou(tips[[0, 2, 4, 1, 3]], outline) == pytest.approx(1)


def test_a_crossing_ring_with_a_spike_is_its_area():
    bow_tie_with_spike = [0, 0, 100, 100, 150, 150, 100, 100, 100, 0, 0, 100]
    assert iou(SQUARE, bow_tie_with_spike) == pytest.approx(0.5)


def test_shapes_without_area_overlap_nothing():
    flat = [[10, 10, 10, 50], [0, 0, 50, 50, 100, 100], [[5, 5]] * 4, Shape("line", SQUARE)]
    np.testing.assert_array_equal(iou_matrix([*flat, SQUARE], flat), np.zeros((5, 4)))


def test_no_shapes_give_an_empty_matrix():
    assert iou_matrix([], [SQUARE]).shape == (0, 1)
    assert iou_matrix([SQUARE], []).shape == (1, 0)


def test_fewer_than_two_points_are_refused():
    with pytest.raises(ValueError, match="1 point"):
        iou([1, 2], SQUARE)


@given(st.lists(boxes, min_size=1, max_size=6), st.lists(boxes, min_size=1, max_size=6))
def test_box_iou_has_the_closed_form(first, second):
    expected = [[box_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(iou_matrix(first, second), expected, atol=1e-12)


@given(rings, rings)
def test_iou_is_symmetric_and_a_share(a, b):
    assert 0 <= iou(a, b) <= 1
    assert iou(a, b) == pytest.approx(iou(b, a), abs=1e-9)


@given(rings)
def test_a_shape_overlaps_itself_fully(ring):
    assume(abs(signed_area(ring)) > 1)
    assert iou(ring, ring[::-1]) == pytest.approx(1)


@given(rings, rings, st.floats(-180, 180))
def test_iou_does_not_change_under_flips_and_turns(a, b, degrees):
    assume(abs(signed_area(a)) > 1 and abs(signed_area(b)) > 1)
    matrix = rotation_matrix(degrees, (50, 50)) @ hflip_matrix(100)
    assert iou(apply_affine(a, matrix), apply_affine(b, matrix)) == pytest.approx(iou(a, b), abs=1e-6)


def test_half_a_quad_is_covered():
    assert coverage([0, 0, 100, 0, 100, 100, 0, 100], [50, 0, 150, 100]) == 0.5
    assert coverage([0, 0, 100, 100], [50, 0, 150, 100]) == 0.5


def test_coverage_of_a_line_is_the_share_of_its_length():
    hook = Shape("line", [0, 0, 60, 0, 60, 40])
    assert coverage(hook, [0, -5, 30, 5]) == pytest.approx(0.3)
    assert coverage(Shape("line", [0, 0, 10, 0, 0, 0]), [0, 0, 5, 5]) == pytest.approx(0.5)  # both ways count


def test_a_shape_without_area_is_covered_when_its_points_are():
    for kind in ("quad", "poly", "line"):
        dot = Shape(kind, [5, 5] * 4)
        assert coverage(dot, [0, 0, 10, 10]) == 1
        assert coverage(dot, [6, 0, 10, 10]) == 0
    assert coverage([5, 0, 5, 20], [0, 0, 10, 10]) == 0


@given(rings, st.floats(1, 99))
def test_the_two_sides_of_a_cut_add_up(ring, x):
    assume(abs(signed_area(ring)) > 1)
    for shape in (Shape("poly", ring), Shape("line", ring)):
        left, right = coverage(shape, [-1, -1, x, 101]), coverage(shape, [x, -1, 101, 101])
        overlap = 0 if shape.kind == "poly" else on_cut(ring, x)
        assert left + right == pytest.approx(1 + overlap, abs=1e-6)


def on_cut(line: np.ndarray, x: float) -> float:
    """Share of a line's length that runs on the cut itself and so counts on both sides."""
    lengths = np.hypot(*np.diff(line, axis=0).T)
    both = (np.abs(line[:-1, 0] - x) < 1e-6) & (np.abs(line[1:, 0] - x) < 1e-6)
    return lengths[both].sum() / lengths.sum()


@given(rings)
def test_coverage_is_the_area_that_clipping_keeps(ring):
    convex_triangle = ring[:3]
    area = abs(signed_area(convex_triangle))
    assume(area > 1)
    kept = sum(signed_area(part) if len(part) else 0 for part in clip_polygon_parts(convex_triangle, 50, 60))
    assert coverage(convex_triangle, [0, 0, 50, 60]) == pytest.approx(abs(kept) / area, abs=1e-6)


def test_two_widened_dots_have_the_overlap_of_two_discs():
    radius, distance = 10.0, 8.0
    lens = 2 * radius**2 * math.acos(distance / 2 / radius) - distance / 2 * math.sqrt(4 * radius**2 - distance**2)
    expected = lens / (2 * math.pi * radius**2 - lens)
    dots = Shape("line", [0, 0, 0, 0]), Shape("line", [8, 0, 8, 0])
    assert buffered_line_iou(*dots, radius) == pytest.approx(expected, rel=0.01)


def test_a_widened_segment_in_one_of_twice_its_length():
    radius, length = 5.0, 100.0
    short, long = math.pi * radius**2 + 2 * radius * length, math.pi * radius**2 + 4 * radius * length
    assert buffered_line_iou([0, 0, 100, 0], [0, 0, 200, 0], radius) == pytest.approx(short / long, rel=0.01)


def test_lines_further_apart_than_both_radii_do_not_meet():
    lines = [[0, 0, 100, 0], [0, 21, 100, 21], [0, 5, 100, 5]]
    matrix = buffered_line_iou_matrix(lines, lines, 10)
    assert matrix[0, 1] == 0
    assert 0 < matrix[0, 2] < 1
    np.testing.assert_allclose(np.diag(matrix), 1)


def test_a_radius_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="radius is 0"):
        buffered_line_iou([0, 0, 1, 1], [0, 0, 1, 1], 0)


@given(rings, rings, st.integers(1, 20))
def test_widened_lines_overlap_symmetrically_whatever_their_direction(a, b, radius):
    value = buffered_line_iou(Shape("line", a), Shape("line", b), radius)
    assert 0 <= value <= 1
    # GEOS leaves out bends of less than a hundredth of the radius, seen from the line's first point.
    assert buffered_line_iou(b[::-1], a, radius) == pytest.approx(value, abs=2e-3)


def test_a_closed_line_smaller_than_its_radius_is_widened_whole():
    loop = np.array([(1.0, 6.0), (5.0, 4.0), (8.0, 4.0), (1.0, 6.0), (0.0, 2.0), (1.0, 6.0)]) / 40
    radius = 7
    by_segment = shapely.union_all(
        [shapely.LineString(pair).buffer(radius) for pair in zip(loop, loop[1:], strict=False)]
    )
    disc = shapely.Point(loop[0]).buffer(radius)
    expected = by_segment.intersection(disc).area / by_segment.union(disc).area
    for line in (loop, loop[::-1]):
        assert buffered_line_iou(line, [loop[0], loop[0]], radius) == pytest.approx(expected, abs=1e-3)
