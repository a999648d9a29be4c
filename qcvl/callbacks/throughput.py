"""Speed as the trackers see it: tokens, samples and patches a second, and the share of time spent waiting for data."""

import time
from typing import Any

import lightning.pytorch as pl
from torch import Tensor


class Throughput(pl.Callback):
    """Log ``perf/*`` over the steps since the last logging step; rates are of this rank times the number of ranks."""

    def __init__(self) -> None:
        self._logged_step = 0
        self._reset(time.perf_counter())

    def _reset(self, now: float) -> None:
        self._since, self._ended, self._waited = now, now, 0.0
        self._tokens = self._samples = self._patches = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation and saving between epochs are not training time."""
        self._reset(time.perf_counter())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation inside an epoch is not training time either."""
        self._reset(time.perf_counter())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count what is about to be trained on, and how long it took to come."""
        self._waited += time.perf_counter() - self._ended
        self._tokens += batch["input_ids"].numel()
        self._samples += batch["segments"].numel()
        self._patches += batch["pixel_values"].shape[0]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Tensor, batch: Any, batch_idx: int
    ) -> None:
        """Log at the trainer's own interval, once a step: further micro-batches see the same step."""
        self._ended = time.perf_counter()
        if trainer.global_step == self._logged_step or trainer.global_step % trainer.log_every_n_steps:
            return
        self._logged_step = trainer.global_step
        seconds = self._ended - self._since
        values = {
            "perf/tokens_per_s": self._tokens * trainer.world_size / seconds,
            "perf/samples_per_s": self._samples * trainer.world_size / seconds,
            "perf/patches_per_s": self._patches * trainer.world_size / seconds,
            "perf/loader_wait": self._waited / seconds,
        }
        pl_module.log_dict(values, batch_size=1)
        self._reset(self._ended)
