"""``torch.optim.Muon`` over stacks of equal-shaped matrices: many small products become few."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Coefficients = tuple[float, float, float]


class StackedMuon(torch.optim.Muon):
    """The steps of ``torch.optim.Muon``, all matrices of one shape orthogonalized together, up to bfloat16's rounding.

    A model of some hidden layers repeats a handful of shapes. On a CPU a stack of six 128 x 320 matrices takes half the
    time of six single products, and a small model spends a quarter of its step here.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure`` (which recomputes the loss) returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._step_stack(parameters, group)
        return loss

    def _step_stack(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step parameters of one shape."""
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        stack = orthogonalize(torch.stack(tuple(updates)), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = math.sqrt(max(1, rows / columns))  # torch.optim.Muon's "original" adjustment, its default
        torch._foreach_add_(parameters, list(stack.to(parameters[0].dtype)), alpha=-group["lr"] * scale)


def orthogonalize(stack: Tensor, coefficients: Coefficients, steps: int, eps: float) -> Tensor:
    """Bfloat16 ``[N, rows, columns]``: each matrix of ``stack`` with singular values near 1, by Newton-Schulz.

    The iteration of https://kellerjordan.github.io/posts/muon/, as ``torch.optim.Muon`` runs it on one matrix.
    """
    a, b, c = coefficients
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT.contiguous() if tall else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
