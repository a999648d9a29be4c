"""Speed as the trackers see it: tokens, samples and patches a second, time spent waiting for data, and full packs."""

import time
from typing import Any

import lightning.pytorch as pl

from qcvl.callbacks.window import Window


class Throughput(Window):
    """Log ``perf/*`` over the steps since the last logging step; rates are of this rank times the number of ranks.

    ``perf/pack_fill`` is the share of a micro-batch's tokens (``data.packing_length`` or ``data.token_budget``) that
    this rank's hold; one of a single longer sample counts as full. There is none of a fixed number of samples. Ranks
    that hold rows together count as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Count from nothing."""
        super().restart()
        self._ended, self._waited = self.since, 0.0
        self._tokens = self._samples = self._patches = self._room = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count what is about to be trained on, and how long it took to come."""
        self._waited += time.perf_counter() - self._ended
        tokens = batch["input_ids"].numel()
        capacity = trainer.datamodule.data.capacity  # type: ignore[attr-defined]
        self._room += capacity and max(capacity, tokens) or 0
        self._tokens += tokens
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
        fill = {"perf/pack_fill": self._tokens / self._room} if self._room else {}
        return fill | {
            "perf/tokens_per_s": self._tokens * readers / seconds,
            "perf/samples_per_s": self._samples * readers / seconds,
            "perf/patches_per_s": self._patches * readers / seconds,
            "perf/loader_wait": self._waited / seconds,
        }
