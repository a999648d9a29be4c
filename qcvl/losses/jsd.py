"""The generalized Jensen-Shannon divergence of two heads at label positions, without the whole logits."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Head(NamedTuple):
    """What a model says at ``N`` positions: hidden states ``[N, H]`` and the head's weight ``[V, H]``."""

    hidden: Tensor
    weight: Tensor


class Top(NamedTuple):
    """The ``k`` most likely tokens at ``N`` positions, and all others as one outcome.

    ``ids`` are int64 ``[N, k]``, ``log_probabilities`` float32 ``[N, k + 1]``, of which the last is that of the others.
    """

    log_probabilities: Tensor
    ids: Tensor


Compare = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


def divergence(student: Head, teacher: Head | Top, *, beta: float, temperature: float, chunk: int) -> Tensor:
    """Sum over ``N`` positions of the divergence of the student's and the teacher's next token, a float32 scalar.

    With ``M = (1 - beta) * student + beta * teacher`` it is ``beta * KL(teacher || M) + (1 - beta) * KL(student || M)``
    (https://arxiv.org/abs/2306.13649). 0 and 1 are not its limits, which are 0, but ``KL(teacher || student)`` and
    ``KL(student || teacher)``. Logits are divided by ``temperature``; the loss is not multiplied by its square.

    The student alone gets gradients. Both heads work on ``chunk`` positions at a time, whose gradients are taken at
    once, so that at most ``[chunk, V]`` float32 logits of each exist, for as long as the chunk takes. A smaller chunk
    needs less memory at the same arithmetic, for which the vocabulary needs no division of its own.

    Of a teacher's ``Top`` it is the same divergence of two distributions over ``k + 1`` outcomes: each of its ``k``
    tokens, and the rest of the vocabulary, whose mass is summed on both sides. It is never above the whole divergence
    (outcomes that are put together tell less), grows with ``k``, and is the whole one at ``k = V - 1``, where the rest
    is one token. ``temperature`` is then the student's alone; ``Top`` has been taken at one.

    Example:
        >>> same = Head(torch.ones(3, 2), torch.eye(2))
        >>> divergence(same, same, beta=0.5, temperature=1.0, chunk=2)
        tensor(0.)
    """

    def compare(part: slice, log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(teacher, Top):
            return _top_divergence(log_probabilities, Top(*(tensor[part] for tensor in teacher)), beta)
        said = _log_probabilities(F.linear(teacher.hidden[part], teacher.weight), temperature)
        return token_divergence(log_probabilities, said, beta)

    return _Divergence.apply(*student, compare, temperature, chunk)


@torch.no_grad()
def most_likely(head: Head, k: int, *, temperature: float, chunk: int) -> Top:
    """What a head says of its ``k`` (at most ``V - 1``) most likely tokens, ``chunk`` positions at a time."""
    k = min(k, len(head.weight) - 1)
    parts = []
    for hidden in head.hidden.split(chunk):
        log_probabilities = _log_probabilities(F.linear(hidden, head.weight), temperature)
        ids = log_probabilities.topk(k).indices
        parts.append(Top(_outcomes(log_probabilities, ids), ids))
    return Top(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _outcomes(log_probabilities: Tensor, ids: Tensor) -> Tensor:
    """Of ``[N, V]``, those of ``ids [N, k]`` and that of all others together: ``[N, k + 1]``."""
    rest = log_probabilities.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([log_probabilities.gather(-1, ids), rest], dim=-1)


def _top_divergence(student: Tensor, teacher: Top, beta: float) -> tuple[Tensor, Tensor]:
    """As ``token_divergence``, over the outcomes of ``teacher``: divergences ``[N]`` and gradients ``[N, V]``."""
    outcomes = _outcomes(student, teacher.ids)
    losses, gradients = token_divergence(outcomes, teacher.log_probabilities, beta)
    # The rest's log-probability is a logsumexp: its gradient falls to its tokens by their shares in its mass.
    by_logits = (student - outcomes[:, -1:]).exp() * gradients[:, -1:]
    return losses, by_logits.scatter(-1, teacher.ids, gradients[:, :-1])


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
        compare: Compare,
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
            losses, gradients = compare(part, student)
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
        return (*scaled, None, None, None)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)
