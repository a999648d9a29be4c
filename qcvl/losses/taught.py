"""Cross-entropy and divergence from a teacher at the same positions: one pass over the student's logits for both."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qcvl.losses.cross_entropy import label_cross_entropy
from qcvl.losses.jsd import Head, HeadGradients, Top, divergence, token_divergence

ROWS = 32  # of logits worked on at once, 19 MiB at a vocabulary of 151,936: what is made of them stays in caches


class Taught(NamedTuple):
    """Float32 ``cross_entropies [N]``, the sum of divergences, and bool ``hits [N]``: the likeliest is the target."""

    cross_entropies: Tensor
    divergence: Tensor
    hits: Tensor


class Formula(NamedTuple):
    """What the divergence is (see ``jsd.divergence``), and of how many positions logits exist at once."""

    beta: float
    temperature: float
    chunk: int


def taught_losses(student: Head, targets: Tensor, teacher: Head | Top, formula: Formula, shares: Tensor) -> Taught:
    """``label_cross_entropy`` and ``divergence`` of the same ``N`` positions, for one pass over the student's head.

    Gradients are taken in the forward pass, while a chunk's logits are there. What the two losses will weigh in the
    end is not known then: ``shares [N]`` foretell how much a cross-entropy will count for 1 of the divergence. Where
    they prove wrong the backward pass takes the gradients anew, at the price of both losses taken apart.

    Args:
        student: gets gradients.
        targets: int64 ``[N]``.
        teacher: gets none.
        formula: of the divergence.
        shares: float32 ``[N]``.

    Example:
        >>> same = Head(torch.zeros(2, 3), torch.zeros(4, 3))
        >>> taught_losses(same, torch.tensor([0, 1]), same, Formula(0.5, 1.0, 8), torch.ones(2)).cross_entropies
        tensor([1.3863, 1.3863])
    """
    return Taught(*_Taught.apply(*student, targets, teacher, formula, shares))  # type: ignore[no-untyped-call]


class _Taught(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, teacher: Head | Top, formula: Formula, shares: Tensor
    ) -> Taught:
        gradients = HeadGradients(hidden, weight, ctx.needs_input_grad)
        parts = [Taught(*(hidden.new_empty(0, dtype=kind) for kind in (torch.float32, torch.float32, torch.bool)))]
        for start in range(0, len(hidden), formula.chunk):
            part = slice(start, start + formula.chunk)
            logits = F.linear(hidden[part], weight)
            said = _said(teacher, part)
            for rows in _row_slices(len(logits)):
                heard = Top(*(tensor[rows] for tensor in said)) if isinstance(said, Top) else said[rows]
                parts.append(_rows_losses(logits[rows], heard, targets[part][rows], shares[part][rows], formula))
            gradients.add(part, hidden[part], logits)
        losses, divergences, hits = (torch.cat(columns) for columns in zip(*parts, strict=True))
        ctx.save_for_backward(hidden, weight, targets, shares, gradients.by_hidden, gradients.by_weight, *teacher)
        ctx.formula, ctx.kind = formula, type(teacher)
        ctx.mark_non_differentiable(hits)
        return Taught(losses, divergences.sum(), hits)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, by_losses: Tensor, by_divergence: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, shares, by_hidden, by_weight, *teacher = ctx.saved_tensors
        if torch.allclose(by_losses, shares * by_divergence, rtol=1e-5, atol=0):
            gradients = [None if part is None else part.mul_(by_divergence) for part in (by_hidden, by_weight)]
        else:
            inputs = [part.detach().requires_grad_() for part in (hidden, weight)]
            gradients = _apart(inputs, targets, ctx.kind(*teacher), ctx.formula, (by_losses, by_divergence))
        return (*gradients, None, None, None, None)


@torch.enable_grad()
def _apart(
    inputs: list[Tensor], targets: Tensor, teacher: Head | Top, formula: Formula, upstream: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """The gradients by the student's two parts, of each loss by itself."""
    hidden, weight = inputs
    losses, _ = label_cross_entropy(hidden, weight, targets, formula.chunk)
    beta, temperature, chunk = formula
    parted = divergence(Head(hidden, weight), teacher, beta=beta, temperature=temperature, chunk=chunk)
    return list(torch.autograd.grad((losses, parted), inputs, upstream))


def _said(teacher: Head | Top, part: slice) -> Tensor | Top:
    """The teacher's logits of a chunk, or its few tokens."""
    if isinstance(teacher, Top):
        return Top(*(tensor[part] for tensor in teacher))
    return F.linear(teacher.hidden[part], teacher.weight)


def _row_slices(count: int) -> list[slice]:
    return [slice(first, first + ROWS) for first in range(0, count, ROWS)]


def _rows_losses(logits: Tensor, said: Tensor | Top, targets: Tensor, shares: Tensor, formula: Formula) -> Taught:
    """Losses of some rows; ``logits [n, V]`` become the gradient ``shares @ losses + divergences.sum()`` by them."""
    beta, temperature, _ = formula
    hits = logits.argmax(-1) == targets
    values = logits.float()  # of float32 logits these are the logits themselves
    of_one = _of_top if isinstance(said, Top) else _of_head
    if temperature == 1:
        losses, divergences = of_one(values, said, targets, shares, formula)
    else:
        tempered = values / temperature
        _, divergences = of_one(tempered, said, targets, torch.zeros_like(shares), formula)
        losses = _cross_entropies(values, targets, shares)
        values.add_(tempered, alpha=1 / temperature)
    if values.data_ptr() != logits.data_ptr():
        logits.copy_(values)
    return Taught(losses, divergences, hits)


def _cross_entropies(values: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    logarithms = values.log_softmax(-1)
    torch.exp(logarithms, out=values)
    values.mul_(shares[:, None])
    _less_targets(values, targets, shares)
    return -logarithms.gather(1, targets[:, None])[:, 0]


def _less_targets(gradients: Tensor, targets: Tensor, shares: Tensor) -> None:
    """What is the cross-entropy's gradient beside the multiple of the probabilities."""
    gradients.scatter_add_(1, targets[:, None], -shares[:, None])


def _of_head(values: Tensor, said: Tensor, targets: Tensor, shares: Tensor, formula: Formula) -> tuple[Tensor, Tensor]:
    """Cross-entropies and divergences; ``values`` become the gradient."""
    teacher = (said.float() / formula.temperature if formula.temperature != 1 else said.float()).log_softmax(-1)
    student = values.log_softmax(-1)
    losses = -student.gather(1, targets[:, None])[:, 0]
    divergences, _ = token_divergence(student, teacher, formula.beta, base=shares[:, None], out=values)
    _less_targets(values, targets, shares)
    return losses, divergences


def _of_top(values: Tensor, said: Top, targets: Tensor, shares: Tensor, formula: Formula) -> tuple[Tensor, Tensor]:
    """As ``_of_head``. All other tokens share one number, so that they are gone over as often as without a teacher."""
    at_target, few = (values.gather(1, ids) for ids in (targets[:, None], said.ids))
    values.scatter_(1, said.ids, -math.inf)
    most = values.amax(-1, keepdim=True)
    values.sub_(most).exp_()
    total = values.sum(-1, keepdim=True)
    outcomes = torch.cat([few, total.log() + most], dim=1)
    student = outcomes.log_softmax(-1)
    losses = outcomes.logsumexp(-1) - at_target[:, 0]
    divergences, gradients = token_divergence(
        student, said.log_probabilities.clone(), formula.beta, base=shares[:, None]
    )
    values.mul_(gradients[:, -1:] / total)
    values.scatter_(1, said.ids, gradients[:, :-1])
    _less_targets(values, targets, shares)
    return losses, divergences
