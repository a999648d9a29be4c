"""``model.liger=true``: RMS norms and gated MLPs of all towers through Liger's Triton kernels.

Of Liger's other parts, losses are qcvl's own over label positions alone, and rotary positions stay the model's:
Liger replaces these for all models of a process at once.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from qcvl.errors import ConfigError
from qcvl.models.speed import give_forward


class _Stock:
    """Whether layers are computed as transformers has them, in all threads: the backward pass of a GPU has its own."""

    asked = False


class LigerNorm:
    """An RMS norm ``[…, H] -> […, H]`` in one kernel forward and one backward, computed in float32."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The stock norm's numbers, in the number format of ``hidden_states``."""
        if _Stock.asked:
            return super().forward(hidden_states)  # type: ignore[misc,no-any-return]
        from liger_kernel.ops import LigerRMSNormFunction

        # no offset, Llama's order of casts, the gradient in memory of its own, rows as Liger likes
        how = (0.0, "llama", False, None)
        return LigerRMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon, *how)  # type: ignore[no-any-return]


class LigerMLP:
    """A gated MLP ``[…, H] -> […, H]`` whose product of gate and value is one kernel, and keeps no activation of it."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stock MLP's numbers; its linears may have adapters."""
        if _Stock.asked:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        from liger_kernel.ops import LigerSiLUMulFunction

        return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x), 1.0, 1.0))  # type: ignore[no-any-return]


@contextmanager
def stock_kernels() -> Iterator[None]:
    """Within the block the layers are computed as transformers has them."""
    _Stock.asked = True
    try:
        yield
    finally:
        _Stock.asked = False


def use_liger(model: PreTrainedModel) -> None:
    """Put Liger's kernels into every RMS norm and every MLP gated by SiLU; experts of a mixture stay as they are.

    Raises:
        ConfigError: where Liger is not installed, or cannot run.
    """
    if find_spec("liger_kernel") is None:
        raise ConfigError("model.liger: liger-kernel is not installed; pip install 'qcvl[liger]', or model.liger=false")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            "model.liger: Triton's kernels run on a GPU and torch sees none; use model.liger=false (TRITON_INTERPRET=1 "
            "in the environment runs them on a CPU, thousands of times slower)"
        )
    for module in model.modules():
        if isinstance(getattr(module, "variance_epsilon", None), float):
            give_forward(module, LigerNorm)
        elif _is_gated_by_silu(module):
            give_forward(module, LigerMLP)


def _is_gated_by_silu(module: nn.Module) -> bool:
    linears: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    gated = isinstance(getattr(module, "act_fn", None), nn.SiLU | SiLUActivation)
    return gated and all(isinstance(linear, nn.Linear) for linear in linears)
