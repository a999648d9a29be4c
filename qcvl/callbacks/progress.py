"""The bar of a training run: where it is in the epoch, and loss, tokens a second and time left of the whole run."""

import time
from datetime import timedelta

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

from qcvl.data.course import Course


class Progress(RichProgressBar):
    """Lightning's rich bar, which tells the time left of an epoch, with ``loss``, ``tokens/s`` and ``left``.

    ``left`` is the time to the last step of the run, at the pace so far, validation and saving included.
    """

    def __init__(self, *, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._began, self._first = 0.0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The pace is that from here on; a resumed run begins in the middle."""
        super().on_train_start(trainer, pl_module)
        self._began, self._first = time.monotonic(), trainer.global_step

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:  # type: ignore[override]
        """What stands beside the bar, so far as it is known."""
        logged, items = trainer.callback_metrics, {}
        if "train/loss" in logged:
            items["loss"] = f"{float(logged['train/loss']):.4g}"
        if "perf/tokens_per_s" in logged:
            items["tokens/s"] = f"{float(logged['perf/tokens_per_s']):,.0f}"
        done, total = trainer.global_step - self._first, total_steps(trainer)
        if done and total is not None:
            seconds = (time.monotonic() - self._began) / done * max(total - trainer.global_step, 0)
            items["left"] = str(timedelta(seconds=round(seconds)))
        return items


def total_steps(trainer: pl.Trainer) -> int | None:
    """Optimizer steps of the whole run, by ``max_steps`` or ``max_epochs``, what comes first; None: without end."""
    batches, accumulate = int(trainer.num_training_batches), trainer.accumulate_grad_batches
    return Course.within(batches, accumulate, trainer.max_epochs, trainer.max_steps).steps
