"""The generalized Jensen-Shannon divergence of two heads at label positions, without the whole logits."""

import math
from collections.abc import Callable, Sequence
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


class Distribution(NamedTuple):
    """Over the tokens of a vocabulary at ``N`` positions: logarithms of probabilities ``[N, V]``, and these."""

    logarithms: Tensor
    probabilities: Tensor


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
        return token_divergence(_of_logarithms(log_probabilities), _of_logarithms(said), beta)

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
    rest = outcomes[:, -1:].clone()
    said = _of_logarithms(teacher.log_probabilities.clone())
    losses, gradients = token_divergence(_of_logarithms(outcomes), said, beta)
    # The rest's log-probability is a logsumexp: its gradient falls to its tokens by their shares in its mass.
    by_logits = (student - rest).exp() * gradients[:, -1:]
    return losses, by_logits.scatter(-1, teacher.ids, gradients[:, :-1])


def distribution(logits: Tensor, out: Tensor | None = None) -> Distribution:
    """What float32 ``logits [N, V]`` say: its logarithms are in their place, its probabilities in ``out``."""
    values = logits.sub_(logits.amax(-1, keepdim=True))
    probabilities = torch.exp(values, out=out)
    total = probabilities.sum(-1, keepdim=True)
    return Distribution(values.sub_(total.log()), probabilities.div_(total))


def _of_logarithms(logarithms: Tensor) -> Distribution:
    return Distribution(logarithms, logarithms.exp())


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Sums ``[N]`` of products ``[N, V]``; autocast, which takes this for a matrix product, would round them."""
    with torch.autocast(one.device.type, enabled=False):
        return torch.linalg.vecdot(one, other)


def token_divergence(
    student: Distribution,
    teacher: Distribution,
    beta: float,
    *,
    base: Tensor | float = 0.0,
    mixed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Divergences ``[N]``, and their gradients ``[N, V]`` by the student's logits in the place of its logarithms.

    All tensors are overwritten; ``mixed`` is where the mixture goes. ``base`` times the student's probabilities is
    added to the gradients, as a cross-entropy has them.
    """
    own, theirs = student.probabilities, teacher.probabilities
    if beta == 0:
        losses = _dot(theirs, teacher.logarithms.sub_(student.logarithms))
        return losses, torch.mul(own, 1 + base, out=student.logarithms).sub_(theirs)
    if beta == 1:
        losses, mixture = torch.zeros_like(own[:, 0]), teacher.logarithms
    else:
        # Where both are nearly impossible, so is the mixture, and counts for nothing whatever its logarithm is.
        mixture = torch.lerp(own, theirs, beta, out=mixed).clamp_(min=torch.finfo(own.dtype).tiny).log_()
        losses = beta * _dot(theirs, teacher.logarithms.sub_(mixture))
    # The gradient of both terms by a student's probability is the log ratio, and a constant that the softmax removes.
    weight = 1.0 if beta == 1 else 1 - beta
    ratio = student.logarithms.sub_(mixture)
    reverse = _dot(own, ratio)
    return losses + weight * reverse, ratio.mul_(weight).add_(base - weight * reverse[:, None]).mul_(own)


class HeadGradients:
    """Gradients by a head's hidden states ``[N, H]`` and weight ``[V, H]``, those that are needed, chunk by chunk."""

    def __init__(self, hidden: Tensor, weight: Tensor, needed: Sequence[bool]) -> None:
        self.weight = weight
        self.by_hidden = torch.empty_like(hidden) if needed[0] else None
        self.by_weight = torch.zeros_like(weight) if needed[1] else None

    def add(self, part: slice, hidden: Tensor, by_logits: Tensor) -> None:
        """Take in the gradients by the logits of the positions ``part``."""
        if self.by_hidden is not None:
            self.by_hidden[part] = by_logits @ self.weight.to(by_logits.dtype)
        if self.by_weight is None:
            return
        if self.by_weight.dtype == hidden.dtype == by_logits.dtype:
            self.by_weight.addmm_(by_logits.T, hidden)  # in its place, which is as large as the head
        else:
            self.by_weight += by_logits.T @ hidden.to(by_logits.dtype)


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
        gradients = HeadGradients(hidden, weight, ctx.needs_input_grad)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = F.linear(hidden[part], weight)
            student = _log_probabilities(logits, temperature)
            losses, by_logits = compare(part, student)
            total += losses.sum()
            gradients.add(part, hidden[part], by_logits.div_(temperature).to(logits.dtype))
        ctx.save_for_backward(gradients.by_hidden, gradients.by_weight)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        by_hidden, by_weight = ctx.saved_tensors
        scaled = (None if gradient is None else gradient * upstream for gradient in (by_hidden, by_weight))
        return (*scaled, None, None, None)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)
