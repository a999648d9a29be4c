"""Chamfer distance by hand-made integrals, buffered overlap by areas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.geometry.shapes import Shape
from qcvl.metrics.lines import chamfer_distance, line_overlaps, line_radius


def line(*numbers: float) -> Shape:
    return Shape("line", numbers)


def test_parallel_lines_are_their_distance_apart():
    assert chamfer_distance(line(0, 0, 50, 0), line(0, 7, 50, 7)) == pytest.approx(7)


def test_a_line_and_its_first_half_are_an_eighth_of_the_length_apart_one_way_and_none_the_other():
    # Over [0, 10] the distance to [0, 5] is max(0, x - 5): its mean is 5 * 5 / 2 / 10 = 1.25; back it is 0.
    assert chamfer_distance(line(0, 0, 10, 0), line(0, 0, 5, 0)) == pytest.approx((1.25 + 0) / 2)


def test_extra_vertices_on_the_way_and_the_direction_change_nothing():
    bent = line(0, 0, 40, 0, 40, 30)
    finer = line(40, 30, 40, 10, 40, 0, 15, 0, 0, 0)

    assert chamfer_distance(bent, finer) == pytest.approx(0, abs=1e-9)


def test_a_line_of_one_repeated_point_is_as_far_as_that_point():
    assert chamfer_distance(line(3, 4, 3, 4), line(0, 0, 0, 0)) == pytest.approx(5)


points = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=2, max_size=5, unique=True)


@settings(max_examples=30)
@given(points, points)
def test_chamfer_distance_is_symmetric_and_agrees_with_a_dense_sampling(first, second):
    a, b = (Shape("line", part) for part in (first, second))

    def dense(shape: Shape) -> np.ndarray:
        along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(shape.points, axis=0).T))])
        at = np.linspace(0, along[-1], 1500)
        return np.stack([np.interp(at, along, shape.points[:, axis]) for axis in (0, 1)], axis=1)

    distances = np.hypot(*(dense(a)[:, None] - dense(b)[None]).transpose(2, 0, 1))
    by_points = (distances.min(axis=1).mean() + distances.min(axis=0).mean()) / 2

    assert chamfer_distance(a, b) == chamfer_distance(b, a)
    assert chamfer_distance(a, b) == pytest.approx(by_points, abs=1.0)


def test_the_radius_is_two_percent_of_the_diagonal():
    assert line_radius((300, 400)) == pytest.approx(10)


def test_line_overlaps_have_one_row_per_first_and_one_column_per_second_line():
    table = line_overlaps([line(0, 0, 90, 0)], [line(0, 0, 90, 0), line(0, 50, 90, 50)], (100, 100))

    assert table == pytest.approx(np.array([[1.0, 0.0]]))
