"""Speed as the trackers see it: tokens, samples and patches a second, and the share of time spent waiting for data."""

import time
from typing import Any

import lightning.pytorch as pl

from qcvl.callbacks.window import Window


class Throughput(Window):
    """Log ``perf/*`` over the steps since the last logging step; rates are of this rank times the number of ranks.

    Ranks that hold rows together count as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Count from nothing."""
        super().restart()
        self._ended, self._waited = self.since, 0.0
        self._tokens = self._samples = self._patches = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count what is about to be trained on, and how long it took to come."""
        self._waited += time.perf_counter() - self._ended
        self._tokens += batch["input_ids"].numel()
        self._samples += batch["segments"].numel()
        self._patches += batch["pixel_values"].shape[0]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note when the batch was done with."""
        self._ended = time.perf_counter()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def values(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, float]:
        """Rates of the span, by the clock."""
        seconds, readers = self._ended - self.since, trainer.world_size // pl_module.rows.degree
        return {
            "perf/tokens_per_s": self._tokens * readers / seconds,
            "perf/samples_per_s": self._samples * readers / seconds,
            "perf/patches_per_s": self._patches * readers / seconds,
            "perf/loader_wait": self._waited / seconds,
        }
