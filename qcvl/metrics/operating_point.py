"""From which score on an object should count: the threshold with the best F1 on given answers."""

from collections.abc import Iterable

import numpy as np

from qcvl.metrics.average_precision import Scored
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.judgement import at_least
from qcvl.metrics.matching import match, overlaps


def object_counts(record: Scored, overlap: float, threshold: float = 0.0) -> DetectionCounts:
    """One record's objects of all kinds, found from ``overlap`` on; those that score below ``threshold`` are left out.

    Regions match regions, and lines match lines.
    """
    truth, predicted, scores, sizes = record
    kept = at_least(threshold, predicted, scores)
    return match(truth, kept, overlap, overlaps(truth, kept, sizes)).counts


def best_threshold(records: Iterable[Scored], overlap: float) -> tuple[float, float] | None:
    """The score whose objects and all better ones have the highest F1 together, and that F1; None without objects.

    Every score that occurs is tried; of equal F1 the lowest score wins, which keeps the most objects.

    Args:
        records: ``(truth, predicted, scores, sizes)`` per record.
        overlap: from which an object is found.
    """
    steps, total = [], DetectionCounts()
    for record in records:
        before = DetectionCounts(fn=len(record[0]))
        total += before
        for score in sorted(set(record[2]), reverse=True):  # a record's counts change at its own scores alone
            counts = object_counts(record, overlap, score)
            steps.append((score, counts.tp - before.tp, counts.fp - before.fp, counts.fn - before.fn))
            before = counts
    if not steps:
        return None
    scores, *changes = np.array(sorted(steps, reverse=True)).T
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    tp, fp, fn = (np.cumsum(change)[ends] for change in changes)
    f1 = 2 * tp / np.maximum(2 * tp + fp + fn + total.fn, 1)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(scores[ends[best]]), float(f1[best])
