"""The settings of learning: which towers move, how they move, by which optimizer and along which schedule.

Importing this module costs no torch: the heavy modules are imported inside ``setup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from typing_extensions import TypedDict

from qcvl.models.towers import TOWERS, Tower
from qcvl.schema.settings import settings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from qcvl.tuning.adapters import AdapterModules

Way = Literal["adapter", "full", "frozen"]

Share = Annotated[float, Field(ge=0, lt=1)]


class Rates(TypedDict):
    """Peak learning rates of a stage, one for each way a tower can move."""

    adapter: PositiveFloat
    full: PositiveFloat


@settings
class TrainingStage:
    """Which towers move, for how many epochs, at what rates, and what the run starts from.

    ``init_from`` is ``None`` (the base model), ``"latest"`` (the newest complete ``last`` of a lower stage with the
    same base) or the path of a checkpoint folder.
    """

    number: PositiveInt
    towers: Annotated[list[Tower], Field(min_length=1)]
    epochs: PositiveFloat
    rates: Rates
    init_from: str | None

    @property
    def name(self) -> str:
        """The number as text, for messages and job names."""
        return str(self.number)

    @field_validator("towers")
    @classmethod
    def _each_tower_once(cls, towers: list[Tower]) -> list[Tower]:
        if len(set(towers)) != len(towers):
            raise ValueError(f"names a tower twice: {towers}; expected each of {', '.join(TOWERS)} at most once")
        return towers


@settings
class FullTuner:
    """Trains the weights of the stage's towers themselves."""

    @property
    def kind(self) -> str:
        """``"full"``."""
        return "full"

    def way(self, tower: Tower, towers: Sequence[Tower]) -> Way:
        """``"full"`` for a tower of the stage, else ``"frozen"``."""
        return "full" if tower in towers else "frozen"

    def setup(self, model: nn.Module, towers: Sequence[Tower]) -> nn.Module:
        """Freeze ``model``, then let the weights of ``towers`` train in float32; returns the same object."""
        from qcvl.tuning.full import train_towers

        return train_towers(model, towers)


@settings
class PeftTuner:
    """Trains adapters (any peft method that names target modules) on the linears of the stage's towers.

    ``method`` is peft's own name (``lora``, ``oft``, ``loha`` …). ``rank``, ``alpha`` and ``dropout`` go to that
    method's own fields; null leaves peft's default. ``target_modules`` is ``"all-linear"``, a list of module names
    (each matched from the end, as peft does) or a regular expression over the whole module path. Towers in
    ``full_towers`` train their own weights beside the adapter. ``options`` are further fields of peft's config class.
    """

    method: str
    rank: PositiveInt | None
    alpha: int | float | None
    dropout: Share | None
    target_modules: str | list[str]
    full_towers: list[Literal["aligner"]]
    options: dict[str, Any]

    @property
    def kind(self) -> str:
        """Peft's name of the method in lower case, such as ``"lora"``."""
        return self.method.lower()

    def way(self, tower: Tower, towers: Sequence[Tower]) -> Way:
        """``"full"`` for a stage tower in ``full_towers``, ``"adapter"`` for the stage's others, else ``"frozen"``."""
        if tower not in towers:
            return "frozen"
        return "full" if tower in self.full_towers else "adapter"

    def setup(
        self, model: nn.Module, towers: Sequence[Tower], extra_modules: AdapterModules | None = None
    ) -> nn.Module:
        """Wrap ``model`` in a peft model whose adapters on ``towers`` train in float32; all else is frozen.

        ``extra_modules`` (from ``checkpoints.adapters.adapter_modules``) are adapted too, so that an earlier stage's
        adapter has a place; those of towers outside ``towers`` stay frozen but are saved with the rest.
        """
        from qcvl.tuning.adapters import add_adapters

        return add_adapters(model, self, towers, extra_modules)


Tuner = FullTuner | PeftTuner


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

        return torch.optim.AdamW(
            groups, lr=0.0, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=self.fused
        )


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
        from qcvl.tuning.optim import MuonWithAdamW

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


@settings
class CosineWarmupWithMinLr:
    """A linear rise over the first steps, then half a cosine down to ``min_lr``.

    ``warmup_steps`` wins over ``warmup_ratio`` (a share of all steps) unless it is null. ``min_lr`` never lifts a group
    above its own rate.
    """

    warmup_ratio: Share
    warmup_steps: Annotated[int, Field(ge=0)] | None
    min_lr: Annotated[float, Field(ge=0)]

    def setup(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """A scheduler to be stepped once after each of ``total_steps`` optimizer steps."""
        from qcvl.tuning.schedules import cosine_warmup_with_min_lr, warmup_steps

        rise = warmup_steps(total_steps, self.warmup_ratio) if self.warmup_steps is None else self.warmup_steps
        return cosine_warmup_with_min_lr(optimizer, total_steps=total_steps, warmup_steps=rise, min_lr=self.min_lr)
