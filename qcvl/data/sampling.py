"""Which task a sample is for, what an epoch holds and in which order: pure functions of (seed, epoch, index)."""

from collections.abc import Sequence

import numpy as np

from qcvl.data.settings import Sampling
from qcvl.schema.types import Task

_TASK, _ORDER, _SHARE = 1, 2, 3  # separate random streams, so that adding one draw never moves another


def choose_task(sampling: Sampling, dense_share: float, key: tuple[int, int, int]) -> Task:
    """The task of one sample; ``mixed`` draws dense with probability ``dense_share``, a summary otherwise."""
    if sampling != "mixed":
        return sampling
    return "dense" if np.random.default_rng([_TASK, *key]).random() < dense_share else "summary"


def expand_epoch(lengths: Sequence[int], repeats: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """The records of one epoch as int64 ``[n, 2]`` rows (source, record); ``n`` is the same in every epoch.

    A source of ``m`` records with repeat ``r`` gives ``floor(r)`` whole passes and ``round(frac(r) * m)`` records more,
    drawn anew each epoch; at least one record in all.
    """
    rows = []
    for source, (length, repeat) in enumerate(zip(lengths, repeats, strict=True)):
        whole = int(repeat)
        records = np.tile(np.arange(length), whole)
        rest = round((repeat - whole) * length) or int(whole == 0)
        if rest:
            draw = np.random.default_rng([_SHARE, seed, epoch, source])
            records = np.concatenate([records, np.sort(draw.permutation(length)[:rest])])
        rows.append(np.stack([np.full(len(records), source), records], axis=1))
    return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``0..count-1``, int64 ``[count]``."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count)
