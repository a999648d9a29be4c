"""What measurements over a span of training steps share: where a span begins, and when it is logged."""

import time
from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl


class Window(pl.Callback, ABC):
    """A span of training from one logging step to the next; validation and saving between epochs are no part of it."""

    def __init__(self) -> None:
        self._logged_step = 0
        self.since = 0.0

    def restart(self) -> None:
        """Forget what was measured and begin a span now; subclasses add their own."""
        self.since = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation and saving between epochs are not training time."""
        self.restart()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation inside an epoch is not training time either."""
        self.restart()

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether this batch ends a step that is logged; once a step: further micro-batches see the same one."""
        if trainer.global_step == self._logged_step or trainer.global_step % trainer.log_every_n_steps:
            return False
        self._logged_step = trainer.global_step
        return True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at the trainer's own interval, and begin anew."""
        if self.is_due(trainer):
            pl_module.log_dict(self.values(trainer, pl_module), batch_size=1)
            self.restart()

    @abstractmethod
    def values(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """What is logged of the span that ends now; every rank asks for it at the same step."""
