"""``model.compile`` and ``model.liger``: the first batch says whether they give what the blocks give as they are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from qcvl.callbacks.batch_probe import untouched_random
from qcvl.errors import QcvlError
from qcvl.log import get_logger
from qcvl.models.liger import stock_kernels

log = get_logger(__name__)
LIBRARIES = {"model.compile": "torch", "model.liger": "liger-kernel"}
WHOLE, HALF = 1e-4, 0.05  # relative difference that rounding explains, in float32 and where 16 bits take part


class StockCheck(pl.Callback):
    """Compares loss and gradient norm of each tower on a run's first batch; no weight, gradient or draw changes.

    Without dropout, whose draws compiled code makes in its own way.

    Args:
        setting: that is checked, ``model.compile`` or ``model.liger``.
        values: gives loss and norms of a module by a batch, and leaves no gradient (``modules.gradients``).
    """

    def __init__(self, setting: str, values: Callable[[Any, Mapping[str, Any]], dict[str, float]]) -> None:
        self.setting, self.values = setting, values
        self.compared: dict[str, tuple[float, float]] = {}  # by name: as they are, by the setting

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Look at the first batch alone.

        Raises:
            QcvlError: where the two differ by more than rounding explains.
        """
        if self.compared:
            return
        drawing, computing = untouched_random(pl_module.device), trainer.precision_plugin.train_step_context()
        with drawing, _without_dropout(pl_module), computing:
            with torch.compiler.set_stance("force_eager"), stock_kernels():
                plain = self.values(pl_module, batch)
            swapped = self.values(pl_module, batch)
        self.compared = {name: (value, swapped[name]) for name, value in plain.items()}
        dtypes = {parameter.dtype for parameter in pl_module.parameters()}
        rounding = WHOLE if dtypes == {torch.float32} and "16" not in str(trainer.precision) else HALF
        told = ", ".join(f"{name} {value:.6g} and {other:.6g}" for name, (value, other) in self.compared.items())
        if any(abs(value - other) > rounding * max(abs(value), 1e-6) for value, other in self.compared.values()):
            raise QcvlError(
                f"{self.setting}: on the first batch blocks differ by more than {rounding:g} from what they give as "
                f"they are: {told}; use {self.setting}=false, or another version of {LIBRARIES[self.setting]}"
            )
        log.info("%s: the first batch as it is, and by it: %s", self.setting, told)


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    active = [part for part in module.modules() if isinstance(part, nn.Dropout) and part.training]
    for part in active:
        part.eval()
    try:
        yield
    finally:
        for part in active:
            part.train()
