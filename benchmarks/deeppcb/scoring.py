"""Scores of scored boxes on DeepPCB photos: the confidence with the best F1, F1 and mean average precision at it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.metrics.average_precision import mean_average_precision
from qcvl.metrics.detection import THRESHOLDS, detection_metrics, per_class
from qcvl.schema.types import Annotation

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
    ranked = [(photo.truth, photo.found, photo.scores, [photo.size]) for photo in photos]
    values |= {f"map@{overlap:g}": mean_average_precision(ranked, threshold=overlap) or 0.0 for overlap in THRESHOLDS}
    classes = per_class(records, threshold=OWN_THRESHOLD)
    return values | {f"{name}_f1@{OWN_THRESHOLD:g}": count.f1 for name, count in sorted(classes.items())}
