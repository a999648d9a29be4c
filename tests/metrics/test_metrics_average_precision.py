"""Average precision: COCO's own evaluator, closed forms, ties, and samples with weights."""

import random

import numpy as np
import pytest

from qcvl.geometry.shapes import Shape
from qcvl.metrics.average_precision import (
    COCO_THRESHOLDS,
    RANKED_KINDS,
    RANKED_THRESHOLDS,
    average_precision,
    average_precision_metrics,
    mean_average_precision,
    mean_precisions,
    ranking,
)
from qcvl.schema.types import Annotation

SIZE = [(200.0, 200.0)]


def box(x1: float, y1: float, x2: float, y2: float, desc: str = "screw") -> Annotation:
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc)


def away(number: int, desc: str = "screw") -> Annotation:
    """Boxes that touch no other one."""
    return box(10 * number, 0, 10 * number + 5, 5, desc)


def photos(count: int, seed: int, *, decimals: int | None = None) -> list:
    """Photos with up to 6 true boxes of three descs, most of them answered askew, some twice, and inventions."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        truth, predicted = [], []
        for _ in range(rng.integers(0, 7)):
            corner, size = rng.uniform(0, 150, 2), rng.uniform(10, 50, 2)
            desc = str(rng.choice(["open", "short", "spur"]))
            truth.append(box(*corner, *(corner + size), desc))
            for _ in range(rng.integers(0, 3)):
                moved, grown = corner + rng.normal(0, 4, 2), size * rng.uniform(0.8, 1.2, 2)
                said = desc if rng.random() < 0.8 else str(rng.choice(["open", "short", "rare"]))
                predicted.append(box(*moved, *(moved + grown), said))
        scores = rng.uniform(0, 1, len(predicted))
        result.append((truth, predicted, scores if decimals is None else np.round(scores, decimals), SIZE))
    return result


def coco_map(records, threshold: float) -> float:
    """mAP by COCO's evaluator, whose answers of equal score keep their order."""
    from faster_coco_eval import COCO, COCOeval_faster

    names = sorted({note.desc for truth, predicted, _, _ in records for note in (*truth, *predicted)})
    gold, said = [], []
    for image, (truth, predicted, scores, _) in enumerate(records, 1):
        for notes, numbers, rows in ((truth, [1.0] * len(truth), gold), (predicted, scores, said)):
            for note, number in zip(notes, numbers, strict=True):
                x1, y1, x2, y2 = note.shape.bounds
                row = {"id": len(rows) + 1, "image_id": image, "category_id": names.index(note.desc) + 1}
                size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                rows.append(row | size | {"score": float(number)})
    data = {
        "images": [{"id": n, "width": 200, "height": 200} for n in range(1, len(records) + 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "annotations": gold,
    }
    truth = COCO(data)
    judge = COCOeval_faster(truth, truth.loadRes(said), iouType="bbox", print_function=lambda *_: None)
    judge.params.iouThrs = np.array([threshold])
    judge.evaluate()
    judge.accumulate()
    values = judge.eval["precision"][0, :, :, 0, -1]  # [recalls, classes] of all sizes, at most 100 answers a photo
    return float(values[values > -1].mean())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.33, 0.5, 0.75])
def test_map_is_that_of_coco(seed, threshold):
    records = photos(30, seed)
    assert mean_average_precision(records, threshold) == pytest.approx(coco_map(records, threshold), abs=1e-12)


def test_the_mean_over_cocos_ten_overlaps_is_that_of_coco():
    records = photos(30, 6)
    found = average_precision_metrics([ranking(*record) for record in records], "token_probability")
    ten = np.mean([coco_map(records, threshold) for threshold in COCO_THRESHOLDS])
    assert found["dense_map_token_probability@0.5:0.95"] == pytest.approx(ten, abs=1e-12)
    assert found["dense_map_token_probability@0.33"] == pytest.approx(coco_map(records, 0.33), abs=1e-12)
    assert len(found) == 4 and len(COCO_THRESHOLDS) == 10


def test_among_equal_scores_it_is_coco_with_the_wrong_answers_first():
    rng = np.random.default_rng(0)
    records, ordered = [], []
    for _ in range(60):  # one true object and one answer a photo: which answer takes which object is settled
        truth, right, score = [away(0)], rng.random() < 0.6, round(float(rng.random()), 1)
        answer = [away(0 if right else 3)]
        records.append((truth, answer, [score], SIZE))
        ordered.append((truth, answer, [score if right else score + 0.01], SIZE))
    assert len({score for _, _, (score,), _ in records}) < 12
    assert mean_average_precision(records) == pytest.approx(coco_map(ordered, 0.5), abs=1e-12)
    assert mean_average_precision(records) < coco_map(records, 0.5)


@pytest.mark.parametrize("decimals", [0, 1, None])
def test_no_order_of_records_or_objects_changes_a_value(decimals):
    records = photos(25, 3, decimals=decimals)
    expected = average_precision(records, 0.5)
    shuffle = random.Random(1)
    for _ in range(5):
        mixed = []
        for truth, predicted, scores, size in shuffle.sample(records, len(records)):
            order = shuffle.sample(range(len(predicted)), len(predicted))
            answers, numbers = [predicted[k] for k in order], [scores[k] for k in order]
            mixed.append((shuffle.sample(truth, len(truth)), answers, numbers, size))
        assert average_precision(mixed, 0.5) == expected


def test_with_constant_scores_it_is_the_precision_times_the_recalls_reached():
    truth = [away(number) for number in range(8)]
    predicted = [*truth[:6], away(12), away(13)]  # precision 6/8, recall 6/8: the recalls 0, .01 … .75 are reached
    assert average_precision([(truth, predicted, [1.0] * 8, SIZE)]) == {"screw": pytest.approx(0.75 * 76 / 101)}


def test_a_worked_example_takes_the_best_precision_at_a_recall_or_beyond():
    truth = [away(number) for number in range(4)]
    predicted = [away(9), truth[0], truth[1], away(10), truth[2]]
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]  # precisions at the recalls 1/4, 2/4, 3/4: 1/2, 2/3, 3/5
    expected = (51 * 2 / 3 + 25 * 3 / 5) / 101  # 0 … .50 and .51 … .75
    assert average_precision([(truth, predicted, scores, SIZE)]) == {"screw": pytest.approx(expected)}


def test_a_better_score_chooses_first_even_where_another_answer_fits_better():
    truth = [box(0, 0, 10, 10)]
    fits, askew = box(0, 0, 10, 10), box(0, 0, 10, 6)  # overlaps 1 and .6
    assert average_precision([(truth, [fits, askew], [0.2, 0.9], SIZE)])["screw"] == 1  # askew is right, and first
    assert average_precision([(truth, [fits, askew], [0.9, 0.2], SIZE)])["screw"] == 1


def test_the_mean_runs_over_descs_with_a_true_object_alone():
    truth = [away(0, "open"), away(1, "open"), away(2, "short")]
    predicted = [away(0, "open"), away(1, "open"), away(5, "ghost")]
    records = [(truth, predicted, [0.9, 0.8, 0.7], SIZE)]
    assert average_precision(records) == {"open": 1.0, "short": 0.0}
    assert mean_average_precision(records) == 0.5
    assert mean_average_precision([([], predicted, [1, 1, 1], SIZE)]) is None
    assert mean_average_precision([]) is None
    assert average_precision_metrics([ranking([], predicted, [1, 1, 1], SIZE)], "constant") == {}
    assert average_precision_metrics([], "constant") == {}


def test_lines_are_ranked_apart_from_regions():
    line = Annotation(Shape("line", [0, 100, 200, 100]), "cable")
    records = [([away(0), line], [away(3), line], [0.9, 0.4], SIZE)]
    values = {}
    for prefix, kinds in RANKED_KINDS.items():
        values |= average_precision_metrics([ranking(*record, kinds=kinds) for record in records], "constant", prefix)
    assert values["dense_map_constant@0.5"] == 0 and values["line_map_constant@0.5"] == 1


def test_objects_of_different_photos_of_a_record_never_match():
    truth, sizes = [away(0)], SIZE * 2
    other = Annotation(away(0).shape, "screw", image=1)
    assert mean_average_precision([(truth, [other], [1.0], sizes)]) == 0


def test_each_object_needs_a_score():
    with pytest.raises(ValueError, match="2 predicted objects have 1 scores"):
        ranking([], [away(0), away(1)], [1.0], SIZE)


@pytest.mark.parametrize("decimals", [1, None])
def test_a_weight_counts_a_record_as_often_as_repeating_it(decimals):
    records = photos(12, 9, decimals=decimals)
    rankings = [ranking(*record) for record in records]
    weights = np.random.default_rng(2).integers(0, 4, (20, len(records)))
    found = mean_precisions(rankings, weights)
    for row, values in zip(weights, found, strict=True):
        repeated = [item for item, times in zip(rankings, row, strict=True) for _ in range(times)]
        assert values == pytest.approx(mean_precisions(repeated)[0], nan_ok=True)
    assert found.shape == (20, len(RANKED_THRESHOLDS))


def test_a_sample_without_any_true_object_has_no_value():
    rankings = [ranking([away(0)], [away(0)], [1.0], SIZE), ranking([], [away(0)], [1.0], SIZE)]
    found = mean_precisions(rankings, np.array([[0, 2], [1, 1], [2, 0]]))
    assert np.isnan(found[0]).all() and found[1:].tolist() == [[0.5] * 11, [1.0] * 11]
