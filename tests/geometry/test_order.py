"""Reading order: by (y, x) of one point per shape, stable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry import Shape, reading_order, reference_point

boxes = st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4).map(lambda v: Shape("bbox_2d", v)), max_size=12)


def test_the_reference_point_is_the_corner_the_first_vertex_or_the_first_point():
    assert reference_point(Shape("bbox_2d", [30, 5, 10, 40])) == (10, 5)
    assert reference_point(Shape("quad", [4, 5, 9, 5, 9, 9, 4, 9])) == (4, 5)
    assert reference_point(Shape("line", [7, 8, 1, 2])) == (7, 8)


def test_rows_come_before_columns():
    shapes = [Shape("bbox_2d", [50, 10, 60, 20]), Shape("line", [0, 30, 9, 9]), Shape("bbox_2d", [5, 10, 60, 20])]
    assert reading_order(shapes) == [2, 0, 1]


def test_the_order_is_decided_before_gridding():
    shapes = [Shape("bbox_2d", [0, 10.2, 5, 20]), Shape("bbox_2d", [90, 10.1, 95, 20])]
    assert reading_order(shapes) == [1, 0]


def test_center_order_uses_the_middle_of_the_bounds():
    tall, low = Shape("bbox_2d", [0, 0, 10, 100]), Shape("bbox_2d", [0, 20, 10, 30])
    assert reading_order([tall, low], "reference") == [0, 1]
    assert reading_order([tall, low], "center") == [1, 0]


def test_an_unknown_order_is_named():
    with pytest.raises(ValueError, match="'size'"):
        reading_order([], "size")


@given(boxes)
def test_sorting_is_a_stable_permutation_and_sorted_shapes_stay(shapes):
    order = reading_order(shapes)
    assert sorted(order) == list(range(len(shapes)))
    keys = [(reference_point(shapes[i])[::-1], i) for i in order]
    assert keys == sorted(keys)
    assert reading_order([shapes[i] for i in order]) == list(np.arange(len(shapes)))
