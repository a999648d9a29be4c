"""Pooled detection scores: worked examples, additivity over shards, and what a mean over batches gets wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.geometry.shapes import Shape
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.detection import DetectionTally, detection_metrics, per_class, tally
from qcvl.schema.types import Annotation

SIZE = [(100.0, 100.0)]


def box(x1: float, y1: float, x2: float, y2: float, desc: str = "screw") -> Annotation:
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc)


def quad(*numbers: float, desc: str = "label") -> Annotation:
    return Annotation(Shape("quad", numbers), desc)


def line(*numbers: float, desc: str = "cable") -> Annotation:
    return Annotation(Shape("line", numbers), desc)


@st.composite
def objects(draw: st.DrawFn) -> Annotation:
    x, y, width, height = (draw(st.integers(0, 50)) for _ in range(4))
    kind = draw(st.sampled_from(["bbox_2d", "quad", "line"]))
    corners = [(x, y), (x + width + 1, y), (x + width + 1, y + height + 1), (x, y + height + 1)]
    points = {"bbox_2d": corners[::2], "quad": corners, "line": corners[:3]}[kind]
    return Annotation(Shape(kind, points), draw(st.sampled_from(["a", "b"])))


records = st.lists(
    st.tuples(st.lists(objects(), max_size=4), st.lists(objects(), max_size=4), st.just(SIZE)), max_size=6
)


def test_a_worked_example_gives_every_score():
    truth = [box(0, 0, 10, 10), box(20, 0, 30, 10), quad(50, 50, 60, 50, 60, 60, 50, 60), line(0, 90, 90, 90)]
    predicted = [
        box(0, 0, 10, 8),  # IoU .8
        box(20, 0, 30, 10, "nut"),  # right place, wrong desc
        box(50, 50, 60, 60, "label"),  # a box for a quad: right as a region, wrong as a kind
        line(0, 90, 90, 90),
    ]

    scores = detection_metrics([(truth, predicted, SIZE)], thresholds=(0.5, 0.9))

    two_thirds = pytest.approx(2 / 3)
    assert scores["dense_p@0.5"] == scores["dense_r@0.5"] == scores["dense_f1@0.5"] == two_thirds
    assert scores["dense_f1@0.9"] == pytest.approx(1 / 3)
    assert scores["dense_loc_f1@0.5"] == 1
    assert scores["bbox_2d_p@0.5"] == pytest.approx(1 / 3)
    assert scores["bbox_2d_r@0.5"] == 1 / 2
    assert scores["bbox_2d_f1@0.5"] == pytest.approx(2 / 5)
    assert scores["quad_f1@0.5"] == 0
    assert scores["line_f1@0.9"] == 1
    assert scores["line_chamfer_px"] == pytest.approx(0, abs=1e-9)
    assert scores["dense_count_error"] == 0
    assert scores["dense_duplicate_rate"] == scores["dense_out_of_frame_rate"] == 0
    assert (scores["dense_objects"], scores["dense_predictions"]) == (4, 4)
    assert not any(key.startswith("poly") for key in scores)


def test_a_score_without_truth_and_prediction_is_absent_but_one_side_alone_gives_zero():
    nothing = detection_metrics([([], [], SIZE)])
    only_truth = detection_metrics([([box(0, 0, 1, 1)], [], SIZE)])
    only_predicted = detection_metrics([([], [box(0, 0, 1, 1)], SIZE)])

    assert nothing == {"dense_count_error": 0, "dense_objects": 0, "dense_predictions": 0}
    assert only_truth["dense_f1@0.5"] == only_truth["dense_p@0.5"] == only_truth["bbox_2d_f1@0.5"] == 0
    assert only_predicted["dense_f1@0.5"] == only_predicted["dense_r@0.5"] == 0
    assert "dense_duplicate_rate" not in only_truth
    assert not {key for key in only_truth if key.startswith(("line", "quad", "poly"))}


def test_the_prefix_names_the_pooled_scores_only():
    scores = detection_metrics([([box(0, 0, 1, 1)], [box(0, 0, 1, 1)], SIZE)], prefix="tiles", thresholds=(0.5,))

    assert {"tiles_f1@0.5", "tiles_loc_f1@0.5", "tiles_count_error", "bbox_2d_f1@0.5"} <= set(scores)
    assert not any(key.startswith("dense") for key in scores)


@given(st.lists(objects(), max_size=5, unique_by=lambda a: (a.shape, a.desc)))
def test_repeating_the_truth_scores_one_everywhere(truth):
    scores = detection_metrics([(truth, truth, SIZE)])

    assert {value for key, value in scores.items() if "@" in key} <= {1.0}


@given(records, st.integers(0, 6))
def test_tallies_of_shards_add_up_to_the_tally_of_the_whole(pairs, cut):
    first, second = (sum((tally(*pair) for pair in part), DetectionTally()) for part in (pairs[:cut], pairs[cut:]))
    whole = detection_metrics(pairs)

    assert (first + second).metrics() == pytest.approx(whole)
    assert (second + first).metrics() == pytest.approx(whole)


@given(records)
def test_swapping_truth_and_prediction_swaps_precision_and_recall_of_every_score(pairs):
    scores = detection_metrics(pairs)
    swapped = detection_metrics([(predicted, truth, sizes) for truth, predicted, sizes in pairs])

    for key, value in scores.items():
        if "_f1@" in key:
            assert swapped[key] == value
            assert swapped[key.replace("_f1@", "_p@")] == scores[key.replace("_f1@", "_r@")]


def test_the_mean_of_batch_values_differs_from_the_pooled_score():
    hit, miss = box(0, 0, 10, 10), box(50, 50, 60, 60)
    easy, hard = ([hit], [hit], SIZE), ([hit] + [miss] * 8, [hit], SIZE)
    key = "dense_f1@0.5"

    mean = np.mean([detection_metrics([pair])[key] for pair in (easy, hard)])
    pooled = detection_metrics([easy, hard])[key]

    assert mean == pytest.approx((1 + 2 / 10) / 2)  # F1 of 1/1/0 and of 1/0/8
    assert pooled == pytest.approx(2 * 2 / (2 * 2 + 0 + 8))
    assert mean - pooled > 0.2


def test_count_error_is_the_mean_over_records_of_the_difference_in_number():
    many, one = [box(0, 0, 1, 1)] * 3, [box(0, 0, 1, 1)]

    # 3 for 1, and 1 for 3: the errors are 2 and 2 and do not cancel.
    assert detection_metrics([(many, one, SIZE), (one, many, SIZE)])["dense_count_error"] == 2


def test_predictions_almost_on_top_of_each_other_are_duplicates_when_their_desc_is_the_same():
    repeated = [box(0, 0, 100, 100), box(0, 0, 100, 95), box(0, 0, 100, 100, "nut"), box(0, 0, 100, 50)]

    assert detection_metrics([([], repeated, SIZE)])["dense_duplicate_rate"] == 2 / 4


def test_repeated_lines_are_duplicates_too():
    assert detection_metrics([([], [line(0, 0, 50, 50)] * 3, SIZE)])["dense_duplicate_rate"] == 1


def test_a_prediction_beyond_its_image_or_on_none_is_out_of_frame():
    predicted = [
        box(0, 0, 100, 100),
        box(-1, 0, 100, 100),
        line(0, 0, 100, 100.5),
        Annotation(Shape("bbox_2d", [0, 0, 1, 1]), "screw", image=1),
    ]

    assert detection_metrics([([], predicted, SIZE)])["dense_out_of_frame_rate"] == 3 / 4


def test_per_class_counts_are_worked_out_by_hand_and_sorted_by_frequency():
    truth = [box(0, 0, 10, 10, "nut"), box(20, 0, 30, 10), box(40, 0, 50, 10), line(0, 90, 90, 90)]
    predicted = [box(0, 0, 10, 10, "screw"), box(20, 0, 30, 10), line(0, 90, 90, 90), box(70, 0, 80, 10, "ghost")]

    assert list(per_class([(truth, predicted, SIZE)]).items()) == [
        ("screw", DetectionCounts(tp=1, fp=1, fn=1)),
        ("cable", DetectionCounts(tp=1)),
        ("nut", DetectionCounts(fn=1)),
        ("ghost", DetectionCounts(fp=1)),
    ]


@given(records)
def test_per_class_counts_every_object_once(pairs):
    total = sum(per_class(pairs).values(), DetectionCounts())

    assert total.tp + total.fn == sum(len(truth) for truth, _, _ in pairs)
    assert total.tp + total.fp == sum(len(predicted) for _, predicted, _ in pairs)
