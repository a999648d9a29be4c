"""Scores by class, what misnamed objects were said to be, and the score from which objects count."""

import numpy as np
import pytest

from qcvl.metrics.average_precision import average_precision
from qcvl.metrics.classes import ClassScores, ClassTable, Confusion, class_scores, class_table, confusions
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.detection import detection_metrics
from qcvl.metrics.operating_point import best_threshold
from tests.metrics.test_metrics_average_precision import SIZE, away, box, photos

TRUTH = [away(0, "open"), away(1, "open"), away(2, "open"), away(3, "short"), away(4, "spur")]
SAID = [away(0, "open"), away(1, "short"), away(2, "short"), away(3, "short"), away(7, "short"), away(4, "ghost")]
RECORD = (TRUTH, SAID, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], SIZE)


def test_each_class_has_its_counts_and_average_precision_the_most_frequent_first():
    open_, short, spur, ghost = class_scores([RECORD], 0.5)
    assert open_ == ClassScores("open", DetectionCounts(1, 0, 2), pytest.approx(34 / 101))  # recalls 0 … .33
    assert short == ClassScores("short", DetectionCounts(1, 3, 0), pytest.approx(1 / 3))  # third of three by score
    assert spur == ClassScores("spur", DetectionCounts(0, 0, 1), 0.0)
    assert ghost == ClassScores("ghost", DetectionCounts(0, 1, 0), None)
    assert [row.truths for row in (open_, short, spur, ghost)] == [3, 1, 1, 0]


def test_objects_below_the_threshold_count_for_average_precision_alone():
    rows = {row.desc: row for row in class_scores([RECORD], 0.5, threshold=0.7)}
    assert rows["short"].counts == DetectionCounts(0, 2, 1)
    assert rows["short"].average_precision == pytest.approx(1 / 3)
    assert "ghost" not in rows


def test_the_overlap_decides_what_is_found():
    record = ([box(0, 0, 10, 10)], [box(0, 0, 10, 6)], [1.0], SIZE)
    assert [class_scores([record], overlap)[0].counts.tp for overlap in (0.5, 0.75)] == [1, 0]


def test_class_scores_and_their_mean_are_those_of_each_class_alone():
    records = photos(30, 4)
    rows = class_scores(records, 0.5)
    for row in rows:
        alone = [
            ([note for note in truth if note.desc == row.desc], [p for p in said if p.desc == row.desc], SIZE)
            for truth, said, _, _ in records
        ]
        assert row.counts.f1 == detection_metrics(alone)["dense_f1@0.5"]
    precisions = average_precision(records)
    assert {row.desc: row.average_precision for row in rows if row.truths} == precisions
    table = class_table(records, 0.5)
    assert table.classes == rows and table.confusions == confusions(records, 0.5)
    assert table.macro["ap"] == pytest.approx(np.mean(list(precisions.values())))
    assert table.macro["f1"] == pytest.approx(np.mean([row.counts.f1 for row in rows if row.truths]))
    assert {row.desc for row in rows} - set(precisions) == {"rare"} and ClassTable(0.5, [], []).macro == {}


def test_confusions_say_what_a_misnamed_object_was_said_to_be():
    assert confusions([RECORD], 0.5) == [Confusion("open", "short", 2), Confusion("spur", "ghost", 1)]
    assert confusions([RECORD, RECORD], 0.5, threshold=0.75) == [Confusion("open", "short", 2)]


def test_a_second_answer_about_a_found_object_confuses_nothing():
    assert confusions([([away(0, "open")], [away(0, "short"), away(0, "open")], [0.9, 0.1], SIZE)], 0.5) == []


@pytest.mark.parametrize("decimals", [1, 3])
def test_the_best_threshold_is_the_best_of_all_that_were_tried_one_by_one(decimals):
    records = photos(8, 8, decimals=decimals)

    def f1(threshold: float) -> float:
        kept = [
            (truth, [p for p, score in zip(said, scores, strict=True) if score >= threshold], size)
            for truth, said, scores, size in records
        ]
        return detection_metrics(kept)["dense_f1@0.33"]

    tried = sorted({float(score) for _, _, scores, _ in records for score in scores})
    threshold, value = best_threshold(records, 0.33)
    assert value == max(map(f1, tried)) == f1(threshold)
    assert threshold == min(score for score in tried if f1(score) == value)
    assert f1(0.0) < value


def test_the_best_threshold_follows_the_overlap():
    truth = [box(0, 0, 10, 10), away(5), away(6)]
    said = [box(0, 0, 10, 10), box(50, 0, 55, 3)]  # right, and right from an overlap of .6 down
    record = (truth, said, [0.9, 0.4], SIZE)
    assert best_threshold([record], 0.5) == (0.4, 0.8)
    assert best_threshold([record], 0.75) == (0.9, 0.5)
    assert best_threshold([(truth, [], [], SIZE)], 0.5) is None
