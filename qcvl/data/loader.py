"""The training loader: batches in a planned order, each knowing its optimizer step's label count, resumable exactly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from qcvl.data.course import Course
from qcvl.data.dataset import Key, SampleDataset, collate, step_counts
from qcvl.data.encode import Features
from qcvl.data.health import check_batch
from qcvl.data.packing import fixed_count
from qcvl.data.sampling import shuffled
from qcvl.errors import CheckpointError, QcvlError


class TrainLoader:
    """Iterate one epoch per ``__iter__``; the order is a pure function of (seed, epoch), never of workers or resume.

    It looks one optimizer step ahead: each micro-batch carries ``step_labels`` (``step_cells``), the label tokens
    (visual tokens) that all of the step's micro-batches on this rank hold together, so that the loss can be a token
    mean over the whole step. A step never spans two epochs. The state counts batches handed over, not fetched.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        *,
        batch_size: int,
        accumulate: int,
        rank: int,
        world_size: int,
        num_workers: int,
    ) -> None:
        self.dataset, self.batch_size, self.accumulate = dataset, batch_size, accumulate
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        self.epoch, self.handed_over = 0, 0
        self._length = len(self._plan(0))
        self.course = Course.of(self._length, accumulate)

    def __len__(self) -> int:
        return self._length

    def _plan(self, epoch: int) -> list[list[tuple[int, int]]]:
        order = shuffled(len(self.dataset.rows(epoch)), self.dataset.seed, epoch)
        plan = fixed_count(order.tolist(), self.batch_size, self.world_size)
        return [[(epoch, index) for index in step[self.rank]] for step in plan]

    def _placed(self, epoch: int) -> list[list["_Placed"]]:
        """The plan with the optimizer step that each sample is for."""
        steps = [self.course.step_of(epoch, number, self.accumulate) for number in range(len(self))]
        pairs = zip(steps, self._plan(epoch), strict=True)
        return [[_Placed(key, step, self.course.steps) for key in batch] for step, batch in pairs]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.handed_over >= len(self):
            self.epoch, self.handed_over = self.epoch + 1, 0
        loader = DataLoader(
            _Guarded(self.dataset),
            batch_sampler=self._placed(self.epoch)[self.handed_over :],
            collate_fn=_collate,
            num_workers=self.num_workers,
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # its own: drawing worker seeds must not move the global stream
        )
        step: list[dict[str, torch.Tensor]] = []
        for position, batch in enumerate(loader, start=self.handed_over + 1):
            if isinstance(batch, QcvlError):
                raise batch
            check_batch(batch, self.dataset.encoder.processing.family.merge_size)
            step.append(batch)
            if position % self.accumulate and position < len(self):
                continue
            counts = step_counts(step)
            for ready in step:
                self.handed_over += 1
                yield {**ready, **counts}
            step = []

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
        """Which epoch, and how many of its batches were handed over."""
        return {"epoch": self.epoch, "handed_over": self.handed_over, "length": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            CheckpointError: when the epoch has another length now, because data, batch size or ranks changed.
        """
        if state["length"] != len(self):
            raise CheckpointError(
                f"the checkpoint's epoch has {state['length']} batches, this run's has {len(self)}: the data, "
                "data.batch_size or the number of ranks changed; resume with what the run was started with"
            )
        self.epoch, self.handed_over = state["epoch"], state["handed_over"]


class _Placed(NamedTuple):
    """A sample's key, and the optimizer step (of so many in the run) it is for."""

    key: Key
    step: int
    steps: int | None


@dataclass(frozen=True)
class _Guarded(Dataset):
    """The dataset with a bad sample's error as its value: raised in a worker, it would arrive inside a traceback."""

    dataset: SampleDataset

    def __getitem__(self, placed: _Placed) -> Features | QcvlError | None:
        try:
            return self.dataset.at(placed.step, placed.steps)[placed.key]
        except QcvlError as error:
            return error


def _collate(items: Sequence[Features | QcvlError | None]) -> dict[str, torch.Tensor] | QcvlError:
    """One row of the items, or the first error among them."""
    error = next((item for item in items if isinstance(item, QcvlError)), None)
    if error is not None:
        return error
    try:
        return collate([item for item in items if not isinstance(item, QcvlError)])
    except QcvlError as refusal:
        return refusal


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
