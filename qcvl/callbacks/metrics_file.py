"""``metrics.json``: the evaluation before training, the best and the last one."""

import json
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from qcvl.callbacks.checkpoint import HFCheckpoint


class MetricsFile(pl.Callback):
    """Keep ``{"initial": {…}, "best": {…}, "final": {…}}`` of all ``eval/`` keys in ``path``.

    ``initial`` is the evaluation before training, ``best`` the one with the lowest (``mode=min``) or highest monitored
    value during it, which is that of ``checkpoints/best``. ``final`` is written by ``finish``: a file that has it
    belongs to a finished run. A resumed run goes on with what the file holds.
    """

    def __init__(self, *, path: str, monitor: str, mode: str) -> None:
        self.path, self.monitor, self.sign = Path(path), monitor, {"min": 1, "max": -1}[mode]
        self.values: dict[str, dict[str, float]] = {}
        self.latest: tuple[int, dict[str, float]] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read what an earlier part of this run wrote; a run that goes on is not finished."""
        if not self.values and self.path.is_file():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))
            self.values.pop("final", None)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at ``max_steps`` as after any other request: with a validation, so that the last weights may be best."""
        if trainer.global_step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the evaluation's values."""
        if trainer.sanity_checking:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("eval/")}
        self.latest = (trainer.global_step, metrics)
        training = trainer.state.fn == TrainerFn.FITTING
        if not training and trainer.global_step == 0 and "initial" not in self.values:
            self.values["initial"] = metrics
        elif training and not _delayed(trainer) and self._score(metrics) < self._score(self.values.get("best", {})):
            self.values["best"] = metrics
        self._write(trainer)

    def finish(self, trainer: pl.Trainer) -> dict[str, dict[str, float]]:
        """Write ``final`` from the latest evaluation and return all three."""
        self.values["final"] = self.latest[1] if self.latest else {}
        self.values = {key: self.values[key] for key in ("initial", "final", "best") if key in self.values}
        self._write(trainer)
        return self.values

    def _score(self, metrics: dict[str, float]) -> float:
        return self.sign * metrics.get(self.monitor, self.sign * math.inf)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_suffix(".partial")
            draft.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, self.path)


def _delayed(trainer: pl.Trainer) -> bool:
    """Whether the run's checkpoints call nothing best yet."""
    return any(saver.delayed(trainer) for saver in trainer.checkpoint_callbacks if isinstance(saver, HFCheckpoint))
