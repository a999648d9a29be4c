"""How much of the device a run uses: model operations a second, their share of the device's best, and peak memory."""

import resource
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch

from qcvl.callbacks.peaks import peak_tflops
from qcvl.callbacks.window import Window
from qcvl.models.flops import StepFlops, step_flops


class Utilization(Window):
    """Log ``perf/model_tflops_per_s``, ``perf/mfu`` and ``perf/peak_memory_gib``.

    The first is the mean over ranks of what ``models.flops`` counts of the rank's batches, by the seconds of the span,
    waiting included; of ranks that hold rows together each counts its share. ``perf/mfu`` is the share of the device's
    dense bfloat16 peak (see ``peaks``), also where a run computes in another precision; it is left out on devices whose
    peak is not known, and so on a CPU. Memory is the most since the start that any rank's tensors took of its GPU, on a
    CPU that its process took (resident).
    """

    def __init__(self) -> None:
        super().__init__()
        self._cost: StepFlops | None = None
        self.restart()

    def restart(self) -> None:
        """Count from nothing."""
        super().restart()
        self._done = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at what trains, once: that does not change during a run."""
        self._cost = step_flops(pl_module.built)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Count what is about to be trained on."""
        assert self._cost is not None  # on_train_start came before
        self._done += self._cost.of(batch) / pl_module.rows.degree

    def values(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, float]:
        """The three keys, or two."""
        device = pl_module.device
        own = torch.tensor(self._done / (time.perf_counter() - self.since) / 1e12, device=device, dtype=torch.float64)
        memory = torch.tensor(peak_memory_gib(device), device=device, dtype=torch.float64)
        if trainer.world_size > 1:
            own = trainer.strategy.reduce(own, reduce_op="sum") / trainer.world_size
            memory = trainer.strategy.reduce(memory, reduce_op="max")
        found = {"perf/model_tflops_per_s": float(own), "perf/peak_memory_gib": float(memory)}
        peak = peak_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
        return found if peak is None else found | {"perf/mfu": float(own) / peak}


def peak_memory_gib(device: torch.device) -> float:
    """The most memory that tensors took of a GPU, or this process of its host, since the start, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2 ** (30 if sys.platform == "darwin" else 20)  # macOS tells bytes, Linux KiB
