"""Scores class by class, and which desc a misnamed object was given instead of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from qcvl.geometry.shapes import KINDS
from qcvl.metrics.average_precision import Scored, desc_precisions, ranking
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.detection import per_class
from qcvl.metrics.judgement import at_least
from qcvl.metrics.matching import match, overlaps


@dataclass(frozen=True, slots=True)
class ClassScores:
    """One desc: its counts at one overlap, and its average precision (None when no true object has this desc)."""

    desc: str
    counts: DetectionCounts
    average_precision: float | None

    @property
    def truths(self) -> int:
        """True objects of this desc."""
        return self.counts.tp + self.counts.fn


@dataclass(frozen=True, slots=True)
class Confusion:
    """``count`` true objects ``desc`` were found in place and said to be ``said``."""

    desc: str
    said: str
    count: int


def class_scores(records: Sequence[Scored], overlap: float, threshold: float = 0.0) -> list[ClassScores]:
    """Each desc, over all kinds of geometry, the most frequent first.

    Args:
        records: ``(truth, predicted, scores, sizes)`` per record.
        overlap: from which an object is found.
        threshold: smallest score of a predicted object that counts; average precision takes all.
    """
    kept = [(truth, at_least(threshold, predicted, scores), sizes) for truth, predicted, scores, sizes in records]
    rankings = [ranking(*record, thresholds=(overlap,), kinds=KINDS) for record in records]
    precisions = {desc: float(values[0, 0]) for desc, values in desc_precisions(rankings)}
    counts = per_class(kept, threshold=overlap)
    return [ClassScores(desc, count, precisions.get(desc)) for desc, count in counts.items()]


def macro_mean(rows: Sequence[ClassScores]) -> dict[str, float]:
    """Plain means over the descs that have a true object: ``p``, ``r``, ``f1`` and ``ap``; empty when none has."""
    true = [row for row in rows if row.truths]
    if not true:
        return {}
    columns = {
        "p": [row.counts.precision for row in true],
        "r": [row.counts.recall for row in true],
        "f1": [row.counts.f1 for row in true],
        "ap": [row.average_precision or 0.0 for row in true],
    }
    return {name: sum(values) / len(values) for name, values in columns.items()}


def confusions(records: Sequence[Scored], overlap: float, threshold: float = 0.0) -> list[Confusion]:
    """Missed objects that a false alarm of another desc overlaps by ``overlap`` or more, the most frequent pair first.

    What was found right is set aside first, so a second answer about a found object confuses nothing.
    """
    found = Counter[tuple[str, str]]()
    for truth, predicted, scores, sizes in records:
        kept = at_least(threshold, predicted, scores)
        right = match(truth, kept, overlap, overlaps(truth, kept, sizes))
        missed, said = [truth[i] for i in right.misses], [kept[j] for j in right.false_alarms]
        wrong = match(missed, said, overlap, overlaps(missed, said, sizes), class_blind=True)
        found.update((missed[i].desc, said[j].desc) for i, j in wrong.pairs)
    return [Confusion(*pair, count) for pair, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
