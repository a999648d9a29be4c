"""Drawn annotations: where the pixels change, which colour they get, where labels go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.geometry.affine import hflip_matrix, transform_shape
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation
from qcvl.viz.draw import PALETTE, Style, desc_styles, draw_annotations
from qcvl.viz.fonts import PillowTypeface, default_typeface
from qcvl.viz.labels import place_labels
from qcvl.viz.text import badge_size

RED = Style((255, 0, 0))
SHAPES = [
    Shape("bbox_2d", [20, 30, 70, 60]),
    Shape("quad", [40, 20, 80, 40, 60, 80, 20, 60]),
    Shape("poly", [20, 20, 80, 20, 50, 50, 80, 80, 20, 80]),
    Shape("line", [10, 90, 40, 60, 60, 70, 90, 20]),
]


def photo(width: int = 100, height: int = 100) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def distance_to(outline: np.ndarray, width: int, height: int) -> np.ndarray:
    """Distance in px of each pixel centre to a path ``[N, 2]``, by projection on each segment."""
    y, x = np.mgrid[:height, :width] + 0.5
    centres = np.stack([x, y], axis=-1)
    distances = []
    for start, end in zip(outline, outline[1:], strict=False):
        along = np.clip((centres - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        distances.append(np.linalg.norm(centres - start - along[..., None] * (end - start), axis=-1))
    return np.min(distances, axis=0)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_pixels_change_along_the_outline_and_nowhere_else(shape):
    drawn = draw_annotations(photo(), [Annotation(shape, "a")], labels=[""], styles=[RED])
    path = shape.outline if shape.kind == "line" else np.vstack([shape.outline, shape.outline[:1]])
    distance = distance_to(path, 100, 100)

    assert (drawn[distance > 4] == 128).all()
    on_path = drawn[distance < 0.4].astype(int)
    assert (on_path[:, 0] > 200).all()
    assert (on_path[:, 1:] < 100).all()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.kind)
def test_drawing_a_mirrored_shape_gives_the_mirrored_drawing(shape):
    # Continuous edges: x goes to W - x. An error of one pixel would move a third of an outline's pixels.
    drawn = draw_annotations(photo(), [Annotation(shape, "a")], labels=[""], styles=[RED])
    mirrored = transform_shape(shape, hflip_matrix(100))
    other = draw_annotations(photo(), [Annotation(mirrored, "a")], labels=[""], styles=[RED])

    def mean_difference(shift: int) -> float:
        return float(np.abs(np.roll(other, shift, axis=1)[:, ::-1].astype(int) - drawn).mean())

    assert mean_difference(0) < mean_difference(1) / 3
    assert mean_difference(0) < mean_difference(-1) / 3


def test_the_photo_itself_is_left_alone():
    image = photo()
    draw_annotations(image, [Annotation(SHAPES[0], "a")])

    assert (image == 128).all()


@pytest.mark.parametrize(("scale", "shape"), [(1.0, (60, 100, 3)), (3.2, (192, 320, 3)), (0.5, (30, 50, 3))])
def test_the_picture_and_its_shapes_grow_with_the_scale(scale, shape):
    box = Annotation(Shape("bbox_2d", [20, 10, 80, 50]), "a")
    drawn = draw_annotations(photo(100, 60), [box], labels=[""], styles=[RED], scale=scale)

    assert drawn.shape == shape
    changed_y, changed_x = np.nonzero((drawn != 128).any(axis=-1))
    assert changed_x.min() == pytest.approx(20 * scale, abs=4)
    assert changed_x.max() == pytest.approx(80 * scale, abs=4)
    assert changed_y.min() == pytest.approx(10 * scale, abs=4)


@pytest.mark.parametrize(("pattern", "share", "strokes"), [("dashed", 9 / 15, 60), ("dotted", 1 / 7, 129)])
def test_dashes_and_dots_cover_their_share_of_the_outline(pattern, share, strokes):
    line = [Annotation(Shape("line", [10, 50, 910, 50]), "a")]
    row = draw_annotations(photo(920, 100), line, labels=[""], styles=[Style(RED.color, pattern)])[49] > 200
    solid = draw_annotations(photo(920, 100), line, labels=[""], styles=[RED])[49] > 200
    starts = np.flatnonzero(row[1:, 0] & ~row[:-1, 0])

    assert solid[20:900, 0].all()
    assert share <= row[20:900, 0].mean() < share + 0.35  # round ends make each stroke about one thickness longer
    assert abs(len(starts) - strokes) <= 1


@pytest.mark.parametrize("style", [RED, Style(RED.color, "dashed"), Style(RED.color, "dotted")])
def test_wild_coordinates_do_not_reach_the_picture_or_hang(style):
    wild = Annotation(Shape("bbox_2d", [-3e12, -3e12, 4e12, 4e12]), "a")

    assert (draw_annotations(photo(), [wild], labels=[""], styles=[style]) == 128).all()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(-20, 120), st.floats(-20, 120)), min_size=1, max_size=6),
    st.lists(st.sampled_from(["", "1", "screw", "螺丝/缺失"]), min_size=6, max_size=6),
)
def test_labels_stay_inside_the_picture(corners, texts):
    outlines = [np.array([[x, y], [x + 20, y], [x + 20, y + 10], [x, y + 10]]) for x, y in corners]
    texts = texts[: len(outlines)]

    for (x, y), text in zip(place_labels(outlines, texts, 12, (100, 120, 3), default_typeface()), texts, strict=True):
        width, height = badge_size(text, 12, default_typeface()) if text else (0, 0)
        assert 0 <= x <= 120 - width
        assert 0 <= y <= 100 - height


def test_labels_of_objects_in_one_place_do_not_cover_each_other():
    outline = np.array([[100.0, 100], [160, 100], [160, 140], [100, 140]])
    width, height = badge_size("screw", 12, default_typeface())
    corners = place_labels([outline] * 4, ["screw"] * 4, 12, (300, 300, 3), default_typeface())

    for index, (x, y) in enumerate(corners):
        assert all(abs(x - u) >= width or abs(y - v) >= height for u, v in corners[:index])


def test_an_only_label_stands_on_the_top_left_corner_of_its_box():
    outline = np.array([[50.0, 60], [90, 60], [90, 80], [50, 80]])
    _, height = badge_size("a", 12, default_typeface())

    assert place_labels([outline], ["a"], 12, (200, 200, 3), default_typeface()) == [(50, 60 - height)]


def test_a_text_no_font_can_write_becomes_the_objects_number():
    latin = PillowTypeface(None)
    objects = [Annotation(SHAPES[0], "screw"), Annotation(SHAPES[3], "螺丝")]
    style = [RED, RED]

    drawn = draw_annotations(photo(), objects, styles=style, typeface=latin)

    assert np.array_equal(
        drawn, draw_annotations(photo(), objects, labels=["screw", "2"], styles=style, typeface=latin)
    )


def test_descs_of_one_picture_have_colours_of_their_own_and_keep_them():
    names = [f"desc {number}" for number in range(len(PALETTE))]

    assert len({style.color for style in desc_styles(names)}) == len(PALETTE)
    assert desc_styles(["a", "b", "a"])[0] == desc_styles(["b", "a"])[1]
    assert len(desc_styles([str(number) for number in range(40)])) == 40
