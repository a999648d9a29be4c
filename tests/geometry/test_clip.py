"""Clipping polygons and shapes: exact cases, and laws against a second method."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcvl.geometry import (
    Shape,
    apply_affine,
    canonical_polygon,
    clip_polygon,
    clip_polygon_parts,
    clip_shape,
    hflip_matrix,
    min_area_quad,
    rotation_matrix,
    signed_area,
)

W, H = 100, 80
coordinates = st.integers(-100 * 32, 200 * 32).map(lambda n: n / 32)
point_lists = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8).map(np.array)
kinds = st.sampled_from(["bbox_2d", "quad", "poly", "line"])
L_SHAPE = [0, 0, 100, 0, 100, 20, 20, 20, 20, 100, 0, 100]


@st.composite
def star_rings(draw: st.DrawFn) -> np.ndarray:
    """A simple ring around a point near the frame, often reaching over its border."""
    count = draw(st.integers(4, 9))
    radii = np.array(draw(st.lists(st.integers(5, 90), min_size=count, max_size=count)))
    angles = 2 * np.pi * (np.arange(count) + draw(st.floats(0, 1))) / count
    center = draw(st.tuples(st.integers(-20, 120), st.integers(-20, 100)))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + center


def sutherland_hodgman(ring: np.ndarray, width: float, height: float) -> list[np.ndarray]:
    """A convex ring cut by the four half planes one after another: the textbook method."""
    points = list(np.asarray(ring, dtype=float))
    for axis, limit, side in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        cut = []
        for a, b in zip(points, points[1:] + points[:1], strict=True):
            da, db = side * (a[axis] - limit), side * (b[axis] - limit)
            if da >= 0:
                cut.append(a)
            if (da < 0) != (db < 0):
                cut.append(a + (b - a) * da / (da - db))
        points = cut
    return points


def covers(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Even-odd ray casting: which of the points [P, 2] lie inside the ring."""
    inside = np.zeros(len(points), bool)
    for (xa, ya), (xb, yb) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (ya > points[:, 1]) != (yb > points[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (points[:, 0] < xa + (points[:, 1] - ya) / (yb - ya) * (xb - xa))
    return inside


def assert_in_frame(points: np.ndarray) -> None:
    assert np.all(points >= 0)
    assert np.all(points <= (W, H))


def test_a_quad_over_the_corner_keeps_its_visible_square():
    quad = [-10, -10, 50, -10, 50, 50, -10, 50]
    assert clip_polygon(quad, 100, 100).tolist() == [[0, 0], [50, 0], [50, 50], [0, 50]]
    assert clip_shape(Shape("quad", quad), 100, 100) == [Shape("quad", [0, 0, 50, 0, 50, 50, 0, 50])]


def test_a_concave_polygon_inside_stays_itself():
    (kept,) = clip_shape(Shape("poly", L_SHAPE), 100, 100)
    assert kept == Shape("poly", L_SHAPE)
    assert signed_area(kept.points) == 3600


def test_a_concave_polygon_falls_into_its_pieces():
    bridge_above = Shape("poly", [10, -20, 60, -20, 60, 30, 50, 30, 50, -10, 20, -10, 20, 30, 10, 30])
    pieces = clip_shape(bridge_above, 100, 100)
    assert {tuple(piece.points.ravel()) for piece in pieces} == {
        (10, 0, 20, 0, 20, 30, 10, 30),
        (50, 0, 60, 0, 60, 30, 50, 30),
    }
    assert all(piece.kind == "poly" for piece in pieces)


def test_what_lies_outside_or_only_touches_the_border_is_gone():
    assert clip_polygon([200, 200, 300, 200, 300, 300], 100, 100).shape == (0, 2)
    assert clip_polygon([100, 10, 150, 10, 150, 50, 100, 50], 100, 100).shape == (0, 2)
    assert clip_polygon([], 100, 100).shape == (0, 2)
    assert clip_shape(Shape("bbox_2d", [100, 10, 150, 50]), 100, 100) == []
    assert clip_shape(Shape("quad", [-50, 0, -1, 0, -1, 9, -50, 9]), 100, 100) == []


def test_a_cut_ring_has_no_collinear_or_repeated_vertices():
    ring = [-10, 10, 30, 10, 30, 10, 50, 10, 50, 50, -10, 50]
    assert clip_polygon(ring, 100, 100).tolist() == [[0, 10], [50, 10], [50, 50], [0, 50]]


def test_a_box_gives_the_intersection_box():
    assert clip_shape(Shape("bbox_2d", [-5, 20, 130, 40]), 100, 100) == [Shape("bbox_2d", [0, 20, 100, 40])]


def test_a_quad_cut_to_a_triangle_is_a_polygon():
    (triangle,) = clip_shape(Shape("quad", [-50, 50, -25, 25, 20, 50, -25, 75]), 100, 100)
    assert triangle.kind == "poly"
    edge_y = 25 / 45 * 20  # half height at x = 0 of the side from (-25, 25) to (20, 50)
    np.testing.assert_allclose(triangle.points, [[0, 50 - edge_y], [20, 50], [0, 50 + edge_y]])


def test_a_quad_cut_across_both_long_sides_is_the_quad_that_is_left():
    turned = apply_affine([30, 30, 130, 30, 130, 50, 30, 50], rotation_matrix(20, (80, 40)))
    (left,) = clip_shape(Shape("quad", turned), 100, 100)
    assert left.kind == "quad"
    assert left.bounds[2] == 100
    np.testing.assert_array_equal(left.points, clip_polygon(turned, 100, 100))


def test_a_quad_cut_to_more_vertices_becomes_its_min_area_quad_in_the_frame():
    tips_cut = Shape("quad", [50, -10, 110, 50, 50, 90, 10, 50])
    visible = clip_polygon(tips_cut.points, 100, 100)
    assert len(visible) == 6
    (result,) = clip_shape(tips_cut, 100, 100)
    assert result.kind == "quad"
    np.testing.assert_array_equal(result.points, canonical_polygon(np.clip(min_area_quad(visible), 0, 100)))


def test_a_quad_that_falls_apart_stays_one_object():
    chevron = Shape("quad", [20, 10, 50, -60, 80, 10, 50, -20])
    assert len(clip_polygon_parts(chevron.points, 100, 100)) == 2
    (result,) = clip_shape(chevron, 100, 100)
    assert result.kind == "quad"
    assert result.bounds == pytest.approx((20, 0, 80, 10))


def test_a_bow_tie_is_clipped_as_its_two_triangles_and_kept_when_inside():
    bow_tie = [0, 0, 40, 40, 40, 0, 0, 40]
    assert clip_shape(Shape("quad", bow_tie), 100, 100) == [Shape("quad", bow_tie)]
    shifted = apply_affine(bow_tie, np.array([[1, 0, -10], [0, 1, 0], [0, 0, 1]]))
    pieces = clip_polygon_parts(shifted, 100, 100)
    # Triangles of area 400 each meet at x = 10; ten columns of the left one, 10/20 of its height, are cut off.
    assert [signed_area(piece) for piece in pieces] == pytest.approx([400, 400 * 0.25])


def test_shapes_without_area_stay_inside_and_leave_at_the_border():
    flat_box, flat_quad = Shape("bbox_2d", [50, 10, 50, 40]), Shape("quad", [10, 10, 20, 20, 30, 30, 20, 20])
    for shape in (flat_box, flat_quad, Shape("line", [5, 5, 5, 5])):
        assert clip_shape(shape, 100, 100) == [shape]
        assert clip_shape(shape, 20, 20) == ([] if shape.kind != "line" else [shape])


@given(st.lists(st.tuples(st.floats(0, W), st.floats(0, H)), min_size=4, max_size=4), kinds)
def test_a_shape_inside_the_frame_is_never_touched(points, kind):
    shape = Shape(kind, points[:2] if kind == "bbox_2d" else points)
    (kept,) = clip_shape(shape, W, H)
    assert kept is shape


@given(star_rings())
def test_clip_keeps_exactly_the_pixels_inside_the_frame(ring):
    ys, xs = np.mgrid[0:H, 0:W]
    centers = np.stack([xs.ravel() + 0.5123, ys.ravel() + 0.5377], axis=1)  # on no edge of even slope
    parts = clip_polygon_parts(ring, W, H)
    drawn = np.zeros(len(centers), int)
    for part in parts:
        assert_in_frame(part)
        drawn += covers(part, centers)
    np.testing.assert_array_equal(drawn, covers(ring, centers).astype(int))


@given(st.lists(st.floats(0, 1), min_size=3, max_size=8, unique=True), st.integers(10, 120), coordinates, coordinates)
def test_a_convex_ring_is_cut_as_by_four_half_planes(turns, radius, x, y):
    angles = 2 * np.pi * np.sort(turns)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius + (x, y)
    expected = sutherland_hodgman(ring, W, H)
    assert signed_area(clip_polygon(ring, W, H)) == pytest.approx(signed_area(expected), rel=1e-6, abs=1e-3)


@given(point_lists)
def test_clipping_twice_is_clipping_once(ring):
    for part in clip_polygon_parts(ring, W, H):
        assert_in_frame(part)
        np.testing.assert_array_equal(clip_polygon(part, W, H), part)


@given(star_rings())
def test_clip_and_flip_commute(ring):
    flip = hflip_matrix(W)
    flipped_first = clip_polygon_parts(apply_affine(ring, flip), W, H)
    clipped_first = [apply_affine(part, flip) for part in clip_polygon_parts(ring, W, H)]
    areas = [sorted(abs(signed_area(part)) for part in parts) for parts in (flipped_first, clipped_first)]
    np.testing.assert_allclose(*areas, rtol=1e-9, atol=1e-6)


@given(point_lists, kinds)
def test_clip_shape_stays_in_the_frame_and_is_settled_after_one_pass(points, kind):
    shape = Shape(kind, {"bbox_2d": points[:2], "quad": np.resize(points, (4, 2))}.get(kind, points))
    for clipped in clip_shape(shape, W, H):
        assert_in_frame(clipped.points)
        assert clip_shape(clipped, W, H) == [clipped]
        assert len(clipped.points) == {"bbox_2d": 2, "quad": 4}.get(clipped.kind, len(clipped.points))


@given(st.lists(st.integers(-2, 4), min_size=8, max_size=8), kinds)
def test_tiny_and_flat_shapes_do_not_break_clipping(numbers, kind):
    shape = Shape(kind, numbers[:4] if kind == "bbox_2d" else numbers)
    for clipped in clip_shape(shape, 2, 2):
        assert np.isfinite(clipped.points).all()
        assert np.all(clipped.points >= 0)
        assert np.all(clipped.points <= 2)


@given(st.floats(-180, 180), st.integers(-500, 500), st.integers(-500, 500))
def test_the_min_area_quad_of_a_turned_rectangle_is_the_rectangle(degrees, x, y):
    turned = apply_affine([x, y, x + 40, y, x + 40, y + 10, x, y + 10], rotation_matrix(degrees, (x, y)))
    quad = min_area_quad(turned)
    assert signed_area(quad) == pytest.approx(400)
    np.testing.assert_allclose(np.sort(quad, axis=0), np.sort(turned, axis=0), atol=1e-9)


@given(point_lists)
def test_no_angle_gives_a_smaller_rectangle_and_all_points_are_inside(points):
    quad = min_area_quad(points)
    angles = np.radians(np.arange(0, 90, 0.5))
    u = points @ np.stack([np.cos(angles), np.sin(angles)])
    v = points @ np.stack([-np.sin(angles), np.cos(angles)])
    assert signed_area(quad) <= (np.ptp(u, axis=0) * np.ptp(v, axis=0)).min() * (1 + 1e-9) + 1e-6
    assume(signed_area(quad) > 1)
    for a, b in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        normal = np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a))
        assert np.all((points - a) @ normal >= -1e-6)


def test_the_min_area_quad_of_a_segment_is_flat_and_of_a_point_that_point():
    segment = min_area_quad([0, 0, 30, 40, 15, 20])
    assert {tuple(p) for p in np.round(segment, 9)} == {(0, 0), (30, 40)}
    assert min_area_quad([7, 8]).tolist() == [[7, 8]] * 4
    with pytest.raises(ValueError, match="at least one point"):
        min_area_quad([])
