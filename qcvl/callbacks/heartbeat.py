"""``heartbeat.json``: a sign of life for whoever watches a run from outside."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl


class Heartbeat(pl.Callback):
    """Write ``{"step", "epoch", "time", "doing", "loss"}`` to ``path`` at most every ``every_seconds``.

    ``step`` counts finished optimizer steps, ``time`` is UTC as in ISO 8601, ``loss`` the latest ``train/loss`` or
    null. ``doing`` is ``train``, ``validation``, ``finished`` or ``failed``; a change is written at once. A run whose
    file says ``train`` and has not changed for much longer than a step and ``every_seconds`` hangs; answering
    validation photos may take minutes without a beat.
    """

    def __init__(self, *, path: str, every_seconds: float) -> None:
        self.path, self.every_seconds = Path(path), every_seconds
        self._doing, self._written, self._over = "", 0.0, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A beat before the first step."""
        self._over = False
        self._beat(trainer, "train")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A beat a micro-batch, when it is time."""
        self._beat(trainer, "train")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation begins."""
        self._beat(trainer, "validation")

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """A beat a validation batch, when it is time."""
        self._beat(trainer, "validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training begins or goes on, unless it is over."""
        self._beat(trainer, "finished" if self._over else "train")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """No more steps."""
        self._over = True
        self._beat(trainer, "finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """An error, or a request to stop, ends the run."""
        self._beat(trainer, "failed")

    def _beat(self, trainer: pl.Trainer, doing: Literal["train", "validation", "finished", "failed"]) -> None:
        now = time.monotonic()
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        if doing == self._doing and now - self._written < self.every_seconds:
            return
        self._doing, self._written = doing, now
        loss = trainer.callback_metrics.get("train/loss")
        beat = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "doing": doing,
            "loss": None if loss is None else float(loss),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".partial")
        draft.write_text(json.dumps(beat) + "\n", encoding="utf-8")
        os.replace(draft, self.path)
