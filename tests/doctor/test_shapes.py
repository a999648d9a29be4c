"""Shapes in bulk against the same rules applied shape by shape."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.doctor.shapes import BOUNDS_IOU, SAME_IOU, Shapes, look_at_shapes, turning
from qcvl.geometry import canonical_polygon, rotation_matrix
from qcvl.geometry.affine import apply_affine
from qcvl.geometry.clip import clip_shape, is_inside
from qcvl.geometry.grid import settle_on_grid
from qcvl.geometry.overlap import iou
from qcvl.geometry.shapes import Shape
from qcvl.schema.answer import answer_order, sort_annotations
from qcvl.schema.types import Annotation

SIZE = (60, 40)
number = st.integers(-10, 70) | st.sampled_from([0.01, 10.02, 59.99, 20.5])


@st.composite
def fields(draw):
    """Geometry, flat numbers, desc and image of one object that keeps the contract."""
    kind = draw(st.sampled_from(["bbox_2d", "quad", "poly", "line"]))
    desc, image = draw(st.sampled_from(["a", "b"])), draw(st.integers(0, 1))
    if kind == "bbox_2d":
        x, y = draw(number), draw(number)
        corners = [x, y, x + draw(st.sampled_from([0.01, 5, 30])), y + draw(st.sampled_from([0.01, 5, 5.1]))]
        return kind, corners, desc, image
    count = draw({"quad": st.just(4), "poly": st.integers(3, 6), "line": st.integers(2, 5)}[kind])
    points = draw(st.lists(st.tuples(number, number), min_size=count, max_size=count, unique=True))
    return kind, [value for point in points for value in point], desc, image


records = st.lists(st.lists(fields(), max_size=5), max_size=3)
few = settings(max_examples=40)  # each draws up to fifteen shapes


def found(rows, sizes=(SIZE, SIZE)):
    """``{code: {(record, object), …}}`` of some records."""
    table: dict[str, set] = {}
    for record, item, code, _ in look_at_shapes(Shapes.of(rows, [sizes] * len(rows))):
        table.setdefault(code, set()).add((record, item))
    return table


def notes_of(row):
    return [Annotation(Shape(kind, np.reshape(numbers, (-1, 2))), desc, image) for kind, numbers, desc, image in row]


def all_notes(rows):
    return [((r, k), note) for r, row in enumerate(rows) for k, note in enumerate(notes_of(row))]


@few
@given(records)
def test_outside_and_cut_are_what_clipping_says(rows):
    outside, cut = set(), set()
    for place, note in all_notes(rows):
        if not is_inside(note.shape.points, *SIZE):
            (cut if clip_shape(note.shape, *SIZE) else outside).add(place)
    table = found(rows)
    assert table.get("shape-outside", set()) == outside and table.get("shape-cut", set()) == cut


@few
@given(records)
def test_degenerate_is_what_the_grid_says_of_shapes_that_meet_the_frame(rows):
    wanted = set()
    for place, note in all_notes(rows):
        x1, y1, x2, y2 = note.shape.bounds
        if x2 >= 0 and y2 >= 0 and x1 <= SIZE[0] and y1 <= SIZE[1]:
            wanted |= {place} if settle_on_grid(note.shape, SIZE, "norm1000")[1] else set()
    assert found(rows).get("shape-degenerate", set()) == wanted


@few
@given(records)
def test_a_record_out_of_order_is_one_that_training_would_sort(rows):
    stored = [[sort_annotations([note])[0] for note in notes_of(row)] for row in rows]  # canonical, in their own order
    wanted = {number for number, notes in enumerate(stored) if answer_order(notes) != list(range(len(notes)))}
    assert {record for record, _ in found(rows).get("order", set())} == wanted


@few
@given(st.lists(fields(), min_size=2, max_size=6))
def test_a_duplicate_repeats_an_earlier_object_of_its_desc_image_and_kind(row):
    notes = notes_of(row)
    wanted = set()
    for second in range(len(notes)):
        for first in range(second):
            a, b = notes[first], notes[second]
            if (a.desc, a.image, a.shape.kind) == (b.desc, b.image, b.shape.kind):
                same = np.array_equal(a.shape.points, b.shape.points) or np.array_equal(
                    a.shape.points, b.shape.points[::-1]
                )
                near = iou(a.shape.bounds, b.shape.bounds) >= BOUNDS_IOU
                if same or (near and a.shape.kind != "line" and iou(a.shape, b.shape) > SAME_IOU):
                    wanted.add((0, second))
    assert found([row]).get("object-duplicate", set()) == wanted


@few
@given(records)
def test_crossed_polygons_are_those_shapely_calls_not_simple(rows):
    wanted = {
        place
        for place, note in all_notes(rows)
        if note.shape.kind == "poly" and not shapely.is_simple(shapely.linearrings(note.shape.points))
    }
    assert found(rows).get("poly-crossed", set()) == wanted


def test_without_a_known_size_nothing_is_outside_or_collapsed():
    row = [("bbox_2d", [-5, -5, 500, 500], "a", 0), ("bbox_2d", [700, 700, 700.0001, 800], "a", 0)]
    assert found([row], sizes=(None,)) == {}
    assert found([[], []]) == {} and len(Shapes.of([], [])) == 0


def test_a_thousand_equal_objects_are_a_thousand_less_one_duplicates():
    row = [("quad", [1, 1, 9, 1, 9, 9, 1, 9], "a", 0)] * 1000
    assert len(found([row])["object-duplicate"]) == 999


@given(st.floats(0, 360), st.floats(1, 50), st.floats(1, 50), st.sampled_from([1, -1]))
def test_a_rectangle_is_convex_at_any_angle_in_either_winding_and_its_bow_tie_is_crossed(angle, width, height, winding):
    rectangle = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    turned = apply_affine(rectangle, rotation_matrix(angle, (7, 9)))[::winding]
    quads = np.stack([turned, canonical_polygon(turned), turned[[0, 2, 1, 3]]])
    assert turning(quads).tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("quad", "bend"),
    [
        ([[0, 0], [10, 0], [2, 2], [0, 10]], 1),
        ([[0, 0], [5, 0], [10, 0], [0, 10]], 0),
        ([[0, 0], [10, 10], [10, 0], [0, 10]], 2),
    ],
)
def test_a_dart_is_dented_a_straight_corner_is_convex(quad, bend):
    assert turning(np.array([quad], dtype=float)).tolist() == [bend]
