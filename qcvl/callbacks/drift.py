"""An alarm when a student moves away from its teacher."""

from collections import deque
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from qcvl.log import get_logger

log = get_logger(__name__)
KEY = "train/llm_kd_loss"


class DriftAlarm(pl.Callback):
    """Warns when the divergence of objective=gkd rises from one span of steps to the next.

    Compared are means over ``window`` optimizer steps and the ``window`` before them. A student that starts as its
    teacher moves away from 0 at first, so nothing is said below ``floor``; after a warning the next span begins anew.
    Objectives without a divergence are never warned of.

    Args:
        window: optimizer steps of a span.
        ratio: a warning is due when a span's mean is this many times that of the one before.
        floor: nats a token, as logged in ``train/llm_kd_loss``, below which nothing is said.
    """

    def __init__(self, *, window: int, ratio: float, floor: float) -> None:
        self.window, self.ratio, self.floor = window, ratio, floor
        self._values: deque[float] = deque(maxlen=2 * window)
        self._step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at each optimizer step once."""
        if trainer.global_step == self._step or KEY not in trainer.callback_metrics:
            return
        self._step = trainer.global_step
        self._values.append(float(trainer.callback_metrics[KEY]))
        if len(self._values) == self._values.maxlen:
            self._compare(self._step)

    @rank_zero_only
    def _tell(self, before: float, now: float, step: int) -> None:
        log.warning(
            "step %s: %s rose from %.3f to %.3f nats a token in %s steps: the model moves away from its teacher; lower "
            "stage.rates, or raise objective.llm_kd_weight",
            *(step, KEY, before, now, self.window),
        )

    def _compare(self, step: int) -> None:
        values = list(self._values)
        before, now = (sum(span) / self.window for span in (values[: self.window], values[self.window :]))
        if now > self.floor and now > self.ratio * before:
            self._tell(before, now, step)
            self._values.clear()

    def state_dict(self) -> dict[str, Any]:
        """The values looked at, so that a run that goes on compares as if it had never stopped."""
        return {"values": list(self._values), "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where a run was saved."""
        self._values.extend(state_dict["values"])
        self._step = state_dict["step"]
