"""Handing batches over, an optimizer step at a time: what the loaders of whole sources and of streams share."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from qcvl.data.batch import step_counts
from qcvl.data.course import Course
from qcvl.data.dataset import Key, Samples
from qcvl.data.fetching import Guarded, Placed, Reading, Row, ToRow, lost_worker, one_thread
from qcvl.data.health import check_batch
from qcvl.errors import QcvlError


class Part(NamedTuple):
    """A part of the data within which bad samples are counted: an epoch, or a block of a stream, and its samples."""

    kind: str
    number: int
    samples: int


class StepLoader(ABC):
    """Iterates one epoch per ``__iter__`` and goes on where it was stopped.

    It looks one optimizer step ahead: each micro-batch carries ``step_labels`` (``step_cells``), the label tokens
    (visual tokens) that all of the step's micro-batches on this rank hold together, so that the loss can be a token
    mean over the whole step. A step never spans two epochs. The state counts batches handed over, not fetched.

    Args:
        dataset: samples by key.
        keep_going: leave a sample that cannot be read out of its batch, which then names it under ``bad``, and go on.
        accumulate: micro-batches of an optimizer step.
        rank: this process's number.
        world_size: how many processes share the batches.
        num_workers: processes that load samples.
    """

    course: Course  # each kind of loader sets it, once it knows how long it is

    def __init__(
        self, dataset: Samples, *, keep_going: bool, accumulate: int, rank: int, world_size: int, num_workers: int
    ) -> None:
        self.keep_going, self.accumulate = keep_going, accumulate
        self.rank, self.world_size, self.num_workers = rank, world_size, num_workers
        self.epoch, self.handed_over = 0, 0
        self.guarded = Guarded(dataset, Reading.by(num_workers, dataset.key_numbers))
        self._asked: deque[list[Key]] = deque()  # keys of batches that are asked for and not yet handed over
        self._recent: deque[tuple[tuple[int, int], list[Key]]] = deque(maxlen=2 * accumulate + 2)

    @abstractmethod
    def __len__(self) -> int:
        """The batches of an epoch."""

    @abstractmethod
    def coming(self) -> Iterable[list[Placed]]:
        """This rank's batches from where the loader is to the end of the epoch."""

    @property
    @abstractmethod
    def part(self) -> Part:
        """The part of the data that the batch handed over last is from."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, and what tells its batches from others; plain data."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken; raises CheckpointError when there are other batches now."""

    def passed(self) -> None:
        """Take note that one batch more is handed over."""
        self.handed_over += 1

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if self.handed_over >= len(self):
            self.epoch, self.handed_over = self.epoch + 1, 0
        loader = DataLoader(
            self.guarded,
            batch_sampler=self._asking(),
            collate_fn=ToRow(self.guarded.dataset, self.keep_going),
            num_workers=self.num_workers,
            worker_init_fn=one_thread,
            generator=torch.Generator(),  # its own: drawing worker seeds must not move the global stream
        )
        step: list[Row] = []
        for position, row in enumerate(self._rows(loader), start=self.handed_over + 1):
            if not row.hollow:
                check_batch(row.batch, self.guarded.dataset.encoder.processing.family.merge_size)
            step.append(row)
            if position % self.accumulate and position < len(self):
                continue
            counts = step_counts([row.batch for row in step if not row.hollow])
            for ready in step:
                self._recent.append(((self.epoch, self.handed_over), self._asked.popleft()))
                self.passed()
                yield {**ready.batch, **counts, **({"bad": ready.bad} if ready.bad else {})}
            step = []

    def where(self, epoch: int, number: int) -> list[str]:
        """Where the records of this rank's batch ``number`` of an epoch stand; one of the last two steps' batches."""
        keys = next(keys for batch, keys in self._recent if batch == (epoch, number))
        return [self.guarded.dataset.where(key) for key in keys]

    def _asking(self) -> Iterator[list[Placed]]:
        self._asked.clear()
        for placed in self.coming():
            self._asked.append([one.key for one in placed])
            yield placed

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
    def sampler(self) -> "StepLoader":
        """The loader itself: Lightning calls ``sampler.set_epoch`` before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of ``epoch``, unless that is where the loader is or goes on.

        Needed by a run resumed between two epochs: Lightning gives the loader's state back within an epoch only.
        """
        if epoch != self.epoch:
            self.epoch, self.handed_over = epoch, 0
