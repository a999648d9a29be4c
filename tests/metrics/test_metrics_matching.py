"""Greedy matching against its definition, and the laws its counts obey."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry.shapes import Shape
from qcvl.metrics.matching import Matches, match, overlaps
from qcvl.schema.types import Annotation

SIZES = [(8.0, 8.0), (8.0, 8.0)]


def box(x1: float, y1: float, x2: float, y2: float, desc: str = "a", image: int = 0) -> Annotation:
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc, image)


@st.composite
def boxes(draw: st.DrawFn) -> Annotation:
    """A box on a coarse grid, so that equal boxes and equal overlaps are frequent."""
    x, y = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    width, height = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return box(x, y, x + width, y + height, draw(st.sampled_from("ab")), draw(st.integers(0, 1)))


sides = st.lists(boxes(), max_size=6)


def match_by_definition(truth, predicted, threshold, table, class_blind) -> Matches:
    """Again and again, of all pairs still free and allowed, take the one that overlaps most."""
    free = {(i, j) for i in range(len(truth)) for j in range(len(predicted))}
    free = {(i, j) for i, j in free if truth[i].image == predicted[j].image and table[i, j] >= threshold}
    free = {(i, j) for i, j in free if class_blind or truth[i].desc == predicted[j].desc}
    pairs = []
    while free:
        i, j = max(free, key=lambda pair: table[pair])
        pairs.append((i, j))
        free = {(k, m) for k, m in free if k != i and m != j}
    hit_truth, hit_predicted = {i for i, _ in pairs}, {j for _, j in pairs}
    misses = tuple(i for i in range(len(truth)) if i not in hit_truth)
    return Matches(tuple(pairs), misses, tuple(j for j in range(len(predicted)) if j not in hit_predicted))


@given(sides, sides, st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.33, 0.5, 0.75]), st.booleans())
def test_matching_repeatedly_takes_the_best_free_pair(truth, predicted, seed, threshold, class_blind):
    table = np.random.default_rng(seed).permutation(np.linspace(0.001, 1, len(truth) * len(predicted)))
    table = table.reshape(len(truth), len(predicted))  # distinct values: the definition has one answer

    found = match(truth, predicted, threshold, table, class_blind=class_blind)

    assert found == match_by_definition(truth, predicted, threshold, table, class_blind)


@given(sides, sides, st.randoms(use_true_random=False), st.booleans())
def test_counts_do_not_depend_on_the_order_of_objects_even_with_ties(truth, predicted, random, class_blind):
    shuffled_truth, shuffled_predicted = random.sample(truth, len(truth)), random.sample(predicted, len(predicted))

    before = match(truth, predicted, 0.3, overlaps(truth, predicted, SIZES), class_blind=class_blind)
    table = overlaps(shuffled_truth, shuffled_predicted, SIZES)
    after = match(shuffled_truth, shuffled_predicted, 0.3, table, class_blind=class_blind)

    assert before.counts == after.counts


@given(sides, sides, st.booleans())
def test_swapping_truth_and_prediction_swaps_precision_and_recall(truth, predicted, class_blind):
    one = match(truth, predicted, 0.3, overlaps(truth, predicted, SIZES), class_blind=class_blind).counts
    other = match(predicted, truth, 0.3, overlaps(predicted, truth, SIZES), class_blind=class_blind).counts

    assert (one.tp, one.fp, one.fn) == (other.tp, other.fn, other.fp)
    assert (one.precision, one.recall, one.f1) == (other.recall, other.precision, other.f1)


@given(sides, sides)
def test_a_higher_threshold_keeps_the_best_pairs_of_a_lower_one(truth, predicted):
    table = overlaps(truth, predicted, SIZES)
    low, high = match(truth, predicted, 0.2, table), match(truth, predicted, 0.6, table)

    assert high.pairs == low.pairs[: len(high.pairs)]


def test_a_tie_is_broken_by_geometry_and_not_by_position():
    # Overlaps are all 1/3, but for the outer pair, which does not touch: the order of choice decides 1 or 2 pairs.
    left, middle, right = box(0, 0, 2, 1), box(1, 0, 3, 1), box(2, 0, 4, 1)
    far_left = box(-1, 0, 1, 1)
    counts = {
        match(truth, predicted, 0.3, overlaps(truth, predicted, SIZES)).counts
        for truth in ([left, right], [right, left])
        for predicted in ([middle, far_left], [far_left, middle])
    }
    assert len(counts) == 1


def test_greedy_takes_the_best_pair_even_where_two_lesser_ones_were_possible():
    truth, predicted = [box(0, 0, 1, 1), box(0, 0, 1, 1)], [box(0, 0, 1, 1), box(0, 0, 1, 1)]
    table = np.array([[0.6, 0.9], [0.0, 0.8]])

    assert match(truth, predicted, 0.5, table) == Matches(((0, 1),), (1,), (0,))


def test_an_overlap_equal_to_the_threshold_counts():
    truth, predicted = [box(0, 0, 2, 1)], [box(0, 0, 1, 1)]  # 1 of 2 px²

    assert match(truth, predicted, 0.5, overlaps(truth, predicted, SIZES)).counts.tp == 1
    assert match(truth, predicted, 0.51, overlaps(truth, predicted, SIZES)).counts.tp == 0


def test_boxes_that_do_not_touch_never_match_even_at_threshold_zero():
    truth, predicted = [box(0, 0, 1, 1)], [box(5, 5, 6, 6)]

    assert match(truth, predicted, 0.0, overlaps(truth, predicted, SIZES)).pairs == ()


@pytest.mark.parametrize("other", [box(0, 0, 4, 4, "b"), box(0, 0, 4, 4, "a", image=1), box(0, 0, 4, 4, "a ")])
def test_another_desc_or_another_image_is_no_match(other):
    truth = [box(0, 0, 4, 4)]

    assert match(truth, [other], 0.5, overlaps(truth, [other], SIZES)).pairs == ()


def test_class_blind_matching_still_keeps_images_apart():
    truth, other = [box(0, 0, 4, 4)], [box(0, 0, 4, 4, "b", image=1)]

    assert match(truth, other, 0.5, np.ones((1, 1)), class_blind=True).pairs == ()


def test_overlaps_compare_regions_of_any_kind_and_never_a_line_with_a_region():
    quad = Annotation(Shape("quad", [0, 0, 4, 0, 4, 2, 0, 2]), "a")
    line = Annotation(Shape("line", [0, 0, 4, 2]), "a")

    table = overlaps([box(0, 0, 4, 4), line], [quad, line, box(0, 0, 4, 4, image=1)], SIZES)

    assert table == pytest.approx(np.array([[0.5, 0, 0], [0, 1, 0]]))


def test_lines_overlap_by_bands_of_two_percent_of_the_image_diagonal():
    # Diagonal 500 px: bands of 10 px to each side. One radius apart they share 1 of 3 radii, but for the round ends.
    a, b = (Annotation(Shape("line", [0, y, 100_000, y]), "a") for y in (0, 10))

    assert overlaps([a], [b], [(300, 400)])[0, 0] == pytest.approx(1 / 3, abs=1e-3)


def test_an_object_on_an_image_that_does_not_exist_overlaps_nothing():
    assert overlaps([box(0, 0, 4, 4)], [box(0, 0, 4, 4, image=7)], SIZES)[0, 0] == 0
    assert overlaps([box(0, 0, 4, 4, image=7)], [box(0, 0, 4, 4, image=7)], SIZES)[0, 0] == 0
