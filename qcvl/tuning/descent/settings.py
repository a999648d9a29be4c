"""The settings of descent: which optimizer takes the steps, and along which schedule their rates go.

Importing this module costs no torch: the heavy modules are imported inside ``setup``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveFloat

from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Share = Annotated[float, Field(ge=0, lt=1)]


@settings
class AdamW:
    """``torch.optim.AdamW``; rates come from the stage, one a group."""

    betas: tuple[Share, Share]
    eps: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    fused: bool

    def setup(self, groups: list[dict[str, Any]]) -> Optimizer:
        """An optimizer over ``groups`` (from ``parameter_groups``)."""
        import torch

        optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=self.fused
        )
        # The fused form would take gradients as fp16 has scaled them, and Lightning then refuses to clip them, in
        # bfloat16 as well. So they are unscaled before.
        optimizer._step_supports_amp_scaling = False
        return optimizer

    def state_bytes(self, group: dict[str, Any]) -> int:
        """Bytes kept for each trained number of a group: both moments in float32."""
        return 8


@settings
class AdamW8bit:
    """bitsandbytes' AdamW: both moments in eight bits, a scale for each 256 numbers; small tensors keep 32 bits.

    2 bytes a trained number in place of 8; rates come from the stage, one a group.
    """

    betas: tuple[Share, Share]
    eps: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]

    def setup(self, groups: list[dict[str, Any]]) -> Optimizer:
        """An optimizer over ``groups`` (from ``parameter_groups``).

        Raises:
            ConfigError: when bitsandbytes is not installed.
        """
        from qcvl.tuning.quantization import bitsandbytes

        return bitsandbytes().optim.AdamW8bit(
            groups, lr=0.0, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )

    def state_bytes(self, group: dict[str, Any]) -> int:
        """Bytes kept for each trained number of a group: both moments in eight bits."""
        return 2


@settings
class MuonAdamW:
    """Muon for the 2-D weights inside blocks, AdamW for everything else, as one optimizer.

    ``lr_scale`` is Muon's rate as a multiple of its group's rate (which AdamW uses as it is).
    """

    betas: tuple[Share, Share]
    eps: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    fused: bool
    momentum: Share
    nesterov: bool
    ns_steps: Annotated[int, Field(ge=1, lt=100)]
    lr_scale: PositiveFloat

    def setup(self, groups: list[dict[str, Any]]) -> Optimizer:
        """An optimizer over ``groups`` (from ``parameter_groups``); those flagged ``matrix`` are Muon's."""
        from qcvl.tuning.descent.optim import MuonWithAdamW

        return MuonWithAdamW(
            groups,
            adamw={"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay, "fused": self.fused},
            muon={
                "momentum": self.momentum,
                "nesterov": self.nesterov,
                "ns_steps": self.ns_steps,
                "weight_decay": self.weight_decay,
            },
            lr_scale=self.lr_scale,
        )

    def state_bytes(self, group: dict[str, Any]) -> int:
        """Bytes kept for each trained number of a group: Muon's momentum, or both moments of AdamW, in float32."""
        return 4 if group["matrix"] else 8


@settings
class Warmup:
    """A linear rise over the first steps: ``warmup_steps``, or where that is null ``warmup_ratio`` of all steps."""

    warmup_ratio: Share
    warmup_steps: Annotated[int, Field(ge=0)] | None

    def rise(self, total_steps: int) -> int:
        """The steps of the rise, of ``total_steps``."""
        from qcvl.tuning.descent.schedules import warmup_steps

        return warmup_steps(total_steps, self.warmup_ratio) if self.warmup_steps is None else self.warmup_steps


@settings
class Constant(Warmup):
    """The rise, then each group's own rate to the end."""

    def setup(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """A scheduler to be stepped once after each of ``total_steps`` optimizer steps."""
        from qcvl.tuning.descent.schedules import constant, scheduled

        return scheduled(optimizer, constant, total_steps=total_steps, warmup_steps=self.rise(total_steps), min_lr=0.0)


@settings
class CosineWarmupWithMinLr(Warmup):
    """The rise, then half a cosine down to ``min_lr``, which no group's rate may be below."""

    min_lr: Annotated[float, Field(ge=0)]

    def setup(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """A scheduler to be stepped once after each of ``total_steps`` optimizer steps."""
        from qcvl.tuning.descent.schedules import cosine, scheduled

        rise = self.rise(total_steps)
        return scheduled(optimizer, cosine, total_steps=total_steps, warmup_steps=rise, min_lr=self.min_lr)


@settings
class LinearWarmupWithMinLr(Warmup):
    """The rise, then a straight line down to ``min_lr``, which no group's rate may be below."""

    min_lr: Annotated[float, Field(ge=0)]

    def setup(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """A scheduler to be stepped once after each of ``total_steps`` optimizer steps."""
        from qcvl.tuning.descent.schedules import linear, scheduled

        rise = self.rise(total_steps)
        return scheduled(optimizer, linear, total_steps=total_steps, warmup_steps=rise, min_lr=self.min_lr)
