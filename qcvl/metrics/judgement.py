"""One record's answers judged once: what every score, interval and table over any set of records is computed from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcvl.metrics.average_precision import RANKED_KINDS, Ranking, average_precision_metrics, ranking
from qcvl.metrics.detection import DetectionTally, tally
from qcvl.metrics.matching import Size
from qcvl.schema.types import Annotation


@dataclass(frozen=True, slots=True)
class Judgement:
    """The tally of a record's objects that score high enough, and rankings of all of them: regions, and lines."""

    tally: DetectionTally
    rankings: Mapping[str, Ranking]


def judge(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    scores: Sequence[float],
    sizes: Sequence[Size],
    threshold: float = 0.0,
) -> Judgement:
    """Match one record's objects; those below ``threshold`` count for average precision alone.

    Args:
        truth: the true objects.
        predicted: the answered objects.
        scores: a number 0..1 for each of ``predicted``.
        sizes: ``(width, height)`` in px of each image.
        threshold: smallest score of an object that precision, recall, F1 and the other counts take.
    """
    kept = at_least(threshold, predicted, scores)
    rankings = {name: ranking(truth, predicted, scores, sizes, kinds=kinds) for name, kinds in RANKED_KINDS.items()}
    return Judgement(tally(truth, kept, sizes), rankings)


def at_least(threshold: float, predicted: Sequence[Annotation], scores: Sequence[float]) -> list[Annotation]:
    """The objects of ``predicted`` whose score is ``threshold`` or more."""
    return [note for note, score in zip(predicted, scores, strict=True) if score >= threshold]


def judged_metrics(judgements: Sequence[Judgement], score_source: str) -> dict[str, float]:
    """Pooled detection scores and mAP of some records by log key (see ``detection_metrics``).

    ``dense_map_{score_source}@0.5`` and its kin rank regions, ``line_map_…`` lines.
    """
    metrics = sum((item.tally for item in judgements), DetectionTally()).metrics()
    for name in RANKED_KINDS:
        metrics |= average_precision_metrics([item.rankings[name] for item in judgements], score_source, name)
    return metrics
