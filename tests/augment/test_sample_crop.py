"""Windows of large photos: where they lie, what they list, and all eight flips and turns of what they show."""

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.augment.base import Compose
from qcvl.augment.crop import SampleCrop
from qcvl.augment.spatial import FlipTurn
from qcvl.augment.view import view_of
from qcvl.data.dataset import window
from qcvl.errors import ConfigError
from qcvl.geometry.affine import apply_affine, flip_turn_matrix, transform_shape
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.overlap import coverage, iou
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample

BOX = Shape("bbox_2d", [100, 120, 140, 150])
QUAD = Shape("quad", [60, 200, 90, 190, 100, 220, 70, 230])
LINE = Shape("line", [10, 10, 190, 20, 180, 250])
SIZE = (200, 260)  # width, height


def crop(**changes):
    return SampleCrop(**{"size": 64, "aimed_share": 0.7, "empty_share": 0.0, "min_coverage": 0.5} | changes)


def sample(*shapes, size=SIZE):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Sample(images=(pixels,), annotations=tuple(Annotation(s, s.kind) for s in shapes), task="dense")


def corner_of(cut, whole):
    """The window's top left pixel ``(x, y)``, found by looking for its pixels in the photo."""
    found = cv2.matchTemplate(whole, cut, cv2.TM_SQDIFF)
    _, _, (x, y), _ = cv2.minMaxLoc(found)
    assert np.array_equal(whole[y : y + cut.shape[0], x : x + cut.shape[1]], cut)
    return x, y


@pytest.mark.parametrize("shapes", [(BOX, QUAD, LINE), (BOX,), ()])
def test_a_window_shows_its_pixels_and_lists_what_is_visible_from_the_share_on(shapes):
    whole = sample(*shapes)
    for index in range(25):
        cut = window(crop())(whole, (0, 0, index))
        x, y = corner_of(cut.images[0], whole.images[0])
        expected = Counter()
        for shape in shapes:
            if coverage(shape, (x, y, x + 64, y + 64)) >= 0.5:
                moved = Shape(shape.kind, shape.points - (x, y))
                expected.update(part.kind for part in clip_shape(moved, 64, 64))
        assert Counter(note.shape.kind for note in cut.annotations) == expected
        for note in cut.annotations:
            whole_shape = next(shape for shape in shapes if shape.kind == note.desc)
            if note.desc == "bbox_2d":
                (part,) = clip_shape(Shape("bbox_2d", whole_shape.points - (x, y)), 64, 64)
                assert np.array_equal(note.shape.points, part.points)


def corners(shapes, count, **changes):
    """Top left pixels ``[count, 2]`` of windows drawn for a photo with ``shapes``."""
    view = view_of(enumerate(Annotation(shape, "x") for shape in shapes), SIZE, "dense", [])
    actions = (crop(**changes).draw(view, np.random.default_rng(index)) for index in range(count))
    return np.array([action.window[:2] for action in actions])


def test_the_shares_are_kept():
    """Of windows at random places about 1 in 5 shows the box's centre; aimed ones all do, empty ones never."""
    center = np.array([120, 135])

    def share(**changes):
        corner = corners([BOX], 400, **changes)
        return ((corner <= center) & (center <= corner + 64)).all(axis=1).mean()

    anywhere = (65 / 137) * (65 / 197)  # of the 137 x 197 window places, 65 x 65 hold the centre
    for aimed in (0.0, 0.4, 1.0):
        expected = aimed + (1 - aimed) * anywhere
        assert abs(share(aimed_share=aimed) - expected) < 4 * np.sqrt(0.25 / 400)
    assert share(aimed_share=0.0, empty_share=1.0) == 0
    assert 0.4 < share(aimed_share=0.5, empty_share=0.5) < 0.6


def test_the_centre_of_an_aimed_object_is_anywhere_in_the_window():
    places = np.array([100, 130]) - corners([Shape("bbox_2d", [95, 125, 105, 135])], 300, aimed_share=1.0)
    assert places.min() <= 4 and places.max() >= 60
    assert np.all(np.abs(places.mean(axis=0) - 32) < 4 * 64 / np.sqrt(12 * 300))


def test_empty_windows_show_no_part_of_any_object():
    for x, y in corners([BOX, QUAD], 100, size=32, aimed_share=0.0, empty_share=1.0):
        assert all(coverage(shape, (x, y, x + 32, y + 32)) == 0 for shape in (BOX, QUAD))


def test_a_photo_smaller_than_the_window_is_padded_with_grey_and_keeps_its_coordinates():
    small = sample(Shape("bbox_2d", [5, 6, 20, 30]), size=(40, 50))
    cut = window(crop())(small, (0, 0, 0))
    assert cut.images[0].shape == (64, 64, 3)
    assert np.array_equal(cut.images[0][:50, :40], small.images[0])
    assert (cut.images[0][50:] == 128).all() and (cut.images[0][:, 40:] == 128).all()
    assert cut.annotations[0].shape.points.tolist() == [[5, 6], [20, 30]]


def test_two_images_of_a_sample_show_the_same_window():
    whole = sample(BOX)
    twice = Sample(images=whole.images * 2, annotations=whole.annotations, task="dense")
    for index in range(20):
        first, second = window(crop())(twice, (0, 0, index)).images
        assert np.array_equal(first, second)


def test_shares_above_one_are_refused():
    with pytest.raises(ConfigError, match=r"aimed_share \+ empty_share is 1.2; expected at most 1"):
        crop(aimed_share=0.7, empty_share=0.5)


# Pixels of a 2 x 3 canvas (rows 012 / 345) after each of the eight, by hand.
EIGHT = {
    0: ["012", "345"],
    1: ["210", "543"],
    2: ["345", "012"],
    3: ["543", "210"],
    4: ["03", "14", "25"],
    5: ["25", "14", "03"],
    6: ["30", "41", "52"],
    7: ["52", "41", "30"],
}


@pytest.mark.parametrize("index", range(8))
def test_each_flip_and_turn_moves_a_pixels_edges_to_where_it_was_drawn_by_hand(index):
    matrix = flip_turn_matrix(index, 3, 2)
    for number in range(6):
        row, column = divmod(number, 3)
        corners = apply_affine([[column, row], [column + 1, row + 1]], matrix)
        x, y = corners.min(axis=0).astype(int)
        assert EIGHT[index][y][x] == str(number)


def turned(whole, index):
    """The sample after the ``index``-th flip or turn, and which draw gave it."""
    compose = Compose(
        ops={"flip_turn": FlipTurn(p=1.0)},
        order=["flip_turn"],
        min_coverage=0.3,
        bypass_prob=0.0,
        fill=128,
        share_draw=False,
        phases=[],
    )
    return compose(whole, (0, 0, index))


@pytest.mark.parametrize("size", [(64, 64), (50, 34)])
def test_all_eight_come_equally_often_and_pixels_and_shapes_stay_together(size):
    shapes = (
        Shape("bbox_2d", [3, 4, 20, 12]),
        Shape("quad", [30, 5, 45, 9, 40, 25, 28, 20]),
        Shape("line", [2, 30, 20, 16, 45, 31]),
    )
    whole = sample(*shapes, size=size)
    canvases = [sample(size=size).images[0]]
    seen = Counter()
    for index in range(240):
        after = turned(whole, index)
        (pixels,) = after.images
        (which,) = [k for k in range(8) if np.array_equal(pixels, by_numpy(canvases[0], k))]
        seen[which] += 1
        matrix = flip_turn_matrix(which, *size)
        moved = {shape.kind: transform_shape(shape, matrix) for shape in shapes}
        assert len(after.annotations) == 3
        for note in after.annotations:
            expected = moved[note.desc]
            if note.desc == "line":
                assert sorted(map(tuple, note.shape.points)) == sorted(map(tuple, expected.points))
            else:
                assert note.shape.kind == expected.kind and iou(note.shape, expected) == pytest.approx(1)
    assert len(seen) == 8 and max(abs(count - 30) for count in seen.values()) < 4 * np.sqrt(240 / 8 * 7 / 8)


def by_numpy(pixels, index):
    """The same flip or turn of pixels ``[H, W, 3]`` by numpy's own functions."""
    pixels = pixels[:, ::-1] if index & 1 else pixels
    pixels = pixels[::-1] if index & 2 else pixels
    return pixels.transpose(1, 0, 2) if index & 4 else pixels


@given(st.integers(0, 7), st.integers(1, 40), st.integers(1, 40))
def test_a_flip_or_turn_keeps_the_frame(index, width, height):
    corners = apply_affine([[0, 0], [width, height]], flip_turn_matrix(index, width, height))
    size = (height, width) if index >= 4 else (width, height)
    assert corners.min(axis=0).tolist() == [0, 0] and corners.max(axis=0).tolist() == list(size)


def test_text_with_a_direction_is_not_turned():
    whole = sample(BOX)
    told = Sample(images=whole.images, annotations=(Annotation(BOX, "screw, top left"),), task="dense")
    after = turned(told, 3)
    assert np.array_equal(after.images[0], told.images[0]) and after.telemetry["flip_turn/directional_text"] == 1
