"""Canonical order: one result for every way to write the same ring, line or box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry import Shape, canonical, canonical_line, canonical_polygon, signed_area

coordinates = st.integers(-500, 1500).map(lambda n: n / 8)
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9).map(np.array)
small_rings = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=6).map(np.array)


def test_a_counter_clockwise_square_is_turned_and_starts_at_the_top_left():
    assert canonical_polygon([0, 0, 0, 10, 10, 10, 10, 0]).tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]


def test_the_start_is_the_smallest_sum_then_the_smallest_y():
    diamond = [[10, 20], [0, 10], [10, 0], [20, 10]]  # (0, 10) and (10, 0) share the sum 10
    assert canonical_polygon(diamond).tolist() == [[10, 0], [20, 10], [10, 20], [0, 10]]


def test_clockwise_on_screen_is_a_positive_area():
    assert signed_area([0, 0, 10, 0, 10, 5, 0, 5]) == 50
    assert signed_area([0, 0, 0, 5, 10, 5, 10, 0]) == -50


def test_a_line_starts_at_its_left_end_and_on_a_tie_at_the_upper_one():
    assert canonical_line([50, 0, 20, 90, 10, 5]).tolist() == [[10, 5], [20, 90], [50, 0]]
    assert canonical_line([10, 40, 99, 20, 10, 5]).tolist() == [[10, 5], [99, 20], [10, 40]]


def test_a_box_becomes_top_left_and_bottom_right():
    assert canonical(Shape("bbox_2d", [30, 5, 10, 40])) == Shape("bbox_2d", [10, 5, 30, 40])


def test_a_concave_quad_keeps_its_vertices_in_ring_order():
    arrow = Shape("quad", [0, 0, 10, 5, 0, 10, 4, 5])
    assert canonical(arrow) == arrow


@pytest.mark.parametrize("strategy", [rings, small_rings], ids=["any", "many ties"])
def test_every_start_and_direction_gives_the_same_ring(strategy):
    @given(strategy, st.integers(0, 9), st.booleans())
    def law(ring, shift, backwards):
        other = np.roll(ring[::-1] if backwards else ring, shift, axis=0)
        np.testing.assert_array_equal(canonical_polygon(other), canonical_polygon(ring))

    law()


@given(rings)
def test_canonical_is_idempotent_and_keeps_every_vertex(ring):
    once = canonical_polygon(ring)
    np.testing.assert_array_equal(canonical_polygon(once), once)
    assert sorted(map(tuple, once)) == sorted(map(tuple, ring))
    assert abs(signed_area(once)) == pytest.approx(abs(signed_area(ring)), abs=1e-6)


@given(rings)
def test_the_canonical_ring_is_clockwise_and_starts_nearest_to_the_origin_corner(ring):
    once = canonical_polygon(ring)
    assert signed_area(once) >= -1e-6
    assert (once[0].sum(), once[0][1]) == min((x + y, y) for x, y in ring)


@given(rings)
def test_a_line_and_its_reverse_have_one_canonical_form(line):
    once = canonical_line(line)
    np.testing.assert_array_equal(canonical_line(line[::-1]), once)
    np.testing.assert_array_equal(canonical_line(once), once)
    assert tuple(once[0]) == min(tuple(line[0]), tuple(line[-1]))
