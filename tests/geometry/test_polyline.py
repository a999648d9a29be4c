"""Clipping polylines: visible parts only, never a segment along the border."""

from itertools import pairwise

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry import Shape, clip_polyline, clip_shape

W, H = 100, 80
coordinates = st.integers(-50 * 4, 150 * 4).map(lambda n: n / 4)
lines = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=8).map(np.array)


def test_a_line_that_leaves_and_comes_back_is_two_parts():
    parts = clip_polyline([10, 10, 150, 10, 150, 50, 10, 50], 100, 100)
    assert [part.tolist() for part in parts] == [[[10, 10], [100, 10]], [[100, 50], [10, 50]]]


def test_a_line_through_the_whole_frame_keeps_both_crossings():
    (part,) = clip_polyline([-50, -50, 150, 150], 100, 100)
    assert part.tolist() == [[0, 0], [100, 100]]


def test_a_line_that_itself_runs_on_the_border_is_kept():
    (part,) = clip_polyline([-10, 0, 50, 0, 50, 30], 100, 100)
    assert part.tolist() == [[0, 0], [50, 0], [50, 30]]


def test_a_vertex_that_only_touches_the_border_does_not_split_the_line():
    (part,) = clip_polyline([-10, 90, 50, 0, 110, 90], 100, 100)
    assert [50, 0] in part.tolist()
    assert len(part) == 3


def test_a_line_that_leaves_from_a_vertex_on_the_border_is_split_there():
    parts = clip_polyline([10, 10, 100, 10, 150, 30, 100, 50, 10, 50], 100, 100)
    assert [part.tolist() for part in parts] == [[[10, 10], [100, 10]], [[100, 50], [10, 50]]]


def test_a_line_that_only_touches_the_frame_is_gone():
    assert clip_polyline([-50, 50, 50, -50], 100, 100) == []
    assert clip_polyline([100, 50, 150, 50], 100, 100) == []
    assert clip_shape(Shape("line", [200, 0, 200, 50]), 100, 100) == []


def test_rounding_at_the_border_does_not_split_the_line():
    (part,) = clip_polyline([10, 10, 100 + 1e-11, 20, 10, 30, -50, 30], 100, 100)
    assert part.tolist() == [[10, 10], [100, 20], [10, 30], [0, 30]]


@given(st.lists(st.tuples(st.floats(0, W), st.floats(0, H)), min_size=2, max_size=8).map(np.array))
def test_a_line_inside_the_frame_is_its_own_single_part(line):
    (part,) = clip_polyline(line, W, H)
    assert part is line


@given(lines)
def test_the_visible_length_is_that_of_its_segments_inside(line):
    frame = shapely.box(0, 0, W, H)
    expected = sum(shapely.LineString([a, b]).intersection(frame).length for a, b in pairwise(line))
    visible = sum(np.hypot(*np.diff(part, axis=0).T).sum() for part in clip_polyline(line, W, H))
    np.testing.assert_allclose(visible, expected, atol=1e-6)


@given(lines)
def test_every_visible_segment_lies_on_the_line_itself(line):
    whole = shapely.LineString(line)
    for part in clip_polyline(line, W, H):
        assert len(part) >= 2
        assert np.all(part >= 0)
        assert np.all(part <= (W, H))
        middles = (part[:-1] + part[1:]) / 2
        assert max(whole.distance(shapely.Point(point)) for point in middles) < 1e-9


@given(lines)
def test_the_reversed_line_has_the_reversed_parts(line):
    forward, backward = clip_polyline(line, W, H), clip_polyline(line[::-1], W, H)
    assert len(forward) == len(backward)
    for part, mirror in zip(forward, reversed(backward), strict=True):
        np.testing.assert_allclose(part, mirror[::-1], atol=1e-9)


@given(lines)
def test_clipping_a_part_again_returns_it(line):
    for part in clip_polyline(line, W, H):
        (again,) = clip_polyline(part, W, H)
        assert again is part
