"""Affine maps: exact flips and quarter turns, boxes that stay boxes, and shapes that follow their pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcvl.geometry import (
    Shape,
    apply_affine,
    clip_shape,
    hflip_matrix,
    keeps_boxes,
    pixel_center_matrix,
    rotation_matrix,
    scale_matrix,
    shear_matrix,
    to_grid,
    transform_shape,
    translation_matrix,
    vflip_matrix,
)

coordinates = st.integers(-4000, 8000).map(lambda n: n / 32)
point_lists = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=9).map(np.array)
FRAME = 256


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    """A turn, a scaling, a shear, perhaps a flip and a shift that keep the middle of a 256 px frame inside it."""
    middle = (FRAME / 2, FRAME / 2)
    matrix = rotation_matrix(draw(st.floats(-180, 180)), middle)
    matrix = matrix @ scale_matrix(draw(st.floats(0.7, 1.3)), draw(st.floats(0.7, 1.3)), middle)
    matrix = shear_matrix(draw(st.floats(-8, 8)), draw(st.floats(-8, 8)), middle) @ matrix
    if draw(st.booleans()):
        matrix = hflip_matrix(FRAME) @ matrix
    return translation_matrix(draw(st.floats(-15, 15)), draw(st.floats(-15, 15))) @ matrix


@st.composite
def star_rings(draw: st.DrawFn) -> np.ndarray:
    """A simple ring of 4 to 9 vertices around the middle of the frame, concave as often as convex."""
    count = draw(st.integers(4, 9))
    radii = np.array(draw(st.lists(st.floats(20, 60), min_size=count, max_size=count)))
    angles = 2 * np.pi * (np.arange(count) + draw(st.floats(0, 1))) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + FRAME / 2


def draw_mask(ring: np.ndarray) -> np.ndarray:
    """Covered share of each pixel, float [256, 256]: drawn 8 times finer with OpenCV and averaged."""
    fine = np.zeros((FRAME * 8, FRAME * 8), np.uint8)
    cv2.fillPoly(fine, [np.round((ring * 8 - 0.5) * 16).astype(np.int32)], 255, shift=4)
    return cv2.resize(fine, (FRAME, FRAME), interpolation=cv2.INTER_AREA).astype(float) / 255


def centroid(mask: np.ndarray) -> np.ndarray:
    """Mean pixel position (x, y) of a mask, in continuous edges."""
    ys, xs = np.indices(mask.shape) + 0.5
    return np.array([(mask * xs).sum(), (mask * ys).sum()]) / mask.sum()


def test_hflip_maps_x_to_width_minus_x():
    flipped = transform_shape(Shape("bbox_2d", [10, 20, 30, 40]), hflip_matrix(100))
    assert flipped == Shape("bbox_2d", [70, 20, 90, 40])
    assert apply_affine([10, 20, 30, 40], hflip_matrix(100)).tolist() == [[90, 20], [70, 40]]


def test_vflip_maps_y_to_height_minus_y():
    assert transform_shape(Shape("bbox_2d", [10, 20, 30, 40]), vflip_matrix(50)) == Shape("bbox_2d", [10, 10, 30, 30])


def test_the_full_frame_box_is_fixed_by_flips_and_a_half_turn():
    frame = Shape("bbox_2d", [0, 0, 640, 480])
    for matrix in (hflip_matrix(640), vflip_matrix(480), rotation_matrix(180, (320, 240))):
        assert transform_shape(frame, matrix) == frame


def test_positive_degrees_turn_clockwise_on_screen():
    right_to_down = apply_affine([20, 10], rotation_matrix(90, (10, 10)))
    assert right_to_down.tolist() == [[10, 20]]


@pytest.mark.parametrize("degrees", [-270, -90, 0, 90, 180, 270, 360, 450])
def test_quarter_turns_are_exact_and_keep_boxes(degrees):
    matrix = rotation_matrix(degrees, (50, 50))
    assert np.array_equal(matrix, np.round(matrix))
    assert transform_shape(Shape("bbox_2d", [10, 20, 30, 40]), matrix).kind == "bbox_2d"


def test_a_turned_box_becomes_the_quad_of_its_corners():
    turned = transform_shape(Shape("bbox_2d", [0, 0, 10, 10]), rotation_matrix(45, (5, 5)))
    half_diagonal = 5 * 2**0.5
    assert turned.kind == "quad"
    expected = [[5, 5 - half_diagonal], [5 + half_diagonal, 5], [5, 5 + half_diagonal], [5 - half_diagonal, 5]]
    np.testing.assert_allclose(turned.points, expected, atol=1e-12)


def test_two_eighth_turns_are_a_quarter_turn_that_keeps_boxes():
    eighth = rotation_matrix(45, (50, 50))
    assert not keeps_boxes(eighth)
    assert keeps_boxes(eighth @ eighth)


def test_scaling_keeps_its_center_and_takes_sy_from_sx():
    assert apply_affine([[5, 5], [7, 9]], scale_matrix(2, center=(5, 5))).tolist() == [[5, 5], [9, 13]]
    assert apply_affine([7, 9], scale_matrix(2, 3)).tolist() == [[14, 27]]


@given(point_lists, matrices(), matrices())
def test_mapping_twice_equals_mapping_by_the_product(points, first, second):
    twice = apply_affine(apply_affine(points, first), second)
    np.testing.assert_allclose(apply_affine(points, second @ first), twice, atol=1e-9)


@given(point_lists, matrices())
def test_the_inverse_brings_points_back(points, matrix):
    np.testing.assert_allclose(apply_affine(apply_affine(points, matrix), np.linalg.inv(matrix)), points, atol=1e-9)


@given(st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8), st.sampled_from(["quad", "poly", "line"]))
def test_the_identity_changes_no_coordinate(numbers, kind):
    shape = Shape(kind, numbers)
    assert transform_shape(shape, np.eye(3)) is shape
    assert np.array_equal(apply_affine(shape.points, np.eye(3)), shape.points)


@given(st.integers(1, 5000), st.integers(1, 5000), st.lists(st.floats(-180, 180), max_size=6))
def test_a_box_at_the_frame_edge_still_reaches_1000_after_maps_that_cancel(width, height, angles):
    middle = (width / 2, height / 2)
    matrix = hflip_matrix(width) @ hflip_matrix(width)
    for degrees in angles:
        matrix = rotation_matrix(degrees, middle) @ scale_matrix(1.7, center=middle) @ matrix
    for degrees in reversed(angles):
        matrix = scale_matrix(1 / 1.7, center=middle) @ rotation_matrix(-degrees, middle) @ matrix
    (box,) = clip_shape(transform_shape(Shape("bbox_2d", [0, 0, width, height]), matrix), width, height)
    assert box.kind == "bbox_2d"
    assert to_grid(box.points, (width, height), "norm1000").tolist() == [[0, 0], [1000, 1000]]


@given(star_rings(), matrices())
@settings(max_examples=40)
def test_transform_then_draw_equals_draw_then_warp(ring, matrix):
    warped = cv2.warpAffine(draw_mask(ring), pixel_center_matrix(matrix)[:2], (FRAME, FRAME), flags=cv2.INTER_LINEAR)
    drawn = draw_mask(apply_affine(ring, matrix))
    assume(drawn.sum() > 500)
    both, either = (warped > 0.5) & (drawn > 0.5), (warped > 0.5) | (drawn > 0.5)
    assert both.sum() / either.sum() > 0.97
    # Half a pixel of confusion between centres and edges would show here; blur does not move a centroid.
    np.testing.assert_allclose(centroid(warped), centroid(drawn), atol=0.1)


@given(star_rings())
@settings(max_examples=20)
def test_flip_then_draw_is_the_mirrored_picture(ring):
    # OpenCV paints the outline too, unevenly by one fine pixel: up to 0.2 of a pixel, far from a shift by one.
    np.testing.assert_allclose(draw_mask(apply_affine(ring, hflip_matrix(FRAME))), draw_mask(ring)[:, ::-1], atol=0.3)
    np.testing.assert_allclose(draw_mask(apply_affine(ring, vflip_matrix(FRAME))), draw_mask(ring)[::-1], atol=0.3)


def test_a_shear_leans_upright_lines_by_the_first_angle_and_level_ones_by_the_second():
    matrix = shear_matrix(30, 0, (50, 20))
    assert apply_affine([[50, 20], [50, 10], [60, 20]], matrix) == pytest.approx(
        np.array([[50, 20], [50 - 10 * np.tan(np.pi / 6), 10], [60, 20]])
    )
    assert shear_matrix(0, 30, (50, 20)) == pytest.approx(
        np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ shear_matrix(30, 0, (20, 50)) @ [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    )
