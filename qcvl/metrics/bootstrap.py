"""How sure a score is: 95 % intervals from drawing whole groups of records anew."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from qcvl.metrics.average_precision import RANKED_KINDS, keyed_precisions, mean_precisions, precision_keys
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.judgement import Judgement

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
FEWEST_GROUPS = 2  # of one group every draw is the data set itself

# Weights of answers held at once, [resamples, answers]: some arrays of 32 MB.
_CELLS = 4_000_000

Interval = tuple[float, float]


def draws(groups: int, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each group is drawn in each resample, int64 ``[resamples, groups]``; every row adds up to ``groups``.

    A resample draws as many groups as there are, each with equal chance, with replacement.
    """
    rng = np.random.default_rng(seed)
    return np.stack([np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(resamples)])


def intervals(
    judgements: Sequence[Judgement],
    groups: Sequence[Hashable],
    score_source: str,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """95 % percentile intervals of every precision, recall, F1 and mAP, by log key; empty for fewer than two groups.

    Each resample pools the records of the groups it drew, so its scores are those of one data set, not means
    over groups. A resample that leaves nothing to count for a score is left out of that score's interval.

    Args:
        judgements: one a record.
        groups: the group of each record; records of one group are drawn together, as they are not independent.
        score_source: where the answers' scores come from, as in the log keys.
        seed: of the draws.
        resamples: how many draws of all groups.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < FEWEST_GROUPS:
        return {}
    numbers = {name: number for number, name in enumerate(names)}
    members = np.array([numbers[name] for name in groups])
    drawn = draws(len(names), seed=seed, resamples=resamples)
    found: dict[str, Interval] = {}
    for key, values in _samples(judgements, drawn[:, members], score_source):
        known = values[~np.isnan(values)]
        if len(known):
            low, high = np.percentile(known, PERCENTILES)
            found[key] = (float(low), float(high))
    return found


def _samples(
    judgements: Sequence[Judgement], weights: np.ndarray, score_source: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Each log key with its value in every resample; ``weights`` ``[resamples, records]`` says how often one counts."""
    for name, threshold in judgements[0].tally.counts:
        counts = [item.tally.counts[name, threshold] for item in judgements]
        yield from _rates(f"{name.format(prefix='dense')}_{{}}@{threshold:g}", counts, weights)
    for name in RANKED_KINDS:
        rankings = [item.rankings[name] for item in judgements]
        step = max(1, _CELLS // max(1, sum(len(item.scores) for item in rankings)))
        parts = [mean_precisions(rankings, weights[start : start + step]) for start in range(0, len(weights), step)]
        yield from zip(precision_keys(score_source, name), keyed_precisions(np.concatenate(parts)).T, strict=True)


def _rates(key: str, counts: Sequence[DetectionCounts], weights: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Precision, recall and F1 in every resample, as :class:`DetectionCounts` defines them."""
    tp, fp, fn = (weights @ np.array([[c.tp, c.fp, c.fn] for c in counts], dtype=np.float64)).T
    empty = tp + fp + fn == 0
    parts = {"p": (tp, tp + fp), "r": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn)}
    for name, (part, whole) in parts.items():
        yield key.format(name), np.where(empty, np.nan, part / np.maximum(whole, 1))
