"""Average precision as COCO defines it, from rankings that are kept record by record.

For each desc the answers of the whole data set are taken by falling score. An answer is right when it takes a true
object of its image that is still free and overlaps it by the threshold or more (of several the one with the largest
overlap). AP is the mean, over the recalls 0, .01 … 1, of the best precision at that recall or a higher one (0 where
the recall is never reached); mAP is the mean over the descs that have a true object.

Equal scores are one step: the precision is read before and after all of them, never in between, and within a record
they choose by overlap. So no order of records or objects changes a value; it is the one COCO gives when the wrong ones
among equal scores come first. With constant scores AP is the precision times the share of the 101 recalls reached.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.geometry.shapes import Kind
from qcvl.metrics.detection import REGION_KINDS, THRESHOLDS
from qcvl.metrics.matching import Size, match, overlaps
from qcvl.schema.types import Annotation

# (true objects, predicted objects, one score each, (width, height) of each image) of one record
Scored = tuple[Sequence[Annotation], Sequence[Annotation], Sequence[float], Sequence[Size]]

RECALLS = np.linspace(0, 1, 101)
COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # .50:.05:.95
RANKED_THRESHOLDS = tuple(sorted({*THRESHOLDS, *COCO_THRESHOLDS}))

# Regions match whatever their kinds; a line is compared with lines alone.
RANKED_KINDS: Mapping[str, tuple[Kind, ...]] = {"dense": REGION_KINDS, "line": ("line",)}


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the average precision of one record's answers is computed from, together with those of other records.

    ``truths`` counts the true objects by desc; ``descs``, ``scores`` and ``hits`` (bool ``[N, T]``: right at each of
    the T overlaps that were asked for) have one entry an answered object.
    """

    truths: Mapping[str, int]
    descs: tuple[str, ...]
    scores: tuple[float, ...]
    hits: np.ndarray


def ranking(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    scores: Sequence[float],
    sizes: Sequence[Size],
    *,
    thresholds: Sequence[float] = RANKED_THRESHOLDS,
    kinds: Sequence[Kind] = REGION_KINDS,
) -> Ranking:
    """The ranking of one record's objects of ``kinds``; ``sizes`` has the ``(width, height)`` in px of each image."""
    if len(scores) != len(predicted):
        raise ValueError(f"{len(predicted)} predicted objects have {len(scores)} scores; expected one each")
    objects = [item for item in truth if item.shape.kind in kinds]
    ranked = [(item, float(score)) for item, score in zip(predicted, scores, strict=True) if item.shape.kind in kinds]
    answers, numbers = [item for item, _ in ranked], [score for _, score in ranked]
    table = overlaps(objects, answers, sizes)
    hits = np.zeros((len(answers), len(thresholds)), dtype=bool)
    for column, threshold in enumerate(thresholds):
        for _, found in match(objects, answers, threshold, table, scores=numbers).pairs:
            hits[found, column] = True
    truths = Counter(item.desc for item in objects)
    return Ranking(truths, tuple(item.desc for item in answers), tuple(numbers), hits)


def average_precision(records: Iterable[Scored], threshold: float = 0.5) -> dict[str, float]:
    """AP of each desc that has a true region, 0..1, the most frequent first; their plain mean is the mAP.

    Args:
        records: ``(truth, predicted, scores, sizes)`` per record; boxes, quads and polygons count, lines do not.
        threshold: overlap from which an answer is right.
    """
    rankings = [ranking(*record, thresholds=(threshold,)) for record in records]
    return {desc: float(values[0, 0]) for desc, values in desc_precisions(rankings)}


def mean_average_precision(records: Iterable[Scored], threshold: float = 0.5) -> float | None:
    """Mean over the descs of :func:`average_precision`, 0..1; None when there is no true region."""
    by_desc = average_precision(records, threshold)
    return sum(by_desc.values()) / len(by_desc) if by_desc else None


def desc_precisions(rankings: Sequence[Ranking], weights: np.ndarray | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Each desc with a true object and its AP ``[R, T]``, NaN where it has none, the most frequent desc first.

    Args:
        rankings: one a record, all made for the same T overlaps.
        weights: how often each record counts in each of R samples, whole numbers ``[R, records]``; None: once.
    """
    if weights is None:
        weights = np.ones((1, len(rankings)), dtype=np.int64)
    totals = sum((Counter(item.truths) for item in rankings), Counter[str]())
    owners = np.repeat(np.arange(len(rankings)), [len(item.scores) for item in rankings])
    descs = np.array([desc for item in rankings for desc in item.descs], dtype=object)
    scores = np.array([score for item in rankings for score in item.scores])
    hits = np.concatenate([item.hits for item in rankings]) if rankings else np.zeros((0, 0), dtype=bool)
    for desc in sorted(totals, key=lambda name: (-totals[name], name)):
        own = np.flatnonzero(descs == desc)
        own = own[np.argsort(-scores[own], kind="stable")]
        truths = weights @ np.array([item.truths.get(desc, 0) for item in rankings])
        yield desc, _step_precision(scores[own], hits[own], weights[:, owners[own]], truths)


def mean_precisions(rankings: Sequence[Ranking], weights: np.ndarray | None = None) -> np.ndarray:
    """The mAP ``[R, T]`` in each sample that ``weights`` describes; NaN where no desc has a true object."""
    shape = (1 if weights is None else len(weights), rankings[0].hits.shape[1] if rankings else 0)
    total, count = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for _, values in desc_precisions(rankings, weights):
        total += np.nan_to_num(values)
        count += ~np.isnan(values)
    return np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)


def average_precision_metrics(rankings: Sequence[Ranking], source: str, prefix: str = "dense") -> dict[str, float]:
    """The mAP by log key, which names where the scores come from; empty when there is no true object.

    ``{prefix}_map_{source}@{threshold}`` at the detection metrics' overlaps and ``…@0.5:0.95``, the mean over COCO's
    ten; the rankings are those of :func:`ranking` at its own thresholds.
    """
    names = precision_keys(source, prefix)
    values = keyed_precisions(mean_precisions(rankings))[0] if rankings else np.full(len(names), np.nan)
    return {name: float(value) for name, value in zip(names, values, strict=True) if not np.isnan(value)}


def precision_keys(source: str, prefix: str = "dense") -> list[str]:
    """The log keys of mAP, in the order of the columns of :func:`keyed_precisions`."""
    return [f"{prefix}_map_{source}@{threshold}" for threshold in (*(f"{t:g}" for t in THRESHOLDS), "0.5:0.95")]


def keyed_precisions(values: np.ndarray) -> np.ndarray:
    """AP ``[R, 4]`` at the detection metrics' three overlaps and over COCO's ten, from AP at all ``[R, T]``."""
    single = [RANKED_THRESHOLDS.index(threshold) for threshold in THRESHOLDS]
    ten = [RANKED_THRESHOLDS.index(threshold) for threshold in COCO_THRESHOLDS]
    return np.column_stack([values[:, single], values[:, ten].mean(axis=1)])


def _step_precision(scores: np.ndarray, hits: np.ndarray, weights: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """AP ``[R, T]`` of one desc from falling ``scores [N]``, ``hits [N, T]``, ``weights [R, N]`` and ``truths [R]``."""
    values = np.zeros((len(weights), hits.shape[1]))
    if len(scores):
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last of each run of equal scores
        shown = np.maximum(np.cumsum(weights, axis=1)[:, ends], 1)
        for column, right in enumerate(hits.T):
            found = np.cumsum(weights * right, axis=1)[:, ends]
            best = np.maximum.accumulate((found / shown)[:, ::-1], axis=1)[:, ::-1]
            reached = np.searchsorted(RECALLS, found / np.maximum(truths, 1)[:, None], side="right")
            values[:, column] = (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    values[truths == 0] = np.nan
    return values
