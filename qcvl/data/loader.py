"""The training loader of whole sources: batches in a planned order, resumable exactly."""

import zlib
from itertools import chain
from typing import Any

import numpy as np

from qcvl.data.course import Course
from qcvl.data.dataset import SampleDataset
from qcvl.data.fetching import Placed
from qcvl.data.handover import Part, StepLoader
from qcvl.data.lengths import EpochLengths
from qcvl.data.packing import Plan, TokenBudget, fixed_count
from qcvl.data.sampling import shuffled, step_order
from qcvl.errors import CheckpointError


class TrainLoader(StepLoader):
    """Iterate one epoch per ``__iter__``; the order is a pure function of (seed, epoch), never of workers or resume.

    Args:
        dataset: samples by (epoch, index).
        batch_size: samples of a micro-batch.
        token_budget: tokens of a micro-batch, in place of ``batch_size``; None for a fixed count.
        hands: see ``StepLoader``.
    """

    def __init__(self, dataset: SampleDataset, *, batch_size: int, token_budget: int | None, **hands: Any) -> None:
        super().__init__(dataset, **hands)
        self.dataset, self.batch_size, self.token_budget = dataset, batch_size, token_budget
        self._planned: tuple[int, Plan] | None = None
        if token_budget is not None:
            self._lengths = EpochLengths(dataset)
            self._budget = TokenBudget(self._lengths.longest(), token_budget, self.world_size)
        self._length = len(self._plan(0))
        self.course = Course.of(self._length, self.accumulate)

    def __len__(self) -> int:
        return self._length

    @property
    def part(self) -> Part:
        """The epoch."""
        return Part("epoch", self.epoch, len(self.dataset))

    def coming(self) -> list[list[Placed]]:
        """This rank's batches from where the loader is to the end of the epoch."""
        return self._placed(self.epoch)[self.handed_over :]

    def _plan(self, epoch: int) -> Plan:
        """The batches of all ranks in one epoch."""
        if self._planned is None or self._planned[0] != epoch:
            seed = self.dataset.seed
            order = shuffled(len(self.dataset), seed, epoch)
            if self.token_budget is None:
                plan = fixed_count(order.tolist(), self.batch_size, self.world_size)
            else:
                plan = self._budget(self._lengths.of(epoch), order, step_order(seed, epoch))
            self._planned = epoch, plan
        return self._planned[1]

    def _placed(self, epoch: int) -> list[list[Placed]]:
        """This rank's batches in one epoch, with the optimizer step that each sample is for."""
        steps = [self.course.step_of(epoch, number, self.accumulate) for number in range(len(self))]
        pairs = zip(steps, self._plan(epoch), strict=True)
        return [
            [Placed((epoch, index), step, self.course.steps) for index in batches[self.rank]] for step, batches in pairs
        ]

    def state_dict(self) -> dict[str, Any]:
        """Which epoch, how many of its batches were handed over, and what tells its plan from others."""
        plan = {"length": len(self), "plan": self._checksum(self.epoch)}
        return {"epoch": self.epoch, "handed_over": self.handed_over, **plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            CheckpointError: when the epoch has other batches now, because data, their size or ranks changed.
        """
        changed = (
            "the data, data.batch_size, data.token_budget, data.images_per_user_turn or the number of ranks changed; "
            "resume with what the run was started with"
        )
        if "length" not in state:
            raise CheckpointError("the checkpoint's run read streams; set data.shuffle_buffer to what it was then")
        if state["length"] != len(self):
            raise CheckpointError(
                f"the checkpoint's epoch has {state['length']} batches, this run's has {len(self)}: {changed}"
            )
        if state["plan"] != self._checksum(state["epoch"]):
            raise CheckpointError(f"the checkpoint's epoch has as many batches as this run's, but others: {changed}")
        self.epoch, self.handed_over = state["epoch"], state["handed_over"]

    def _checksum(self, epoch: int) -> str:
        """A short checksum of an epoch's plan: its batches in order, the samples of each, the records of those."""
        batches = list(chain.from_iterable(self._plan(epoch)))
        sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
        samples = np.array(list(chain.from_iterable(batches)), dtype=np.int64)
        check = zlib.crc32(samples.tobytes(), zlib.crc32(sizes.tobytes()))
        _, order, starts = self.dataset.epoch(epoch)
        if len(starts) <= len(order):  # some sample is of several records
            check = zlib.crc32(starts.tobytes(), zlib.crc32(order.tobytes(), check))
        return f"{check:08x}"
