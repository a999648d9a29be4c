"""Detection scores of a data set from additive tallies: precision, recall, F1, count error, duplicates."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcvl.geometry.shapes import KINDS, Kind
from qcvl.metrics.counts import DetectionCounts, Rate
from qcvl.metrics.lines import chamfer_distance
from qcvl.metrics.matching import Matches, Size, match, overlaps
from qcvl.schema.types import Annotation

# (true objects, predicted objects, (width, height) of each image) of one record
Pair = tuple[Sequence[Annotation], Sequence[Annotation], Sequence[Size]]

# .33 is DeepPCB's own threshold, .5 and .75 are COCO's and PASCAL's habitual ones.
THRESHOLDS = (0.33, 0.5, 0.75)

# Two predictions of one desc that overlap more than this say the same thing twice; no two real parts do.
DUPLICATE_OVERLAP = 0.9

# Coordinates that rounding put this far (px) over the border are still in the frame.
FRAME_TOLERANCE_PX = 1e-6

REGION_KINDS: tuple[Kind, ...] = ("bbox_2d", "quad", "poly")

# name of the score, kinds on both sides, whether desc is ignored; regions may match whatever their kinds
_GROUPS: tuple[tuple[str, tuple[Kind, ...], bool], ...] = (
    ("{prefix}", REGION_KINDS, False),
    ("{prefix}_loc", REGION_KINDS, True),
    *((kind, (kind,), False) for kind in KINDS),
)


@dataclass(frozen=True, slots=True)
class DetectionTally:
    """What all detection scores of some records are computed from; adding two tallies pools their records.

    ``counts`` maps ``(score name, threshold)`` to matched objects and ``rates`` maps a score name to its ratio. A tally
    per record is enough for pooled scores, for shards on several processes, and for resampling whole groups.
    """

    counts: Mapping[tuple[str, float], DetectionCounts] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    objects: int = 0
    predictions: int = 0

    def __add__(self, other: "DetectionTally") -> "DetectionTally":
        counts, rates = dict(self.counts), dict(self.rates)
        for key, count in other.counts.items():
            counts[key] = counts.get(key, DetectionCounts()) + count
        for name, rate in other.rates.items():
            rates[name] = rates.get(name, Rate()) + rate
        return DetectionTally(counts, rates, self.objects + other.objects, self.predictions + other.predictions)

    def metrics(self, prefix: str = "dense") -> dict[str, float]:
        """Scores by log key; a score with no truth and no prediction behind it is absent, never 0."""
        values: dict[str, float] = {}
        for (name, threshold), count in self.counts.items():
            if not count.empty:
                key = name.format(prefix=prefix)
                values[f"{key}_p@{threshold:g}"] = count.precision
                values[f"{key}_r@{threshold:g}"] = count.recall
                values[f"{key}_f1@{threshold:g}"] = count.f1
        for name, rate in self.rates.items():
            if rate.value is not None:
                values[name.format(prefix=prefix)] = rate.value
        return values | {f"{prefix}_objects": self.objects, f"{prefix}_predictions": self.predictions}


def tally(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    sizes: Sequence[Size],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> DetectionTally:
    """The tally of one record: true and predicted objects, and the ``(width, height)`` in px of each of its images."""
    table = overlaps(truth, predicted, sizes)
    counts = {
        (name, threshold): _match_kinds(truth, predicted, table, threshold, kinds, class_blind).counts
        for name, kinds, class_blind in _GROUPS
        for threshold in thresholds
    }
    rates = {
        "{prefix}_count_error": Rate(abs(len(predicted) - len(truth)), 1),
        "{prefix}_duplicate_rate": _duplicates(predicted, sizes),
        "{prefix}_out_of_frame_rate": Rate(sum(_leaves_frame(a, sizes) for a in predicted), len(predicted)),
        "line_chamfer_px": _chamfer(truth, predicted, table, min(thresholds)),
    }
    return DetectionTally(counts, rates, len(truth), len(predicted))


def detection_metrics(
    pairs: Iterable[Pair], *, prefix: str = "dense", thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, float]:
    """Pooled detection scores of a data set, by log key.

    ``{prefix}_{p,r,f1}@{threshold}`` score regions (boxes, quads, polygons) by exact polygon IoU, kinds not required to
    agree; ``{prefix}_loc_…`` the same with desc ignored; ``bbox_2d_…``, ``quad_…``, ``poly_…`` and ``line_…`` one kind
    on both sides, lines by buffered IoU. Beside them, over all kinds: ``{prefix}_count_error`` (mean over records of
    ``|predicted - true|``), ``{prefix}_duplicate_rate``, ``{prefix}_out_of_frame_rate`` (shares of the predictions),
    ``{prefix}_objects`` and ``{prefix}_predictions`` (how many there were), and ``line_chamfer_px`` (mean over the
    lines matched at the lowest threshold).

    Args:
        pairs: ``(truth, predicted, sizes)`` per record, ``sizes`` with ``(width, height)`` in px per image.
        prefix: first part of the keys that pool regions.
        thresholds: overlaps from which a pair counts.
    """
    return sum((tally(*pair, thresholds=thresholds) for pair in pairs), DetectionTally()).metrics(prefix)


def per_class(pairs: Iterable[Pair], *, threshold: float = 0.5) -> dict[str, DetectionCounts]:
    """Counts per desc over all kinds of geometry, the most frequent true desc first.

    A missed or found object counts for its true desc, a false alarm for the predicted one.
    """
    found, invented, missed = Counter[str](), Counter[str](), Counter[str]()
    for truth, predicted, sizes in pairs:
        matches = match(truth, predicted, threshold, overlaps(truth, predicted, sizes))
        found.update(truth[i].desc for i, _ in matches.pairs)
        invented.update(predicted[j].desc for j in matches.false_alarms)
        missed.update(truth[i].desc for i in matches.misses)
    names = sorted({*found, *invented, *missed}, key=lambda name: (-found[name] - missed[name], name))
    return {name: DetectionCounts(found[name], invented[name], missed[name]) for name in names}


def _match_kinds(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    table: np.ndarray,
    threshold: float,
    kinds: Sequence[Kind],
    class_blind: bool = False,
) -> Matches:
    """Matches among the objects of ``kinds`` alone; their indices count those objects only."""
    rows, columns = ([i for i, a in enumerate(side) if a.shape.kind in kinds] for side in (truth, predicted))
    objects, answers = [truth[i] for i in rows], [predicted[j] for j in columns]
    return match(objects, answers, threshold, table[np.ix_(rows, columns)], class_blind=class_blind)


def _duplicates(predicted: Sequence[Annotation], sizes: Sequence[Size]) -> Rate:
    """Predictions with another one of the same desc almost on top of them, of all predictions."""
    same_desc = np.array([[a.desc == b.desc for b in predicted] for a in predicted], dtype=bool)
    near = overlaps(predicted, predicted, sizes) > DUPLICATE_OVERLAP
    np.fill_diagonal(near, False)
    return Rate(int((near & same_desc).any(axis=1).sum()) if len(predicted) else 0, len(predicted))


def _leaves_frame(annotation: Annotation, sizes: Sequence[Size]) -> bool:
    """True when a point lies outside the object's image, or the image does not exist."""
    if not 0 <= annotation.image < len(sizes):
        return True
    x1, y1, x2, y2 = annotation.shape.bounds
    width, height = sizes[annotation.image]
    return min(x1, y1, width - x2, height - y2) < -FRAME_TOLERANCE_PX


def _chamfer(truth: Sequence[Annotation], predicted: Sequence[Annotation], table: np.ndarray, threshold: float) -> Rate:
    """Summed Chamfer distance in px of the lines matched at ``threshold``, and how many they are."""
    pairs = match(truth, predicted, threshold, table).pairs
    shapes = [(truth[i].shape, predicted[j].shape) for i, j in pairs if truth[i].shape.kind == "line"]
    return Rate(sum(chamfer_distance(a, b) for a, b in shapes), len(shapes))
