"""Batch plans: which samples make up each micro-batch of each rank.

A plan is ``plan[step][rank]`` = the samples of one micro-batch. Every rank gets the same number of micro-batches, none
of them empty, and every sample comes exactly once.
"""

from collections.abc import Sequence

import numpy as np

from qcvl.errors import DataError

Plan = list[list[list[int]]]
WIDTH = 2 ** (1 / 16)  # lengths within 4.4 % of each other count as one


def fixed_count(order: list[int], batch_size: int, world_size: int) -> Plan:
    """``batch_size`` samples a rank, dealt round robin.

    The last global batch may be smaller; where it has fewer samples than there are ranks, it joins the one before it.

    Raises:
        DataError: when there are fewer samples than ranks.
    """
    require_samples(len(order), world_size)
    width = batch_size * world_size
    chunks = [order[start : start + width] for start in range(0, len(order), width)]
    if len(chunks[-1]) < world_size:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return [[chunk[rank::world_size] for rank in range(world_size)] for chunk in chunks]


class TokenBudget:
    """Micro-batches of at most ``budget`` tokens, of samples of about one length, equally long on all ranks.

    How many samples each micro-batch holds is decided once, for the longest an epoch can have, so that every epoch has
    the same number of steps. An epoch deals its samples to these places by falling length: the k-th longest goes where
    room was made for the k-th longest. Lengths within ``WIDTH`` of each other count as one, and among them chance
    decides, as it does over the order of the steps. A sample above the budget is a micro-batch of its own.

    Args:
        longest: tokens, in falling order; the k-th longest sample of no epoch is longer than entry ``k``.
        budget: tokens of a micro-batch.
        world_size: ranks.

    Raises:
        DataError: when there are fewer samples than ranks.
    """

    def __init__(self, longest: np.ndarray, budget: int, world_size: int) -> None:
        require_samples(len(longest), world_size)
        self.shape = _budget_shape(_classes(longest).tolist(), budget, world_size)

    def __call__(self, lengths: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> Plan:
        """The plan of one epoch.

        Args:
            lengths: tokens of each sample, ``[n]``.
            order: a permutation of ``0..n-1`` that decides among samples of about one length.
            rng: decides the order of the steps.
        """
        falling = order[np.argsort(-_classes(lengths)[order], kind="stable")].tolist()
        steps = [self.shape[place] for place in rng.permutation(len(self.shape))]
        return [[[falling[place] for place in places] for places in step] for step in steps]


def _classes(lengths: np.ndarray) -> np.ndarray:
    """Each length rounded up to the next of a geometric ladder: what lies on one rung counts as equally long."""
    rungs = np.ceil(np.log(np.maximum(lengths, 1)) / np.log(WIDTH) - 1e-9)
    return np.ceil(WIDTH**rungs).astype(np.int64)


def _budget_shape(falling: list[int], budget: int, world_size: int) -> Plan:
    """``shape[step][rank]`` = places in the falling order of lengths."""
    shape, places = [], range(len(falling))
    while places:
        step = _fill_step(places, falling, budget, world_size)
        shape.append(step)
        places = places[sum(map(len, step)) :]
    if all(shape[-1]):
        return shape
    last = sorted(place for step in shape[-2:] for batch in step for place in batch)
    if len(last) < 2 * world_size:  # only where nearly every micro-batch is one sample: some rank takes a second one
        return [*shape[:-2], [last[rank::world_size] for rank in range(world_size)]]
    head, tail = last[:-world_size], last[-world_size:]
    return [*shape[:-2], _fill_step(head, falling, budget, world_size), [[place] for place in tail]]


def _fill_step(places: Sequence[int], falling: list[int], budget: int, world_size: int) -> list[list[int]]:
    """One step of the first ``places``: each goes to the emptiest rank; one that does not fit there fits nowhere."""
    step, loads = [list[int]() for _ in range(world_size)], [0] * world_size
    for place in places:
        rank = loads.index(min(loads))
        if step[rank] and loads[rank] + falling[place] > budget:
            break
        step[rank].append(place)
        loads[rank] += falling[place]
    return step


def require_samples(samples: int, world_size: int) -> None:
    """Raise DataError when there are fewer samples than ranks."""
    if samples < world_size:
        raise DataError(f"an epoch of {samples} samples cannot feed {world_size} ranks; add data or use fewer devices")
