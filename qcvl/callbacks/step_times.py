"""Where the seconds of a step go: waiting for data, vision forward, language forward, backward, optimizer."""

import time
from itertools import pairwise
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch.utils.hooks import RemovableHandle

from qcvl.callbacks.window import Window
from qcvl.models.forward import unwrap

PHASES = ("load", "vision", "llm", "backward", "optimizer")


class Mark(NamedTuple):
    """The end of a phase: a time in seconds, or an event of a GPU's stream."""

    phase: str
    at: Any


class StepTimes(Window):
    """Log ``perf/seconds/<phase>``, seconds an optimizer step by phase; they add up to the whole of it.

    With several ranks it is their mean, and ``perf/seconds_max/<phase>`` is that of the slowest rank. ``load`` is what
    the device waits for batches, ``vision`` the forward of the vision tower and the aligner, ``llm`` the rest of the
    forward and the loss, ``optimizer`` also clipping and what is logged. On a GPU the times are those of its stream, by
    events that nothing waits for before a logging step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._marks: list[Mark] = []
        self._hooks: list[RemovableHandle] = []
        self._training, self._cuda = False, False
        self._step = self._steps = 0

    def restart(self) -> None:
        """Begin with no mark but now."""
        super().restart()
        self._marks, self._steps = [Mark("", self._now())], 0

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mark(self, phase: str) -> None:
        """What passed since the last mark was ``phase``; outside a training step nothing is marked."""
        if self._training:
            self._marks.append(Mark(phase, self._now()))

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Listen to the vision tower."""
        self._cuda = pl_module.device.type == "cuda"
        self._step = trainer.global_step
        visual = unwrap(pl_module.built).model.visual
        self._hooks = [
            visual.register_forward_pre_hook(lambda *_: self._mark("llm")),
            visual.register_forward_hook(lambda *_: self._mark("vision")),
        ]
        self.restart()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen no more."""
        for hook in self._hooks:
            hook.remove()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch has come."""
        self._training = True
        self._mark("load")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """The loss is there."""
        self._mark("llm")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The gradients are there."""
        self._mark("backward")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch is done with."""
        self._mark("optimizer")
        self._training = False
        self._steps += trainer.global_step - self._step
        self._step = trainer.global_step
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def values(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """Seconds a step by phase, mean and slowest of the ranks."""
        own = torch.tensor(self._spent(), device=pl_module.device, dtype=torch.float64) / self._steps
        if trainer.world_size == 1:
            return {f"perf/seconds/{phase}": float(value) for phase, value in zip(PHASES, own, strict=True)}
        mean = trainer.strategy.reduce(own.clone(), reduce_op="sum") / trainer.world_size
        slowest = trainer.strategy.reduce(own, reduce_op="max")
        rows = zip(PHASES, mean.tolist(), slowest.tolist(), strict=True)
        return {
            key: value
            for phase, usual, most in rows
            for key, value in ((f"perf/seconds/{phase}", usual), (f"perf/seconds_max/{phase}", most))
        }

    def _spent(self) -> list[float]:
        """Seconds by phase between the marks."""
        if self._cuda:
            self._marks[-1].at.synchronize()
        spent = dict.fromkeys(PHASES, 0.0)
        for before, mark in pairwise(self._marks):
            spent[mark.phase] += before.at.elapsed_time(mark.at) / 1000 if self._cuda else mark.at - before.at
        return [spent[phase] for phase in PHASES]
