"""Windows cover a photo evenly, and the eight views of a square are undone exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.dataset import FILL
from qcvl.geometry.affine import apply_affine, flip_turn, flip_turn_matrix, inverse_flip_turn, transform_shape
from qcvl.geometry.shapes import Shape
from qcvl.inference.windows import cut, looks, offsets, windows


@given(length=st.integers(1, 2000), size=st.integers(2, 300), data=st.data())
def test_windows_start_at_0_end_at_the_border_and_share_the_overlap_with_as_few_as_possible(length, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    starts = offsets(length, size, overlap)
    if length <= size:
        assert starts == [0]
        return
    assert starts[0] == 0 and starts[-1] == length - size
    steps = np.diff(starts)
    assert (steps >= 1).all() and steps.max() <= size - overlap and np.ptp(steps) <= 1
    fewer = len(starts) - 2  # steps of one window less: they would be too long on average
    assert fewer == 0 or (length - size) / fewer > size - overlap


def test_a_640_px_photo_has_seven_windows_a_side_at_an_overlap_of_42():
    assert offsets(640, 128, 42) == [0, 85, 170, 256, 341, 426, 512]
    corners = windows(640, 300, 128, 42)
    assert len(corners) == 7 * 3 and corners[:2] == [(0, 0), (85, 0)] and corners[-1] == (512, 172)


def test_a_window_is_the_photos_own_pixels_and_grey_beside_it():
    image = np.random.default_rng(0).integers(0, 256, (100, 60, 3), dtype=np.uint8)
    assert np.shares_memory(cut(image, (10, 20), 40), image)
    assert np.array_equal(cut(image, (10, 20), 40), image[20:60, 10:50])
    padded = cut(image, (0, 20), 80)
    assert padded.shape == (80, 80, 3) and np.array_equal(padded[:, :60], image[20:100])
    assert (padded[:, 60:] == FILL).all()


def test_the_first_views_are_as_it_is_mirrored_upside_down_and_half_a_turn_and_all_eight_differ():
    square = np.arange(27).reshape(3, 3, 3)
    seen = [flip_turn(square, view) for view in range(8)]
    expected = [square, np.fliplr(square), np.flipud(square), np.rot90(square, 2)]
    assert all(np.array_equal(one, other) for one, other in zip(seen[:4], expected, strict=True))
    group = [np.rot90(start, turns) for start in (square, np.fliplr(square)) for turns in range(4)]
    assert {one.tobytes() for one in seen} == {one.tobytes() for one in group}
    assert len({one.tobytes() for one in seen}) == 8


@pytest.mark.parametrize("number", range(8))
def test_a_views_matrix_takes_each_pixel_back_to_where_it_was(number):
    size = 5
    square = np.arange(size * size * 3).reshape(size, size, 3)
    seen, back = flip_turn(square, number), flip_turn_matrix(inverse_flip_turn(number), size, size)
    for y in range(size):
        for x in range(size):
            ((back_x, back_y),) = apply_affine([[x + 0.5, y + 0.5]], back) - 0.5  # pixel centres
            assert np.array_equal(seen[y, x], square[int(back_y), int(back_x)])


@given(number=st.integers(0, 7), data=st.data())
def test_shapes_of_every_kind_come_back_bit_for_bit(number, data):
    size = 128
    kind, least = data.draw(st.sampled_from([("bbox_2d", 2), ("quad", 4), ("poly", 5), ("line", 3)]))
    numbers = st.integers(0, size * 8).map(lambda value: value / 8)
    points = np.array(data.draw(st.lists(st.tuples(numbers, numbers), min_size=least, max_size=least)))
    shape = Shape(kind, np.sort(points, axis=0) if kind == "bbox_2d" else points)
    there, back = (flip_turn_matrix(view, size, size) for view in (number, inverse_flip_turn(number)))
    assert transform_shape(transform_shape(shape, there), back) == shape


def test_every_window_is_looked_at_in_every_view_and_points_go_to_the_photo():
    found = looks(300, 128, 128, 40, 3)
    assert [look.corner for look in found] == [(x, 0) for x in (0, 86, 172) for _ in range(3)]
    assert [look.view for look in found] == [0, 1, 2] * 3
    mirrored = found[4]  # the second window
    assert apply_affine([[0, 0], [28, 5]], mirrored.matrix).tolist() == [[86 + 128, 0], [86 + 100, 5]]
    image = np.random.default_rng(0).integers(0, 256, (128, 300, 3), dtype=np.uint8)
    first, second = mirrored.pixels((image, image[::-1]), 128)
    assert np.array_equal(first, image[:, 86:214][:, ::-1]) and np.array_equal(second, image[::-1, 86:214][:, ::-1])
