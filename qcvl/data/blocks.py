"""Blocks: what a mixture of streams shows, and in which order, a block at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qcvl.data.sampling import block_order, block_sources
from qcvl.data.shards import Place
from qcvl.data.stream import START, Position, Stream


class StreamKey(NamedTuple):
    """A sample of a stream: its number in the mixture, and where its record lies.

    ``epoch`` is 0 throughout: a sample's draws are those of (seed, 0, number).
    """

    epoch: int
    number: int
    source: int
    shard: int
    start: int
    size: int
    line: int

    @property
    def place(self) -> Place:
        """Its record's place in the shard."""
        return Place(self.start, self.size, self.line)


@dataclass(frozen=True)
class Block:
    """The samples of one block, in the order of the streams, and where the streams go on behind it."""

    number: int
    keys: tuple[StreamKey, ...]
    after: tuple[Position, ...]


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``size`` samples: each place of a block takes the next record of a source drawn by ``weights``.

    Which sources a block's places take, and in which order they are shown, follows from (``seed``, the block's number);
    which records, from where the streams stand. So all of it is a function of the seed, and any block can be read
    again from its number and the streams' positions at its start.
    """

    streams: Sequence[Stream]
    weights: Sequence[float]
    size: int
    seed: int

    @property
    def start(self) -> tuple[Position, ...]:
        """Where the streams stand at the start of block 0."""
        return (START,) * len(self.streams)

    def read(self, number: int, positions: Sequence[Position]) -> Block:
        """Block ``number``, at whose start the streams stand at ``positions``: no record is parsed."""
        sources = block_sources(self.size, self.weights, self.seed, number)
        counts = np.bincount(sources, minlength=len(self.streams)).tolist()
        taken = [stream.take(*ask) for stream, *ask in zip(self.streams, positions, counts, strict=True)]
        found = [iter(places) for places, _ in taken]
        keys = []
        for index, source in enumerate(sources.tolist(), start=number * self.size):
            shard, place = next(found[source])
            keys.append(StreamKey(0, index, source, shard, *place))
        return Block(number, tuple(keys), tuple(position for _, position in taken))

    def order(self, number: int) -> np.ndarray:
        """The order in which a block's samples are shown, a permutation ``[size]``."""
        return block_order(self.size, self.seed, number)
