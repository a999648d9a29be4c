"""What a student learns of a row at whose labels a teacher has spoken."""

from collections.abc import Callable
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.losses.jsd import Head, Top
from qcvl.losses.taught import Formula, taught_losses
from qcvl.modules.sft import before_labels


class Lesson(NamedTuple):
    """A row with answers, and what the teacher says at their labels."""

    row: dict[str, Any]
    said: Head | Top


def labels_for_one(row: dict[str, Any], lesson: Lesson, trainer: pl.Trainer | None) -> Tensor | float:
    """Labels of the data for each label of the lesson's answers, over all ranks: 1 where they are the same."""
    if lesson.row is row:
        return 1.0
    counts = torch.stack([(part["label_kinds"] > 0).sum() for part in (row, lesson.row)]).double()
    if trainer is not None and trainer.world_size > 1:
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
    return (counts[0] / counts[1]).float()


def lesson_sums(
    student: Head, batch: dict[str, Tensor], lesson: Lesson, formula: Formula, kind_shares: Tensor
) -> dict[str, Tensor]:
    """``sft_sum [LABEL_KINDS]``, ``correct`` and ``llm_kd_sum`` over a batch's labels.

    Args:
        student: at these labels, with all words that it knows.
        batch: ``labels`` and ``label_kinds`` ``[1, L]``.
        lesson: about the batch's own answers.
        formula: of the divergence.
        kind_shares: see ``shares``.
    """
    index = before_labels(batch["label_kinds"])
    kinds = F.one_hot(batch["label_kinds"][0, index + 1].long() - 1, len(LABEL_KINDS)).float()
    found = taught_losses(student, batch["labels"][0, index + 1], lesson.said, formula, (kinds * kind_shares).sum(-1))
    sums = {"sft_sum": (found.cross_entropies[:, None] * kinds).sum(0), "correct": found.hits.sum()}
    return sums | {"llm_kd_sum": found.divergence}


def shares(combine: Callable[..., Tensor], labels: Tensor) -> Tensor:
    """How much a cross-entropy of each label kind counts for 1 of the divergence, float32 ``[LABEL_KINDS]``.

    Where no gradient is taken nothing counts.

    Args:
        combine: of a module, whose derivatives these are.
        labels: of the step, by kind.
    """
    if not torch.is_grad_enabled():
        return torch.zeros_like(labels)
    sums = {"sft_sum": torch.zeros_like(labels), "llm_kd_sum": labels.new_zeros(())}
    inputs = [value.requires_grad_() for value in sums.values()]
    by_kinds, by_divergence = torch.autograd.grad(combine(sums, labels, labels.new_ones(())), inputs)
    return by_kinds / by_divergence
