"""Merging by votes, worked out by hand: two windows of 100 px that share 20, unless said otherwise."""

import numpy as np
import pytest

from qcvl.geometry.shapes import Shape
from qcvl.inference.settings import Tiles
from qcvl.inference.votes import Seen, merge
from qcvl.schema.types import Annotation

TILES = Tiles(size=100, overlap=20, views=1, border_weight=0.7, same_iou=0.3)
CORNERS = [(0, 0), (80, 0)]
SIZE = (180, 100)


def seen(points, desc="a", score=1.0, look=0, kind="bbox_2d", image=0) -> Seen:
    return Seen(Annotation(Shape(kind, points), desc, image), score, look)


def merged(*items, corners=CORNERS, size=SIZE, tiles=TILES):
    notes, scores = merge(items, corners, size, tiles)
    rows = zip(notes, scores, strict=True)
    return [(note.shape.points.ravel().round(9).tolist(), note.desc, pytest.approx(score)) for note, score in rows]


def test_nothing_seen_is_nothing():
    assert merge([], CORNERS, SIZE, TILES) == ([], [])


def test_an_object_in_one_window_has_its_own_score():
    assert merged(seen([10, 10, 30, 30], score=0.6)) == [([10, 10, 30, 30], "a", 0.6)]


def test_an_object_two_windows_see_whole_needs_both_votes():
    one, two = seen([83, 10, 95, 30], score=0.8), seen([83, 10, 95, 34], score=0.4, look=1)
    assert merged(one) == [([83, 10, 95, 30], "a", 0.8 / 2)]
    assert merged(one, two) == [([83, 10, 95, round((30 * 2 + 34) / 3, 9)], "a", 1.2 / 2)]  # the mean by score


def test_a_cut_piece_votes_with_its_weight_and_leaves_the_shape_alone():
    whole, piece = seen([90, 10, 120, 30], score=0.5, look=1), seen([90, 10, 100, 30], score=0.6)
    assert merged(whole, piece) == [([90, 10, 120, 30], "a", 0.5 + 0.7 * 0.6)]  # one window can see it whole
    light = Tiles(size=100, overlap=20, views=1, border_weight=0.0, same_iou=0.3)
    assert merged(whole, piece, tiles=light) == [([90, 10, 120, 30], "a", 0.5)]


def test_the_photos_own_border_cuts_nothing():
    assert merged(seen([150, 0, 180, 30], score=0.5, look=1)) == [([150, 0, 180, 30], "a", 0.5)]
    near = (
        seen([150, 0, 179, 30], score=0.5, look=1),
        seen([70, 0, 98, 30], score=0.5, look=0),
    )  # 1 px and 2 px from one
    assert merged(*near) == [([150, 0, 179, 30], "a", 0.5), ([70, 0, 98, 30], "a", 0.5)]


def test_a_window_that_may_cut_an_object_is_expected_to_vote_with_the_weight_it_has():
    inside, touching = seen([85, 10, 98, 30], score=0.8, look=1), seen([85, 10, 98, 30], score=0.4)
    assert merged(inside, touching) == [([85, 10, 98, 30], "a", (0.8 + 0.7 * 0.4) / 1.7)]
    assert merged(inside) == [([85, 10, 98, 30], "a", 0.8 / 1.7)]


def test_the_sum_of_scores_names_an_object_and_confidence_counts_only_that_name():
    corners = [(0, 0)] * 3  # three views of one window
    items = [seen([10, 10, 30, 30], desc, score, look) for look, (desc, score) in enumerate(VOTES)]
    assert merged(*items, corners=corners, size=(100, 100)) == [([10, 10, 30, 30], "b", (0.4 + 0.3) / 3)]


VOTES = (("a", 0.6), ("b", 0.4), ("b", 0.3))


def test_confidence_is_at_most_one():
    whole, piece = seen([90, 10, 120, 30], look=1), seen([90, 10, 100, 30])
    assert merged(whole, piece) == [([90, 10, 120, 30], "a", 1.0)]


def test_same_iou_decides_what_is_one_object():
    boxes = [seen([10, 10, 30, 30]), seen([10, 20, 30, 40], look=1)]  # IoU 1/3
    strict = Tiles(size=100, overlap=20, views=1, border_weight=0.7, same_iou=0.4)
    same = [(0, 0), (0, 0)]
    assert len(merged(*boxes, corners=same, size=(100, 100))) == 1
    assert len(merged(*boxes, corners=same, size=(100, 100), tiles=strict)) == 2


def test_what_one_answer_lists_are_different_objects():
    items = [seen([10, 10, 60, 60], "cabinet"), seen([10, 10, 60, 55], "door")]
    assert len(merged(*items)) == 2
    both = [*items, seen([10, 10, 60, 60], "cabinet", look=1), seen([10, 10, 60, 55], "door", look=1)]
    same = [(0, 0), (0, 0)]
    assert sorted(merged(*both, corners=same, size=(100, 100)), key=lambda row: row[1]) == [
        ([10, 10, 60, 60], "cabinet", 1.0),
        ([10, 10, 60, 55], "door", 1.0),
    ]


def test_a_small_object_on_a_large_one_is_no_piece_of_it_unless_it_is_cut():
    cabinet, label = seen([10, 10, 70, 70], "cabinet"), seen([30, 30, 40, 40], "label", look=1)
    assert len(merged(cabinet, label, corners=[(0, 0), (0, 0)], size=(100, 100))) == 2
    cut = seen([85, 10, 100, 40], "cabinet", 0.9)
    assert len(merged(cut, seen([85, 10, 150, 40], "cabinet", look=1))) == 1


def test_a_box_cut_in_every_window_takes_each_side_from_the_piece_that_has_it():
    # 60 px wide across the 20 px that two windows share: whole in neither.
    left, right = seen([60, 10, 100, 30], score=0.5), seen([80, 12, 120, 30], score=0.5, look=1)
    corners, size = [(0, 0), (80, 0)], (180, 100)
    loose = Tiles(size=100, overlap=20, views=1, border_weight=0.7, same_iou=0.25)
    assert merged(left, right, corners=corners, size=size, tiles=loose) == [([60, 11, 120, 30], "a", 0.5)]


def test_objects_of_different_photos_of_a_set_are_different():
    items = [seen([10, 10, 30, 30]), seen([10, 10, 30, 30], look=1, image=1)]
    assert len(merged(*items, corners=[(0, 0), (0, 0)], size=(100, 100))) == 2


def test_quads_are_averaged_vertex_by_vertex_also_when_they_start_at_another_one():
    first = [[20, 10], [40, 20], [30, 40], [10, 30]]  # x + y: 30, 60, 70, 40
    other = [[8, 30], [22, 10], [40, 22], [30, 38]]  # nearly the same ring, from its last vertex
    items = [seen(first, kind="quad"), seen(other, kind="quad", look=1)]
    ((points, _, score),) = merged(*items, corners=[(0, 0), (0, 0)], size=(100, 100))
    assert points == [21, 10, 40, 21, 30, 39, 9, 30] and score == 1.0


def test_shapes_of_another_kind_or_vertex_count_vote_but_are_not_averaged():
    quad = [[20, 10], [40, 10], [40, 30], [20, 30]]
    five = [[20, 10], [40, 10], [41, 20], [40, 30], [20, 30]]
    items = [seen(quad, kind="quad", score=0.9), seen([20, 10, 42, 30], look=1, score=0.5)]
    items += [seen(five, kind="poly", look=2, score=0.4)]
    found = merged(*items, corners=[(0, 0)] * 3, size=(100, 100))
    assert found == [(np.ravel(quad).tolist(), "a", (0.9 + 0.5 + 0.4) / 3)]


def test_a_line_through_two_windows_is_one_line_without_the_cut_ends():
    left = seen([[10, 50], [60, 50], [100, 70]], kind="line", score=0.8)
    right = seen([[80, 60], [120, 80], [170, 80]], kind="line", score=0.6, look=1)
    ((points, desc, score),) = merged(left, right)
    assert points == [10, 50, 60, 50, 120, 80, 170, 80] and desc == "a"
    assert score == 0.7  # the mean of 0.8 and 0.6: both pieces measure 50 + sqrt(40² + 20²) px


def test_a_line_both_windows_see_whole_is_one_line():
    same = [[84, 20], [96, 80]]
    found = merged(seen(same, kind="line", score=0.5), seen(same, kind="line", score=0.7, look=1))
    assert found == [([84, 20, 96, 80], "a", 0.6)]


def test_lines_that_only_cross_or_have_another_desc_stay_apart():
    left, right = seen([[10, 50], [100, 50]], kind="line"), seen([[80, 50], [170, 50]], "b", kind="line", look=1)
    assert len(merged(left, right)) == 2
    crossing = seen([[90, 10], [90, 90]], kind="line", look=1)
    assert len(merged(left, crossing)) == 2


def test_a_box_on_a_line_is_no_piece_of_it():
    assert len(merged(seen([[10, 50], [60, 50]], kind="line"), seen([20, 48, 40, 52], look=1))) == 2
