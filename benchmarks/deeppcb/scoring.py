"""Scores of scored boxes on DeepPCB photos: average precision, the threshold with the best F1, and the result table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.metrics.detection import THRESHOLDS, detection_metrics, per_class
from qcvl.metrics.matching import OVERLAP_DECIMALS, overlaps
from qcvl.schema.types import Annotation

RECALLS = np.linspace(0, 1, 101)
OWN_THRESHOLD = 0.33  # overlap from which DeepPCB's authors count a box


@dataclass(frozen=True)
class Judged:
    """One photo: true defects, found ones with their scores, and ``(width, height)``."""

    truth: Sequence[Annotation]
    found: Sequence[Annotation]
    scores: Sequence[float]
    size: tuple[int, int]

    def above(self, confidence: float) -> tuple:
        """The record as ``detection_metrics`` takes it, with the boxes of at least this score."""
        kept = [box for box, score in zip(self.found, self.scores, strict=True) if score >= confidence]
        return self.truth, kept, [self.size]


def best_confidence(photos: Sequence[Judged]) -> float:
    """The confidence with the largest F1 at an overlap of .33 on these photos, of the steps 0.02, 0.04 … 0.98."""
    steps = np.round(np.arange(0.02, 1, 0.02), 2).tolist()
    return max(steps, key=lambda step: f1(photos, step))


def f1(photos: Sequence[Judged], confidence: float) -> float:
    """F1 over all classes at an overlap of .33."""
    values = detection_metrics((photo.above(confidence) for photo in photos), thresholds=[OWN_THRESHOLD])
    return values.get(f"dense_f1@{OWN_THRESHOLD:g}", 0.0)


def scores(photos: Sequence[Judged], confidence: float) -> dict[str, float]:
    """F1, precision, recall and mAP at each overlap, and F1 of each class at .33 (``"open_f1@0.33"``)."""
    records = [photo.above(confidence) for photo in photos]
    pooled = detection_metrics(records)
    values = {
        f"{score}@{overlap:g}": pooled[f"dense_{score}@{overlap:g}"]
        for overlap in THRESHOLDS
        for score in ("f1", "p", "r")
    }
    values |= {f"map@{overlap:g}": mean_average_precision(photos, overlap) for overlap in THRESHOLDS}
    classes = per_class(records, threshold=OWN_THRESHOLD)
    return values | {f"{name}_f1@{OWN_THRESHOLD:g}": count.f1 for name, count in sorted(classes.items())}


def mean_average_precision(photos: Sequence[Judged], overlap: float) -> float:
    """COCO's AP at one overlap, mean over the classes that have defects: precision at 101 recalls.

    By falling score each box takes the free defect of its photo and class that it overlaps most, from ``overlap`` on.
    """
    names = {defect.desc for photo in photos for defect in photo.truth}
    return float(np.mean([_average_precision(photos, overlap, name) for name in names]))


def _average_precision(photos: Sequence[Judged], overlap: float, name: str) -> float:
    ranked: list[tuple[float, bool]] = []
    total = 0
    for photo in photos:
        truth = [defect for defect in photo.truth if defect.desc == name]
        columns = [j for j in np.argsort(photo.scores)[::-1] if photo.found[j].desc == name]
        table = np.round(overlaps(truth, [photo.found[j] for j in columns], [photo.size]), OVERLAP_DECIMALS)
        total += len(truth)
        for column, j in enumerate(columns):
            best = int(table[:, column].argmax()) if truth else -1
            right = bool(truth) and bool(table[best, column] >= overlap)
            if right:
                table[best] = -1  # taken
            ranked.append((photo.scores[j], right))
    ranked.sort(key=lambda box: -box[0])
    right = np.cumsum([hit for _, hit in ranked])
    precision = np.maximum.accumulate((right / np.arange(1, len(ranked) + 1))[::-1])[::-1]
    first = np.searchsorted(right / total, RECALLS, side="left")
    return (
        float(np.where(first < len(ranked), precision[np.minimum(first, len(ranked) - 1)], 0).mean()) if ranked else 0.0
    )
