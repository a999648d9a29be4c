"""How many optimizer steps a run takes, known before its first: what a curriculum in percent is measured on."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning.pytorch as pl


@dataclass(frozen=True)
class Course:
    """Optimizer steps of an epoch, and of the whole run (None: nothing but a person or a time limit ends it)."""

    steps_per_epoch: int
    steps: int | None

    @classmethod
    def of(cls, batches: int, accumulate: int, trainer: "pl.Trainer | None" = None) -> "Course":
        """The course over epochs of ``batches``, as the trainer's limits cut it; a step never spans two epochs."""
        limit = trainer.limit_train_batches if trainer else 1.0
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        if trainer is None:
            return cls.within(batches, accumulate, None, -1)
        return cls.within(batches, accumulate, trainer.max_epochs, trainer.max_steps)

    @classmethod
    def within(cls, batches: int, accumulate: int, epochs: int | None, steps: int) -> "Course":
        """The course over ``epochs`` (None or -1: any number) of ``batches``, at most ``steps`` (-1: without end)."""
        an_epoch = math.ceil(batches / accumulate)
        ends = [epochs * an_epoch] if epochs not in (None, -1) else []
        ends += [steps] if steps != -1 else []
        return cls(an_epoch, min(ends, default=None))

    def step_of(self, epoch: int, batch: int, accumulate: int) -> int:
        """The optimizer step, from 0, that micro-batch ``batch`` (from 0) of an epoch belongs to."""
        return epoch * self.steps_per_epoch + batch // accumulate
