"""Scores class by class and group by group, and which desc a misnamed object was given instead of its own."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    def to_json(self) -> dict[str, Any]:
        """One row of ``classes.json``."""
        return {"class": self.desc, **counts_json(self.counts), "ap": self.average_precision}


@dataclass(frozen=True, slots=True)
class Confusion:
    """``count`` true objects ``desc`` were found in place and said to be ``said``."""

    desc: str
    said: str
    count: int


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Scores of each class at one overlap, their plain means, and which class misnamed objects were said to be."""

    overlap: float
    classes: list[ClassScores]
    confusions: list[Confusion]

    @property
    def macro(self) -> dict[str, float]:
        """Plain means over the classes that have a true object: ``p``, ``r``, ``f1``, ``ap``; empty when none has."""
        true = [row for row in self.classes if row.truths]
        columns = {
            "p": [row.counts.precision for row in true],
            "r": [row.counts.recall for row in true],
            "f1": [row.counts.f1 for row in true],
            "ap": [row.average_precision or 0.0 for row in true],
        }
        return {name: sum(values) / len(values) for name, values in columns.items()} if true else {}

    def to_json(self) -> dict[str, Any]:
        """One entry of ``classes.json``."""
        confused = [{"class": item.desc, "said": item.said, "count": item.count} for item in self.confusions]
        rows = [row.to_json() for row in self.classes]
        return {"iou": self.overlap, "classes": rows, "macro": self.macro, "confusions": confused}


@dataclass(frozen=True, slots=True)
class GroupScores:
    """One group: its photos, its objects' counts at one overlap, and whether training saw it (None: not known)."""

    group: str
    photos: int
    counts: DetectionCounts
    seen: bool | None

    def to_json(self) -> dict[str, Any]:
        """One row of ``groups.json``."""
        return {"group": self.group, "photos": self.photos, **counts_json(self.counts), "seen": self.seen}


def counts_json(counts: DetectionCounts) -> dict[str, Any]:
    """Objects in all, found, missed and invented, with precision, recall and F1."""
    numbers = {"truths": counts.tp + counts.fn, "found": counts.tp, "missed": counts.fn, "false_alarms": counts.fp}
    return {**numbers, "p": counts.precision, "r": counts.recall, "f1": counts.f1}


def class_table(records: Sequence[Scored], overlap: float, threshold: float = 0.0) -> ClassTable:
    """The class scores and confusions of some records; arguments as in :func:`class_scores`."""
    return ClassTable(overlap, class_scores(records, overlap, threshold), confusions(records, overlap, threshold))


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
