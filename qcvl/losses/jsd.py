"""The generalized Jensen-Shannon divergence of two heads at label positions, without the whole logits."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Head(NamedTuple):
    """What a model says at ``N`` positions: hidden states ``[N, H]`` and the head's weight ``[V, H]``."""

    hidden: Tensor
    weight: Tensor


def divergence(student: Head, teacher: Head, *, beta: float, temperature: float, chunk: int) -> Tensor:
    """Sum over ``N`` positions of the divergence of the student's and the teacher's next token, a float32 scalar.

    With ``M = (1 - beta) * student + beta * teacher`` it is ``beta * KL(teacher || M) + (1 - beta) * KL(student || M)``
    (https://arxiv.org/abs/2306.13649). 0 and 1 are not its limits, which are 0, but ``KL(teacher || student)`` and
    ``KL(student || teacher)``. Logits are divided by ``temperature``; the loss is not multiplied by its square.

    The student alone gets gradients. Both heads work on ``chunk`` positions at a time, whose gradients are taken at
    once, so that at most ``[chunk, V]`` float32 logits of each exist, for as long as the chunk takes. A smaller chunk
    needs less memory at the same arithmetic, for which the vocabulary needs no division of its own.

    Example:
        >>> same = Head(torch.ones(3, 2), torch.eye(2))
        >>> divergence(same, same, beta=0.5, temperature=1.0, chunk=2)
        tensor(0.)
    """
    return _Divergence.apply(*student, *teacher, beta, temperature, chunk)


def token_divergence(student: Tensor, teacher: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Divergences ``[N]`` of log-probabilities ``[N, V]``, and their gradients ``[N, V]`` by the student's logits."""
    if beta == 0:
        probabilities = teacher.exp()
        return (probabilities * (teacher - student)).sum(-1), student.exp() - probabilities
    if beta == 1:
        ratio, forward = student - teacher, 0.0
    else:
        mixture = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
        forward = beta * (teacher.exp() * (teacher - mixture)).sum(-1)
        ratio = student - mixture
    # The gradient of both terms by a student's probability is the log ratio, and a constant that the softmax removes.
    weight = 1.0 if beta == 1 else 1 - beta
    probabilities = student.exp()
    reverse = (probabilities * ratio).sum(-1)
    return forward + weight * reverse, weight * probabilities * (ratio - reverse[:, None])


class _Divergence(torch.autograd.Function):
    """Takes the gradients in the forward pass, while a chunk's logits are there; backward multiplies by a number."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        beta: float,
        temperature: float,
        chunk: int,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = F.linear(hidden[part], weight)
            student = _log_probabilities(logits, temperature)
            teacher = _log_probabilities(F.linear(teacher_hidden[part], teacher_weight), temperature)
            losses, gradients = token_divergence(student, teacher, beta)
            total += losses.sum()
            by_logits = (gradients / temperature).to(logits.dtype)
            if by_hidden is not None:
                by_hidden[part] = by_logits @ weight.to(logits.dtype)
            if by_weight is not None:
                by_weight += by_logits.T @ hidden[part].to(logits.dtype)
        ctx.save_for_backward(by_hidden, by_weight)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        by_hidden, by_weight = ctx.saved_tensors
        scaled = (None if gradient is None else gradient * upstream for gradient in (by_hidden, by_weight))
        return (*scaled, None, None, None, None, None)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)
