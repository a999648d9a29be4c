"""The training loader: batches in a planned order, each knowing its optimizer step's label count, resumable exactly."""

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from qcvl.data.course import Course
from qcvl.data.dataset import SampleDataset, step_counts
from qcvl.data.fetching import Guarded, Placed, Reading, Row, ToRow, lost_worker, one_thread
from qcvl.data.health import check_batch
from qcvl.data.lengths import EpochLengths
from qcvl.data.packing import Plan, TokenBudget, fixed_count
from qcvl.data.sampling import shuffled, step_order
from qcvl.errors import CheckpointError, QcvlError


class TrainLoader:
    """Iterate one epoch per ``__iter__``; the order is a pure function of (seed, epoch), never of workers or resume.

    It looks one optimizer step ahead: each micro-batch carries ``step_labels`` (``step_cells``), the label tokens
    (visual tokens) that all of the step's micro-batches on this rank hold together, so that the loss can be a token
    mean over the whole step. A step never spans two epochs. The state counts batches handed over, not fetched.

    Args:
        dataset: samples by (epoch, index).
        batch_size: samples of a micro-batch.
        token_budget: tokens of a micro-batch, in place of ``batch_size``; None for a fixed count.
        keep_going: leave a sample that cannot be read out of its batch, which then names it under ``bad``, and go on.
        accumulate: micro-batches of an optimizer step.
        rank: this process's number.
        world_size: how many processes share an epoch.
        num_workers: processes that load samples.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        batch_size: int,
        token_budget: int | None,
        keep_going: bool,
        accumulate: int,
        rank: int,
        world_size: int,
        num_workers: int,
    ) -> None:
        self.dataset, self.batch_size, self.accumulate = dataset, batch_size, accumulate
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        self.token_budget, self.keep_going = token_budget, keep_going
        self.epoch, self.handed_over = 0, 0
        self.guarded = Guarded(dataset, Reading.by(num_workers))
        self._planned: tuple[int, Plan] | None = None
        if token_budget is not None:
            self._lengths = EpochLengths(dataset)
            self._budget = TokenBudget(self._lengths.longest(), token_budget, world_size)
        self._length = len(self._plan(0))
        self.course = Course.of(self._length, accumulate)

    def __len__(self) -> int:
        return self._length

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

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.handed_over >= len(self):
            self.epoch, self.handed_over = self.epoch + 1, 0
        loader = DataLoader(
            self.guarded,
            batch_sampler=self._placed(self.epoch)[self.handed_over :],
            collate_fn=ToRow(self.dataset, self.keep_going),
            num_workers=self.num_workers,
            worker_init_fn=one_thread,
            generator=torch.Generator(),  # its own: drawing worker seeds must not move the global stream
        )
        step: list[Row] = []
        for position, row in enumerate(self._rows(loader), start=self.handed_over + 1):
            if not row.hollow:
                check_batch(row.batch, self.dataset.encoder.processing.family.merge_size)
            step.append(row)
            if position % self.accumulate and position < len(self):
                continue
            counts = step_counts([row.batch for row in step if not row.hollow])
            for ready in step:
                self.handed_over += 1
                yield {**ready.batch, **counts, **({"bad": ready.bad} if ready.bad else {})}
            step = []

    def _rows(self, loader: DataLoader) -> Iterator[Row]:
        """The rows of a loader; what stops the run arrives as one error."""
        try:
            for row in loader:
                if isinstance(row, QcvlError):
                    raise row
                yield row
        except RuntimeError as error:
            raise lost_worker(error, self.guarded) or error from None

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself: Lightning calls ``sampler.set_epoch`` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``, unless that is where the loader is or goes on.

        Needed by a run resumed between two epochs: Lightning gives the loader's state back within an epoch only.
        """
        if epoch != self.epoch:
            self.epoch, self.handed_over = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Which epoch, how many of its batches were handed over, and what tells its plan from others."""
        plan = {"length": len(self), "plan": _checksum(self._plan(self.epoch))}
        return {"epoch": self.epoch, "handed_over": self.handed_over, **plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            CheckpointError: when the epoch has other batches now, because data, their size or ranks changed.
        """
        changed = (
            "the data, data.batch_size, data.token_budget or the number of ranks changed; resume with what the run was "
            "started with"
        )
        if state["length"] != len(self):
            raise CheckpointError(
                f"the checkpoint's epoch has {state['length']} batches, this run's has {len(self)}: {changed}"
            )
        if state["plan"] != _checksum(self._plan(state["epoch"])):
            raise CheckpointError(f"the checkpoint's epoch has as many batches as this run's, but others: {changed}")
        self.epoch, self.handed_over = state["epoch"], state["handed_over"]

    def where(self, epoch: int, number: int) -> list[str]:
        """Where the records of this rank's batch ``number`` of an epoch stand."""
        return [self.dataset.where((epoch, index)) for index in self._plan(epoch)[number][self.rank]]


def _checksum(plan: Plan) -> str:
    """A short checksum of a plan: its batches in order, the samples of each."""
    batches = list(chain.from_iterable(plan))
    sizes = np.array([len(batch) for batch in batches], dtype=np.int64)
    samples = np.array(list(chain.from_iterable(batches)), dtype=np.int64)
    return f"{zlib.crc32(samples.tobytes(), zlib.crc32(sizes.tobytes())):08x}"
