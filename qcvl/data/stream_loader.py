"""The training loader of streams: block after block without an index, resumable exactly."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from qcvl.data.blocks import Block, Blocks, StreamKey
from qcvl.data.completeness import missing_parts
from qcvl.data.costs import text_cost
from qcvl.data.course import Course
from qcvl.data.dataset import Key, Samples
from qcvl.data.fetching import Placed
from qcvl.data.handover import Part, StepLoader
from qcvl.data.lengths import Amount, sample_amount
from qcvl.data.packing import Plan, TokenBudget, fixed_count
from qcvl.data.packs import Packing, Packs
from qcvl.data.sampling import step_order
from qcvl.data.shards import Place
from qcvl.data.stream import Position
from qcvl.errors import CheckpointError, DataError
from qcvl.schema.records import Record


@dataclass(frozen=True, kw_only=True)
class StreamDataset(Samples):
    """Samples of streams, by ``StreamKey``: it says where a record lies, so any process reads it by itself."""

    blocks: Blocks
    key_numbers: ClassVar[int] = len(StreamKey._fields)

    def place(self, key: Key) -> tuple[int, tuple[int, Place]]:
        """The number of a sample's source; shard and place of its record."""
        found = StreamKey(*key)
        return found.source, (found.shard, found.place)

    def record(self, key: Key) -> Record:
        """The record a sample is made of.

        Raises:
            RecordError: with file, line and field, where it is none or lacks what its samples are made of: of sources
                that are read whole that is known before training.
        """
        number, (shard, place) = self.place(key)
        record, source = self.blocks.streams[number].record(shard, place), self.sources[number]
        for problem in missing_parts(record, source.sampling_of(record), source.name):
            raise problem
        return record

    def where(self, key: Key) -> str:
        """Where the record behind a key stands, whatever is wrong with it: ``part-3.jsonl:418``."""
        found = StreamKey(*key)
        return f"{self.blocks.streams[found.source].shards[found.shard].path}:{found.line}"

    def opening(self) -> Iterator[Key]:
        """The keys of the first block, in training order."""
        block = self.blocks.read(0, self.blocks.start)
        return (block.keys[index] for index in self.blocks.order(0).tolist())


class Mark(NamedTuple):
    """Where a run goes on: behind ``batches`` of a block, at whose start the streams are at ``positions``."""

    block: int
    positions: tuple[Position, ...]
    batches: int


class StreamLoader(StepLoader):
    """Iterates ``batches`` micro-batches of streams; the order is a function of the seed, never of workers or resume.

    Every rank plans all blocks, from places alone, and takes its share of each as of an epoch of ``TrainLoader`` (the
    last batches of a block may be smaller: let ``shuffle_buffer`` be a multiple of what all ranks take at once). Only
    worker processes parse records, unless a ``token_budget`` or ``packing`` asks for lengths. Torch's loader gets the
    plan as a lazy batch sampler over a dataset with keys, not as an iterable dataset: a batch is then the same whoever
    loads it, and bad samples and lost workers are named as they are for whole sources.

    It has a length, that of the run, because a loader without one is asked for one batch more than is trained, which a
    resumed run would then miss. So the run is one epoch, and ``trainer.val_check_interval`` a share of the run.

    Args:
        dataset: samples of streams.
        batch_size: samples of a micro-batch.
        token_budget: tokens of a micro-batch of samples of about one length, in place of ``batch_size``.
        packing: packs of samples of any length, in place of both; each block is packed by itself.
        batches: micro-batches of a rank in the whole run.
        hands: see ``StepLoader``.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        *,
        batch_size: int,
        token_budget: int | None = None,
        packing: Packing | None = None,
        batches: int,
        **hands: Any,
    ) -> None:
        super().__init__(dataset, **hands)
        self.dataset, self.batch_size, self.token_budget, self.packing = dataset, batch_size, token_budget, packing
        self.block, self.mark = 0, Mark(0, dataset.blocks.start, 0)
        # Of each batch that is planned and not yet handed over: its block, and where the stream goes on behind it.
        self._planned: deque[tuple[int, Mark]] = deque()
        self._length = batches
        self.course = Course.of(batches, self.accumulate)

    def __len__(self) -> int:
        return self._length

    @property
    def part(self) -> Part:
        """The block."""
        return Part("block", self.block, self.dataset.blocks.size)

    def coming(self) -> Iterator[list[Placed]]:
        """This rank's batches from where the loader is, planned block by block as they are asked for."""
        self._planned.clear()
        number, positions, done = self.mark
        first = self.handed_over
        while first < len(self):
            block = self.dataset.blocks.read(number, positions)
            plan = self._plan(block)
            for place, batches in enumerate(plan[done : done + len(self) - first], done):
                last = place + 1 == len(plan)
                behind = Mark(number + 1, block.after, 0) if last else Mark(number, positions, place + 1)
                self._planned.append((number, behind))
                step = self.course.step_of(self.epoch, first, self.accumulate)
                yield [Placed(block.keys[index], step, self.course.steps) for index in batches[self.rank]]
                first += 1
            number, positions, done = number + 1, block.after, 0

    def passed(self) -> None:
        """Move on behind the batch that is handed over."""
        super().passed()
        self.block, self.mark = self._planned.popleft()

    def _plan(self, block: Block) -> Plan:
        """The batches of all ranks in one block."""
        order = self.dataset.blocks.order(block.number)
        if self.token_budget is None and self.packing is None:
            return fixed_count(order.tolist(), self.batch_size, self.world_size)
        amounts = [self._amount(key) for key in block.keys]
        lengths = np.array([amount.tokens for amount in amounts], dtype=np.int64)
        longest, rng = np.sort(lengths)[::-1], step_order(self.dataset.seed, block.number)
        if self.packing is not None:
            costs = text_cost(lengths) + np.array([amount.visual for amount in amounts])
            return Packs(longest, self.packing, self.world_size)(lengths, costs, order, rng)
        assert self.token_budget is not None
        return TokenBudget(longest, self.token_budget, self.world_size)(lengths, order, rng)

    def _amount(self, key: StreamKey) -> Amount:
        """What is known of a sample, or the most tokens there can be where its record cannot be read."""
        try:
            record = self.dataset.record(key)
        except DataError:
            return Amount(self.dataset.encoder.max_length, 0.0)
        return sample_amount(self.dataset, self.dataset.source(key), record, self.dataset.task(key, record))

    def state_dict(self) -> dict[str, Any]:
        """The block, where the streams were at its start, what of it was handed over; and what tells it from others."""
        block, positions, batches = self.mark
        here = {"block": block, "batches": batches, "positions": [list(position) for position in positions]}
        return {"epoch": self.epoch, "handed_over": self.handed_over, **here, "made_of": self._made_of()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken: no more than the block it lies in is read again.

        Raises:
            CheckpointError: when the streams, or how they are cut, are others now.
        """
        if "made_of" not in state:
            raise CheckpointError("the checkpoint's run read its sources whole; set data.shuffle_buffer=null as it had")
        then, now = state["made_of"], self._made_of()
        changes = [
            f"{name} was {then.get(name)} and is {value}" for name, value in now.items() if then.get(name) != value
        ]
        if changes:
            raise CheckpointError(
                f"the checkpoint's streams cannot go on: {', '.join(changes)}; resume with what the run had then"
            )
        self.epoch, self.handed_over = state["epoch"], state["handed_over"]
        self.block = state["block"]
        self.mark = Mark(self.block, _positions(state["positions"]), state["batches"])

    def _made_of(self) -> dict[str, Any]:
        blocks = self.dataset.blocks
        shards = {
            source.name: stream.fingerprint for source, stream in zip(self.dataset.sources, blocks.streams, strict=True)
        }
        return {
            "the data": shards,
            "data.shuffle_buffer": blocks.size,
            "data.weights": list(blocks.weights),
            "data.batch_size": self.batch_size if self.token_budget is None and self.packing is None else None,
            "data.token_budget": self.token_budget,
            "data.packing": self.packing and self.packing.fit,
            "data.packing_length": self.packing and self.packing.length,
            "seed": blocks.seed,
            "the number of ranks": self.world_size,
        }


def _positions(values: Sequence[Sequence[int]]) -> tuple[Position, ...]:
    return tuple(Position(*value) for value in values)
