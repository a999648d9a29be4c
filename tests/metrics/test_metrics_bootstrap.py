"""Intervals: the same draws one by one in plain Python, groups that agree, and how often the truth is covered."""

import numpy as np
import pytest

from qcvl.geometry.shapes import Shape
from qcvl.metrics import bootstrap
from qcvl.metrics.bootstrap import draws, intervals
from qcvl.metrics.judgement import judge, judged_metrics
from qcvl.schema.types import Annotation
from tests.metrics.test_metrics_average_precision import SIZE, away, photos


def test_intervals_are_those_of_drawing_groups_one_by_one(monkeypatch):
    monkeypatch.setattr(bootstrap, "_CELLS", 300)  # several parts
    line = Annotation(Shape("line", [0, 100, 200, 100]), "cable")
    records = photos(14, 5, decimals=1)
    records = [([*truth, line], [*said, line], [*scores, 0.5], size) for truth, said, scores, size in records]
    judged = [judge(*record, threshold=0.3) for record in records]
    groups = [number % 6 for number in range(14)]  # of two and three records
    found = intervals(judged, groups, "constant", seed=3, resamples=40)

    samples = []
    for row in draws(6, seed=3, resamples=40):
        drawn = [item for group, times in enumerate(row) for _ in range(times)
                 for item, own in zip(judged, groups, strict=True) if own == group]  # fmt: skip
        samples.append(judged_metrics(drawn, "constant"))
    whole = judged_metrics(judged, "constant")
    assert set(found) == {key for key in whole if "@" in key} > {"line_f1@0.5", "dense_map_constant@0.5:0.95"}
    for key, interval in found.items():
        values = [sample[key] for sample in samples if key in sample]
        assert interval == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12), key
        assert interval[0] <= whole[key] <= interval[1], key


def test_each_resample_draws_as_many_groups_as_there_are_and_the_seed_decides_which():
    rows = draws(50, seed=1)
    assert rows.shape == (2000, 50) and (rows.sum(axis=1) == 50).all()
    assert np.array_equal(rows, draws(50, seed=1)) and not np.array_equal(rows, draws(50, seed=2))
    assert (rows == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_groups_that_agree_leave_no_doubt():
    record = ([away(0), away(1)], [away(0), away(5)], [0.9, 0.8], SIZE)
    for low, high in intervals([judge(*record)] * 7, range(7), "constant", seed=0).values():
        assert low == high


def test_records_of_one_group_are_drawn_together():
    good, bad = judge([away(0)], [away(0)], [1.0], SIZE), judge([away(0)], [], [], SIZE)
    apart = intervals([good, bad] * 10, range(20), "constant", seed=0)["dense_r@0.5"]
    paired = intervals([good, bad] * 10, [n // 2 for n in range(20)], "constant", seed=0)["dense_r@0.5"]
    assert paired == (0.5, 0.5) and apart[0] < 0.4 < 0.6 < apart[1]


def test_of_one_group_there_is_no_interval():
    one = judge([away(0)], [away(0)], [1.0], SIZE)
    assert intervals([one, one], ["a", "a"], "constant", seed=0) == {} == intervals([], [], "constant", seed=0)


def test_a_resample_with_nothing_to_count_is_left_out():
    nothing, found = judge([], [], [], SIZE), judge([away(0)], [away(0)], [1.0], SIZE)
    values = intervals([nothing, found], "ab", "constant", seed=0)
    assert values["dense_f1@0.5"] == values["dense_map_constant@0.5"] == (1.0, 1.0)
    assert "line_f1@0.5" not in values


def test_an_interval_covers_the_true_recall_about_95_times_in_100():
    rng, covered = np.random.default_rng(0), 0
    found, missed = judge([away(0)], [away(0)], [1.0], SIZE), judge([away(0)], [], [], SIZE)
    for seed in range(100):
        records = [found if right else missed for right in rng.random(60) < 0.7]
        low, high = intervals(records, range(60), "constant", seed=seed, resamples=400)["dense_r@0.5"]
        covered += low <= 0.7 <= high
    assert 88 <= covered <= 100
