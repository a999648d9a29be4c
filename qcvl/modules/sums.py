"""Sums of losses by name, before they become means."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qcvl.data.label_kinds import LABEL_KINDS

Sums = Mapping[str, Tensor]


def on_cpu(sums: Sums) -> dict[str, Tensor]:
    """The same sums where other ranks can read them."""
    return {name: value.cpu() for name, value in sums.items()}


def summed(rows: Sequence[Sums], device: torch.device) -> dict[str, Tensor]:
    """Sums by name over rows that need not have the same names."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: torch.stack([row[name] for row in rows if name in row]).sum(0).to(device) for name in names}


def by_kind(sums: Sums) -> dict[str, Tensor]:
    """The mean cross-entropy of each label kind that occurs: ``sft_loss/<kind>``."""
    total, labels = sums["sft_sum"], sums["labels"]
    return {f"sft_loss/{kind}": total[i] / labels[i] for i, kind in enumerate(LABEL_KINDS) if labels[i] > 0}


def at_least_something(total: Tensor) -> Tensor:
    """The divisor of a mean, 1 where nothing counts."""
    return torch.where(total > 0, total, torch.ones_like(total))
