"""What augmentation does to the samples that are trained on, as the trackers see it."""

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from qcvl.augment.telemetry import added, rates
from qcvl.inference.sharding import gather_objects


class AugmentationLog(pl.Callback):
    """Log ``augment/*`` over the samples of all ranks since the last logging step (see ``augment.telemetry.rates``)."""

    def __init__(self) -> None:
        self._logged_step = 0
        self._sums: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Tensor, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log at the trainer's own interval, once a step: further micro-batches see the same step."""
        self._sums = added([self._sums, batch["telemetry"]])
        if trainer.global_step == self._logged_step or trainer.global_step % trainer.log_every_n_steps:
            return
        self._logged_step = trainer.global_step
        values = rates(added(gather_objects([self._sums])))
        self._sums = {}
        # Past Lightning's log_dict: within an epoch that repeats the last value of a key that has none this time.
        for logger in trainer.loggers if values else []:
            logger.log_metrics(values, step=trainer.global_step - 1)

    def state_dict(self) -> dict[str, Any]:
        """What was counted since the last row, so that a resumed run writes the rows it would have written."""
        return {"logged_step": self._logged_step, "sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from a saved state."""
        self._logged_step, self._sums = state_dict["logged_step"], dict(state_dict["sums"])
