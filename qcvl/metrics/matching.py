"""Which prediction is which true object: overlap tables and greedy one-to-one matching."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qcvl.geometry.overlap import iou_matrix
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.lines import line_overlaps
from qcvl.schema.types import Annotation

Size = tuple[float, float]  # (width, height) of an image in px

# Overlaps are compared after rounding to this many decimals, so that the last bits of polygon arithmetic decide neither
# a tie nor an overlap that equals the threshold.
OVERLAP_DECIMALS = 9


@dataclass(frozen=True, slots=True)
class Matches:
    """Indices of the objects found, as ``(truth, predicted)`` pairs by falling overlap; missed; invented."""

    pairs: tuple[tuple[int, int], ...]
    misses: tuple[int, ...]
    false_alarms: tuple[int, ...]

    @property
    def counts(self) -> DetectionCounts:
        """How many of each."""
        return DetectionCounts(tp=len(self.pairs), fp=len(self.false_alarms), fn=len(self.misses))


def overlaps(truth: Sequence[Annotation], predicted: Sequence[Annotation], sizes: Sequence[Size]) -> np.ndarray:
    """Overlap ``[T, P]`` of every pair, whatever its desc; ``sizes`` has the ``(width, height)`` of each image.

    Boxes, quads and polygons are compared by exact polygon IoU, lines by buffered IoU. It is 0 between two images,
    between a line and a region, and for an object that names an image the photo group does not have.
    """
    table = np.zeros((len(truth), len(predicted)))
    for image, size in enumerate(sizes):
        for are_lines in (False, True):
            rows, columns = (
                [i for i, a in enumerate(side) if a.image == image and (a.shape.kind == "line") == are_lines]
                for side in (truth, predicted)
            )
            if rows and columns:
                a, b = [truth[i].shape for i in rows], [predicted[j].shape for j in columns]
                table[np.ix_(rows, columns)] = line_overlaps(a, b, size) if are_lines else iou_matrix(a, b)
    return table


def match(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    threshold: float,
    overlap: np.ndarray,
    *,
    class_blind: bool = False,
    scores: Sequence[float] | None = None,
) -> Matches:
    """Pair objects one to one, by falling overlap, where image and desc agree and the overlap is >= ``threshold``.

    The result's counts depend on neither the order of the objects nor on which side is called truth. With ``scores``
    the predictions choose in falling order of theirs, as average precision asks, and those of equal score by overlap.

    Args:
        truth: the T objects of the record.
        predicted: the P objects of the answer.
        threshold: smallest overlap of a pair; pairs that do not touch never match.
        overlap: ``[T, P]``, from :func:`overlaps`.
        class_blind: let objects of different desc match (scores the place alone).
        scores: one number for each of the P objects, or None where all are equal.
    """
    rounded = np.round(overlap, OVERLAP_DECIMALS)
    truth_ranks, predicted_ranks = _content_ranks(truth), _content_ranks(predicted)
    candidates = []
    for i, j in np.argwhere((rounded >= threshold) & (rounded > 0)).tolist():
        if truth[i].image == predicted[j].image and (class_blind or truth[i].desc == predicted[j].desc):
            # Equal overlaps fall by geometry. Taking the smallest free (rank, rank) gives the one stable matching of
            # two sides that each rank the other alike, so it is the same with the sides swapped.
            turn = 0.0 if scores is None else -scores[j]
            candidates.append((turn, -rounded[i, j], truth_ranks[i], predicted_ranks[j], i, j))
    free_truth, free_predicted, pairs = set(range(len(truth))), set(range(len(predicted))), []
    for *_, i, j in sorted(candidates):
        if i in free_truth and j in free_predicted:
            free_truth.remove(i)
            free_predicted.remove(j)
            pairs.append((i, j))
    return Matches(tuple(pairs), tuple(sorted(free_truth)), tuple(sorted(free_predicted)))


def _content_ranks(annotations: Sequence[Annotation]) -> list[int]:
    """Rank of each object's geometry on its side; equal geometry has equal rank, so ties do not depend on positions."""
    contents = [(a.image, a.shape.kind, a.shape.points.ravel().tolist()) for a in annotations]
    order = sorted(range(len(contents)), key=contents.__getitem__)
    ranks = [0] * len(contents)
    for before, after in pairwise(order):
        ranks[after] = ranks[before] + (contents[after] != contents[before])
    return ranks
