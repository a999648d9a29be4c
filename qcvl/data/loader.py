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
from qcvl.data.packs import Packing, Packs
from qcvl.data.sampling import shuffled, step_order
from qcvl.errors import CheckpointError


class TrainLoader(StepLoader):
    """Iterate one epoch per ``__iter__``; the order is a pure function of (seed, epoch), never of workers or resume.

    Args:
        dataset: samples by (epoch, index).
        batch_size: samples of a micro-batch.
        token_budget: tokens of a micro-batch of samples of about one length, in place of ``batch_size``.
        packing: packs of samples of any length, in place of both; None for none.
        hands: see ``StepLoader``.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        batch_size: int,
        token_budget: int | None = None,
        packing: Packing | None = None,
        **hands: Any,
    ) -> None:
        super().__init__(dataset, **hands)
        self.dataset, self.batch_size = dataset, batch_size
        self._planned: tuple[int, Plan] | None = None
        self._by_length: TokenBudget | Packs | None = None
        if packing is not None or token_budget is not None:
            self._lengths = EpochLengths(dataset)
            longest = self._lengths.longest()
            if packing is not None:
                self._by_length = Packs(longest, packing, self.world_size)
            elif token_budget is not None:
                self._by_length = TokenBudget(longest, token_budget, self.world_size)
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
            if self._by_length is None:
                plan = fixed_count(order.tolist(), self.batch_size, self.world_size)
            elif isinstance(self._by_length, Packs):
                amounts = self._lengths.of(epoch), self._lengths.costs(epoch)
                plan = self._by_length(*amounts, order, step_order(seed, epoch))
            else:
                plan = self._by_length(self._lengths.of(epoch), order, step_order(seed, epoch))
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
        told = {
            "length": len(self),
            "plan": self._checksum(self.epoch),
            "steps": self._checksum(self.epoch, by_step=True),
        }
        return {"epoch": self.epoch, "handed_over": self.handed_over, "accumulate": self.accumulate, **told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Ranks, ``batch_size`` and ``accumulate`` may have changed where each optimizer step still has the same samples.

        Raises:
            CheckpointError: when the epoch has other batches now, because data, their size or ranks changed.
        """
        changed = (
            "the data, data.batch_size, data.token_budget, data.packing, data.packing_length, "
            "data.images_per_user_turn or the number of ranks changed; resume with what the run was started with, or "
            "with as many samples a step (ranks x data.batch_size x trainer.accumulate_grad_batches)"
        )
        if "length" not in state:
            raise CheckpointError("the checkpoint's run read streams; set data.shuffle_buffer to what it was then")
        accumulate = state.get("accumulate", self.accumulate)
        done = batches_done(state["handed_over"], state["length"], accumulate, len(self), self.accumulate)
        if done is not None and state.get("steps") == self._checksum(state["epoch"], by_step=True):
            self.epoch, self.handed_over = state["epoch"], done
            return
        if state["length"] != len(self):
            raise CheckpointError(
                f"the checkpoint's epoch has {state['length']} batches, this run's has {len(self)}: {changed}"
            )
        if state["plan"] != self._checksum(state["epoch"]):
            raise CheckpointError(f"the checkpoint's epoch has as many batches as this run's, but others: {changed}")
        self.epoch, self.handed_over = state["epoch"], state["handed_over"]

    def _checksum(self, epoch: int, *, by_step: bool = False) -> str:
        """A short checksum of an epoch: its batches in order, or its steps, and the records of their samples."""
        plan = self._plan(epoch)
        batches = list(chain.from_iterable(_by_step(plan, self.accumulate) if by_step else plan))
        sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
        samples = np.array(list(chain.from_iterable(batches)), dtype=np.int64)
        check = zlib.crc32(samples.tobytes(), zlib.crc32(sizes.tobytes()))
        _, order, starts = self.dataset.epoch(epoch)
        if len(starts) <= len(order):  # some sample is of several records
            check = zlib.crc32(starts.tobytes(), zlib.crc32(order.tobytes(), check))
        return f"{check:08x}"


def batches_done(done: int, length: int, accumulate: int, new_length: int, new_accumulate: int) -> int | None:
    """Micro-batches of an epoch that are done when ``accumulate`` of them no longer make a step, but others do.

    ``length`` is how many the epoch has. None: in the middle of a step, where one cannot be counted in the other.
    """
    if done >= length:
        return new_length
    return done // accumulate * new_accumulate if done % accumulate == 0 else None


def _by_step(plan: Plan, accumulate: int) -> Plan:
    """A plan in which all samples of an optimizer step are one batch, in order."""
    steps = [plan[start : start + accumulate] for start in range(0, len(plan), accumulate)]
    return [[sorted(chain.from_iterable(chain.from_iterable(step)))] for step in steps]
