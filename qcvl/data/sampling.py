"""Which task a sample is for, what an epoch holds and in which order: pure functions of (seed, epoch, index)."""

import math
from collections.abc import Sequence

import numpy as np

from qcvl.data.sources import Sampling
from qcvl.schema.types import Task

# Separate random streams, so that adding one draw never moves another.
_TASK, _ORDER, _SHARE, _STEPS, _SHARDS, _SOURCES, _BLOCK, _GROUP = range(1, 9)


def choose_task(sampling: Sampling, dense_share: float, key: tuple[int, int, int]) -> Task:
    """The task of one sample; ``mixed`` draws dense with probability ``dense_share``, a summary otherwise."""
    if sampling != "mixed":
        return sampling
    return "dense" if np.random.default_rng([_TASK, *key]).random() < dense_share else "summary"


def epoch_counts(
    lengths: Sequence[int],
    repeats: Sequence[float],
    weights: Sequence[float] | None = None,
    epoch_samples: int | None = None,
) -> list[int]:
    """How many samples each source gives to an epoch.

    A source of ``m`` records with repeat ``r`` gives ``floor(r) * m + round(frac(r) * m)``, at least one. With
    ``weights`` or ``epoch_samples`` (by default the sum of these) the epoch is shared out in proportion to the weights
    (by default these counts), to whole numbers that sum up exactly: what is left goes to the largest remainders.
    """
    natural = []
    for length, repeat in zip(lengths, repeats, strict=True):
        whole = int(repeat)
        natural.append(whole * length + (round((repeat - whole) * length) or int(whole == 0)))
    if weights is None and epoch_samples is None:
        return natural
    shares = np.asarray(natural if weights is None else weights, dtype=np.float64)
    total = sum(natural) if epoch_samples is None else epoch_samples
    exact = shares / shares.sum() * total
    counts = np.floor(exact + 1e-9).astype(np.int64)  # a share that is whole but for rounding stays so
    largest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[largest] += 1
    return counts.tolist()


def expand_epoch(lengths: Sequence[int], counts: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """The records of one epoch as int64 ``[sum(counts), 2]`` rows (source, record).

    A source of ``m`` records that gives ``n`` samples gives ``n // m`` whole passes and ``n % m`` records more, drawn
    anew each epoch.
    """
    rows = []
    for source, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        whole, rest = divmod(count, length)
        records = np.tile(np.arange(length), whole)
        if rest:
            draw = np.random.default_rng([_SHARE, seed, epoch, source])
            records = np.concatenate([records, np.sort(draw.permutation(length)[:rest])])
        rows.append(np.stack([np.full(len(records), source), records], axis=1))
    return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)


def group_count(length: int, count: int, together: int) -> int:
    """How many samples ``together`` records a sample make of ``count`` shows of a source of ``length`` records."""
    whole, rest = divmod(count, length)
    return whole * math.ceil(length / together) + math.ceil(rest / together)


def group_epoch(
    lengths: Sequence[int], counts: Sequence[int], together: Sequence[int], seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of ``expand_epoch`` make up each sample: sample ``i`` is of rows ``order[starts[i]:starts[i + 1]]``.

    A source with 1 record ``together`` keeps its rows as they are. Of any other, each pass is shuffled anew and cut
    into groups of that many, the last of which may be smaller: so no sample shows a record twice.

    Returns:
        ``order`` int64 ``[rows]`` and ``starts`` int64 ``[samples + 1]``.
    """
    order, ends, done = [np.arange(0)], [np.zeros(1, dtype=np.int64)], 0
    for source, (length, count, size) in enumerate(zip(lengths, counts, together, strict=True)):
        a_pass = length if size > 1 else max(count, 1)
        for number, begin in enumerate(range(0, count, a_pass)):
            rows = np.arange(begin, min(begin + a_pass, count))
            if size > 1:
                rows = np.random.default_rng([_GROUP, seed, epoch, source, number]).permutation(rows)
            order.append(done + rows)
            ends.append(done + begin + np.minimum(np.arange(size, len(rows) + size, size), len(rows)))
        done += count
    return np.concatenate(order), np.concatenate(ends)


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``0..count-1``, int64 ``[count]``."""
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(count)


def step_order(seed: int, epoch: int) -> np.random.Generator:
    """What decides the order of an epoch's steps, where their samples are chosen by length."""
    return np.random.default_rng([_STEPS, seed, epoch])


def shard_order(count: int, seed: int, source: int, lap: int) -> np.ndarray:
    """In which order a lap of a stream reads its shards, int64 ``[count]``."""
    return np.random.default_rng([_SHARDS, seed, source, lap]).permutation(count)


def block_sources(size: int, weights: Sequence[float], seed: int, block: int) -> np.ndarray:
    """The source of each place of a block, int64 ``[size]``, each drawn by itself in proportion to ``weights``.

    So a source whose share of a block is below one record comes as often as it should over many blocks.
    """
    shares = np.asarray(weights, dtype=np.float64)
    return np.random.default_rng([_SOURCES, seed, block]).choice(len(shares), size, p=shares / shares.sum())


def block_order(size: int, seed: int, block: int) -> np.ndarray:
    """In which order a block of a stream is shown, int64 ``[size]``."""
    return np.random.default_rng([_BLOCK, seed, block]).permutation(size)
