"""Sums of losses by name, before they become means."""

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from qcvl.data.batch import count_labels
from qcvl.data.chat import IGNORE
from qcvl.data.label_kinds import LABEL_KINDS

Sums = Mapping[str, Tensor]


def add(totals: dict[str, Tensor], sums: Sums, batch: Sums) -> None:
    """Add a batch's sums to ``totals``, in float64, and what it holds: ``labels`` by kind, and targets as ``cells``."""
    row = dict(sums) | {"labels": count_labels(batch["label_kinds"])}
    if "cell_classes" in batch:
        row["cells"] = (batch["cell_classes"] != IGNORE).sum()
    for name, value in row.items():
        value = value.detach().double()
        totals[name] = totals[name] + value if name in totals else value


def over_ranks(totals: dict[str, Tensor], trainer: pl.Trainer) -> dict[str, Tensor]:
    """Totals of all ranks, which hold the same names, in one reduction."""
    if trainer.world_size == 1:
        return totals
    flat = trainer.strategy.reduce(torch.cat([value.flatten() for value in totals.values()]), reduce_op="sum")
    parts = flat.split([value.numel() for value in totals.values()])
    return {name: part.view_as(totals[name]) for name, part in zip(totals, parts, strict=True)}


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
