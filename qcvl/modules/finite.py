"""Optimizer steps that are not finite: left out, counted, and the end of a run when they do not stop."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch

from qcvl.errors import QcvlError
from qcvl.log import get_logger

log = get_logger(__name__)


def loss_scale(trainer: pl.Trainer) -> float | None:
    """What losses are multiplied by in float16, by a factor that adapts; None where nothing is."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None:
        return float(scaler.get_scale())
    of_deepspeed: Any = getattr(trainer.optimizers[0], "loss_scaler", None) if trainer.optimizers else None
    return float(of_deepspeed.cur_scale) if getattr(of_deepspeed, "dynamic", False) else None


class FiniteSteps:
    """Leaves out optimizer steps whose loss or gradient is NaN or infinite.

    Weights, moments and ranks stay as they were; the schedule goes on. ``total`` counts such steps over the run. Under
    a loss scale gradients that alone are too large are how it finds its height: left out too, but not counted.

    Args:
        limit: the run ends at this many in a row.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._in_row: list[str] = []
        self._scaling = False
        self._replay: str | None = None  # how to make the first of them again

    @property
    def skipping(self) -> bool:
        """Whether the last step looked at is left out."""
        return self._scaling or bool(self._in_row)

    def look(
        self,
        optimizer: torch.optim.Optimizer,
        values: Sequence[float],
        step: int,
        where: Callable[[], Sequence[Sequence[str]]],
        keep: Callable[[], str | None],
        scale: float | None = None,
    ) -> bool:
        """Whether the step may go ahead; if not, its gradients are gone, so that no weight moves.

        Args:
            optimizer: holds the gradients.
            values: the step's loss and gradient norm.
            step: its number, for messages.
            where: tells which samples each of its micro-batches was made of.
            keep: keeps the step, while its weights and gradients are there, and says how to make it again.
            scale: the ``loss_scale`` there is, which falls after the step.

        Raises:
            QcvlError: at the limit, naming the samples of the last steps.
        """
        if all(map(math.isfinite, values)):
            self._in_row, self._scaling = [], False
            return True
        self._scaling = scale is not None and scale > 1 and math.isfinite(values[0])
        if not self._scaling:
            replay = keep()
            self._replay = replay or self._replay
        if isinstance(optimizer, torch.optim.Optimizer):  # DeepSpeed's own is none, and leaves such a step out itself
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        if self._scaling:
            log.info("step %d left out: gradients overflow at a loss scale of %g, which falls", step, scale)
            return False
        self.total += 1
        self._in_row.append(f"step {step}: {', '.join(place for samples in where() for place in samples)}")
        told = f"{self._in_row[-1]}; {replay}" if replay else self._in_row[-1]
        log.warning("left out, loss or gradient is not finite (%s in this run): %s", self.total, told)
        if len(self._in_row) >= self.limit:
            raise QcvlError(
                f"{self.limit} optimizer steps in a row had a loss or gradient that is not finite, of these samples:\n"
                + "\n".join(self._in_row)
                + "\nlower stage.rates, use trainer.precision=bf16-mixed in place of 16-mixed, or look at these with "
                "qcvl.check decode=true; checkpoints are sound, and objective.max_nonfinite_steps is the limit"
                + (f"\nthe first of this run was {self._replay}" if self._replay else "")
            )
        return False

    def state_dict(self) -> dict[str, int]:
        """The count of the run."""
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Count on from where a run was saved."""
        self.total = state["total"]
