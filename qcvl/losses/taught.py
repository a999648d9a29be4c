"""Cross-entropy and divergence from a teacher at the same positions: one pass over the student's logits for both."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from qcvl.losses.cross_entropy import label_cross_entropy
from qcvl.losses.jsd import Distribution, Head, HeadGradients, Top, distribution, divergence, token_divergence

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
            # in a call of its own: a chunk's logits, the largest tensors there are, end before the next one's begin
            parts += _chunk_losses(part, Head(hidden, weight), targets, teacher, formula, shares, gradients)
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


def _chunk_losses(
    part: slice,
    student: Head,
    targets: Tensor,
    teacher: Head | Top,
    formula: Formula,
    shares: Tensor,
    gradients: HeadGradients,
) -> list[Taught]:
    """Losses of the positions ``part``, some rows at a time, and their gradients into ``gradients``."""
    hidden, parts = student.hidden[part], []
    logits = F.linear(hidden, student.weight)
    said = _said(teacher, part)
    work = Work(*logits.new_empty((len(Work._fields), ROWS, logits.shape[1]), dtype=torch.float32))
    for first in range(0, len(logits), ROWS):
        rows = slice(first, first + ROWS)
        heard = Top(*(tensor[rows] for tensor in said)) if isinstance(said, Top) else said[rows]
        mine = Work(*(tensor[: len(logits[rows])] for tensor in work))
        parts.append(_rows_losses(logits[rows], heard, targets[part][rows], shares[part][rows], formula, mine))
    del said, work  # what the teacher said is as large as the student's logits, and heard
    gradients.add(part, hidden, logits)
    return parts


class Work(NamedTuple):
    """Memory for what is made of a few rows, float32 ``[ROWS, V]`` each, once for a chunk: large tensors cost pages."""

    values: Tensor
    tempered: Tensor
    said: Tensor
    own: Tensor
    theirs: Tensor
    mixed: Tensor


def _said(teacher: Head | Top, part: slice) -> Tensor | Top:
    """The teacher's logits of a chunk, or its few tokens."""
    if isinstance(teacher, Top):
        return Top(*(tensor[part] for tensor in teacher))
    return F.linear(teacher.hidden[part], teacher.weight)


def _in_float32(tensor: Tensor, memory: Tensor) -> Tensor:
    """The tensor itself where it is of float32, else in ``memory``."""
    return tensor if tensor.dtype == torch.float32 else memory.copy_(tensor)


def _rows_losses(
    logits: Tensor, said: Tensor | Top, targets: Tensor, shares: Tensor, formula: Formula, work: Work
) -> Taught:
    """Losses of some rows; ``logits [n, V]`` become the gradient ``shares @ losses + divergences.sum()`` by them."""
    hits = logits.argmax(-1) == targets
    values = _in_float32(logits, work.values)
    of_one = _of_top if isinstance(said, Top) else _of_head
    if formula.temperature == 1:
        losses, divergences = of_one(values, said, targets, shares, formula, work)
    else:
        tempered = torch.div(values, formula.temperature, out=work.tempered)
        _, divergences = of_one(tempered, said, targets, torch.zeros_like(shares), formula, work)
        losses = _cross_entropies(values, targets, shares, work)
        values.add_(tempered, alpha=1 / formula.temperature)
    if values is not logits:
        logits.copy_(values)
    return Taught(losses, divergences, hits)


def _cross_entropies(values: Tensor, targets: Tensor, shares: Tensor, work: Work) -> Tensor:
    student = distribution(values, work.own)
    losses = -student.logarithms.gather(1, targets[:, None])[:, 0]
    torch.mul(student.probabilities, shares[:, None], out=values)
    _less_targets(values, targets, shares)
    return losses


def _less_targets(gradients: Tensor, targets: Tensor, shares: Tensor) -> None:
    """What is the cross-entropy's gradient beside the multiple of the probabilities."""
    gradients.scatter_add_(1, targets[:, None], -shares[:, None])


def _of_head(
    values: Tensor, said: Tensor, targets: Tensor, shares: Tensor, formula: Formula, work: Work
) -> tuple[Tensor, Tensor]:
    """Cross-entropies and divergences; ``values`` become the gradient, and what was said is lost."""
    heard = _in_float32(said, work.said)
    teacher = distribution(heard if formula.temperature == 1 else heard.div_(formula.temperature), work.theirs)
    student = distribution(values, work.own)
    losses = -student.logarithms.gather(1, targets[:, None])[:, 0]
    divergences, gradients = token_divergence(student, teacher, formula.beta, base=shares[:, None], mixed=work.mixed)
    _less_targets(gradients, targets, shares)  # in the place of the values
    return losses, divergences


def _of_top(
    values: Tensor, said: Top, targets: Tensor, shares: Tensor, formula: Formula, work: Work
) -> tuple[Tensor, Tensor]:
    """As ``_of_head``. All other tokens share one number, so that they are gone over as often as without a teacher."""
    at_target, few = (values.gather(1, ids) for ids in (targets[:, None], said.ids))
    values.scatter_(1, said.ids, -math.inf)
    most = values.amax(-1, keepdim=True)
    values.sub_(most).exp_()
    total = values.sum(-1, keepdim=True)
    outcomes = torch.cat([few, total.log() + most], dim=1)
    losses = outcomes.logsumexp(-1) - at_target[:, 0]
    teacher = Distribution(said.log_probabilities.clone(), said.log_probabilities.exp())
    divergences, gradients = token_divergence(distribution(outcomes), teacher, formula.beta, base=shares[:, None])
    values.mul_(gradients[:, -1:] / total)
    values.scatter_(1, said.ids, gradients[:, :-1])
    _less_targets(values, targets, shares)
    return losses, divergences
