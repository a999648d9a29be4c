"""Packs: micro-batches of samples of any length that fill a row of so many tokens."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from qcvl.data.packing import Plan, require_samples

Pack = list[int]
Fit = Literal["best_fit", "first_fit"]
WINDOW = 128  # samples among which a pack looks for those that fill it
TRIES = 2  # orders that an epoch may try


class Packing(NamedTuple):
    """How packs are filled, and the tokens that they hold at most."""

    fit: Fit
    length: int


def best_fit(lengths: Sequence[int], capacity: int, order: Sequence[int]) -> list[Pack]:
    """Packs of samples with at most ``capacity`` tokens in all; a longer sample is a pack of its own.

    Each pack begins with the longest sample left and takes the next ones of ``order``. Where these no longer fit, it
    takes those of the next ``WINDOW`` that leave the least room, found by their subset sums.
    """
    packs, taken, coming, window = [], set[int](), iter(order), list[int]()
    for longest in sorted(order, key=lambda sample: -lengths[sample]):
        if longest in taken:
            continue
        pack, room, more = [longest], capacity - lengths[longest], True
        taken.add(longest)
        while more and room > 0:
            window = [sample for sample in window if sample not in taken]
            window += _next(coming, WINDOW - len(window), taken)
            chosen = _fullest([lengths[sample] for sample in window], room)
            more = bool(chosen) and len(chosen) == len(window)  # all fit: there may be room for others
            fitting = [window[place] for place in chosen]
            pack += fitting
            taken.update(fitting)
            room -= sum(lengths[sample] for sample in fitting)
        packs.append(pack)
    return packs


def _next(coming: Iterator[int], count: int, taken: set[int]) -> list[int]:
    """Up to ``count`` samples of ``coming`` that are not taken."""
    found: list[int] = []
    while len(found) < count and (sample := next(coming, None)) is not None:
        if sample not in taken:
            found.append(sample)
    return found


def _fullest(lengths: Sequence[int], room: int) -> list[int]:
    """Places of the lengths whose sum is the largest within ``room``."""
    if sum(lengths) <= room:
        return list(range(len(lengths)))
    within = (1 << (room + 1)) - 1
    sums = [1]  # bit ``n`` of entry ``k``: some of the first ``k`` lengths sum up to ``n``
    for length in lengths:
        sums.append((sums[-1] | sums[-1] << length) & within)
        if sums[-1] >> room:
            break
    left, places = sums[-1].bit_length() - 1, []
    for place in range(len(sums) - 2, -1, -1):
        if not sums[place] >> left & 1:
            places.append(place)
            left -= lengths[place]
    return places[::-1]


def first_fit(lengths: Sequence[int], capacity: int, order: Sequence[int]) -> list[Pack]:
    """Packs as of ``best_fit``, in which each sample in ``order`` joins the first pack that has room for it."""
    packs: list[Pack] = []
    size = 1 << max(len(order) - 1, 0).bit_length()
    rooms = [capacity] * (2 * size)  # a tree: the most room of the packs below each node, those to come included
    for sample in order:
        length, node = min(lengths[sample], capacity), 1
        while node < size:
            node = 2 * node + (rooms[2 * node] < length)
        if node - size == len(packs):
            packs.append([])
        packs[node - size].append(sample)
        rooms[node] -= length
        while node := node // 2:
            rooms[node] = max(rooms[2 * node], rooms[2 * node + 1])
    return packs


FITS: dict[Fit, Callable[[Sequence[int], int, Sequence[int]], list[Pack]]] = {
    "best_fit": best_fit,
    "first_fit": first_fit,
}


class Packs:
    """Plans whose micro-batches are packs, equally many in every epoch, those of one step of about one cost.

    How many there are is decided once, for the longest samples an epoch can have. An epoch packs its own samples in an
    order of its own; packs that are wanted beyond are made by halving the fullest ones, and where no order does with as
    few packs, the k-th longest sample goes where the k-th longest of all was put.

    Only where nearly every pack is one sample does a rank take a second one, above the capacity: there are no others to
    go round.

    Args:
        longest: tokens, in falling order; the k-th longest sample of no epoch is longer than entry ``k``.
        packing: how packs are filled, and with how many tokens.
        world_size: ranks.

    Raises:
        DataError: when there are fewer samples than ranks.
    """

    def __init__(self, longest: np.ndarray, packing: Packing, world_size: int) -> None:
        require_samples(len(longest), world_size)
        self.world_size, self.packing = world_size, packing
        rng, count = np.random.default_rng(0), len(longest)
        self.sure = max((self._fit(longest, rng.permutation(count)) for _ in range(TRIES)), key=len)
        steps = min(-(-len(self.sure) // world_size), count // world_size)
        self.count = steps * world_size

    def __call__(self, lengths: np.ndarray, costs: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> Plan:
        """The plan of one epoch.

        Args:
            lengths: tokens of each sample, ``[n]``.
            costs: what each costs a step, ``[n]``, in any unit.
            order: a permutation of ``0..n-1`` that decides which samples meet.
            rng: decides further orders, and those of the steps and of the ranks.
        """
        packs = _so_many(self._epoch(lengths, order, rng), lengths.tolist(), self.count)
        packs.sort(key=lambda pack: -float(costs[pack].sum()))
        steps = [packs[start : start + self.world_size] for start in range(0, self.count, self.world_size)]
        places, ranks = rng.permutation(len(steps)), range(self.world_size)
        return [[sorted(steps[place][rank]) for rank in rng.permutation(ranks)] for place in places]

    def _epoch(self, lengths: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> list[Pack]:
        drawn = chain([order], (rng.permutation(len(order)) for _ in range(TRIES - 1)))
        for packs in (self._fit(lengths, one) for one in drawn):
            if len(packs) <= max(self.count, len(self.sure)):
                return packs
        falling = order[np.argsort(-lengths[order], kind="stable")]
        return [falling[places].tolist() for places in self.sure]

    def _fit(self, lengths: np.ndarray, order: np.ndarray) -> list[Pack]:
        return FITS[self.packing.fit](lengths.tolist(), self.packing.length, order.tolist())


def _so_many(packs: Sequence[Pack], lengths: Sequence[int], count: int) -> list[Pack]:
    """``count`` packs: the fullest of several samples are halved, or the emptiest joined."""

    def weighed(pack: Pack) -> tuple[int, Pack]:
        return (-sum(lengths[sample] for sample in pack) if len(pack) > 1 else 0), pack

    if (surplus := len(packs) - count) > 0:
        ranked = sorted(packs, key=lambda pack: sum(lengths[sample] for sample in pack))
        joined = [first + second for first, second in zip(ranked[:surplus], ranked[surplus : 2 * surplus], strict=True)]
        return [*joined, *ranked[2 * surplus :]]
    heap = [weighed(pack) for pack in packs]
    heapq.heapify(heap)
    while len(heap) < count:
        for half in _halves(heapq.heappop(heap)[1], lengths):
            heapq.heappush(heap, weighed(half))
    return [pack for _, pack in heap]


def _halves(pack: Pack, lengths: Sequence[int]) -> tuple[Pack, Pack]:
    """The samples of a pack in two of about as many tokens."""
    first, second, lead = list[int](), list[int](), 0
    for sample in sorted(pack, key=lambda sample: -lengths[sample]):
        (first if lead <= 0 else second).append(sample)
        lead += lengths[sample] if lead <= 0 else -lengths[sample]
    return first, second
