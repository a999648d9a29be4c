"""Sources that are read as streams: shard after shard, lap after lap, from any position on and without an index."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, overload

from qcvl.data.sampling import shard_order
from qcvl.data.shards import Place, Shard
from qcvl.errors import DataError
from qcvl.schema.records import Record


class Position(NamedTuple):
    """Where a stream goes on: in lap ``lap`` (a lap shows all shards once) at its ``turn``-th shard, from ``start`` on.

    ``start`` is a byte of a JSONL file or a row of a Parquet file, and ``line`` the line that begins there, from 1.
    """

    lap: int
    turn: int
    start: int
    line: int


START = Position(0, 0, 0, 1)
Located = tuple[int, Place]  # a shard's number, and a record's place in it


@dataclass(frozen=True)
class Stream:
    """The shards of a source, in an order that each lap draws anew from (``seed``, ``number``, lap).

    ``number`` tells the source from others of the run.
    """

    shards: tuple[Shard, ...]
    seed: int = 0
    number: int = 0

    def take(self, position: Position, count: int) -> tuple[list[Located], Position]:
        """Where the next ``count`` records lie, and where the stream goes on behind them.

        Raises:
            DataError: when a whole lap has no record.
        """
        lap, turn, start, line = position
        taken: list[Located] = []
        before = -1  # records taken at the start of the lap
        while len(taken) < count:
            shard = int(shard_order(len(self.shards), self.seed, self.number, lap)[turn])
            for place in self.shards[shard].places(start, line):
                taken.append((shard, place))
                start, line = place.start + place.size, place.line + 1
                if len(taken) == count:
                    return taken, Position(lap, turn, start, line)
            turn, start, line = turn + 1, 0, 1
            if turn == len(self.shards):
                if len(taken) == before:
                    raise DataError(f"{self.shards[0].path}: no shard of this source has a record any more")
                lap, turn, before = lap + 1, 0, len(taken)
        return taken, Position(lap, turn, start, line)

    def record(self, shard: int, place: Place) -> Record:
        """The record at one place of a shard; raises RecordError with file, line and field."""
        return self.shards[shard].record(place)

    def first(self, count: int) -> "Stream":
        """A stream of this source's first ``count`` records, in the order of its shards' names, alone."""
        found = self.beginning(count)
        if not found:
            return self
        shard, place = found[-1]
        last = replace(self.shards[shard], end=place.start + place.size)
        return replace(self, shards=(*self.shards[:shard], last))

    def beginning(self, count: int) -> list[Located]:
        """Where the first ``count`` records lie, in the order of the shards' names."""
        found: list[Located] = []
        for number, shard in enumerate(self.shards):
            for place in shard.places():
                found.append((number, place))
                if len(found) == count:
                    return found
        return found

    @property
    def fingerprint(self) -> str:
        """A checksum of the shards' names, sizes and ends: their contents are not read."""
        facts = [(shard.path.name, shard.stamp[0], shard.form, shard.end) for shard in self.shards]
        return f"{zlib.crc32(repr(facts).encode()):08x}"


@dataclass(frozen=True)
class StreamHead(Sequence[Record]):
    """The first records of a stream, in the order of its shards' names: all of it that is looked at before training."""

    stream: Stream
    found: Sequence[Located]

    def __len__(self) -> int:
        return len(self.found)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "StreamHead": ...
    def __getitem__(self, index: int | slice) -> "Record | StreamHead":
        if isinstance(index, slice):
            return StreamHead(self.stream, self.found[index])
        return self.stream.record(*self.found[index])
