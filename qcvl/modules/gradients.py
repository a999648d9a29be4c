"""How large a step's gradients are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qcvl.errors import QcvlError
from qcvl.models.towers import tower_of
from qcvl.modules.sharded import whole
from qcvl.modules.zero.sharded import gathering, is_dealt, norms_of_shares
from qcvl.tuning.adapters import base_name
from qcvl.tuning.groups import NUMBERED


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The norm of each tower's gradient over what is trained of it; 0 where nothing has one."""
    trained = [(tower_of(base_name(name)), value) for name, value in model.named_parameters() if value.requires_grad]
    if any(is_dealt(parameter) for _, parameter in trained):
        return norms_of_shares(trained)
    by_tower: dict[str, list[Tensor]] = {}
    for tower, parameter in trained:
        gradients = by_tower.setdefault(tower, [])
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    return {
        tower: float(whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))) if gradients else 0.0
        for tower, gradients in by_tower.items()
    }


def loss_and_norms(module: Any, batch: Mapping[str, Any]) -> dict[str, float]:
    """The loss of a batch and the norm of each tower's gradient by it, in a step of its own that leaves no gradient.

    Args:
        module: an SFTModule, or another whose ``losses`` it is.
        batch: as a training step gets it.
    """
    labels, cells = batch["step_labels"].float().to(module.device), batch["step_cells"].float().clamp(min=1)
    with gathering(module.built):
        loss = module.combine(module.losses(module.rows.share(batch)), labels, cells.to(module.device))
    norms = _norms_of(loss, module.built)
    return {"loss": float(loss.detach())} | {f"gradient norm of {tower}": norm for tower, norm in norms.items()}


def _norms_of(loss: Tensor, model: nn.Module) -> dict[str, float]:
    """Norms by tower; no gradient stays behind.

    Beside DeepSpeed, of this process's loss and of each tower up to its first trained block: its engine, which adds up
    what a backward pass leaves, is told of nothing, and all gradients together need not fit where they are dealt. What
    reaches a first block has come through all others.
    """
    trained = [(base_name(name), parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not any(is_dealt(parameter) for _, parameter in trained):
        loss.backward()  # type: ignore[no-untyped-call]
        norms = gradient_norms(model)
        model.zero_grad(set_to_none=True)
        return norms
    first = _up_to_first_blocks(trained)
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in first], allow_unused=True)
    squares = dict.fromkeys([tower_of(name) for name, _ in first], 0.0)
    for (name, _), gradient in zip(first, gradients, strict=True):
        squares[tower_of(name)] += 0.0 if gradient is None else float(gradient.float().square().sum())
    return {tower: square**0.5 for tower, square in squares.items()}


def _up_to_first_blocks(named: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Without the parameters of a tower's blocks, but for the first of them."""
    numbers = {name: int(match[2]) for name, _ in named if (match := NUMBERED.search(name))}
    first = {
        tower: min(number for name, number in numbers.items() if tower_of(name) == tower)
        for tower in set(map(tower_of, numbers))
    }
    return [
        (name, parameter) for name, parameter in named if name not in numbers or numbers[name] == first[tower_of(name)]
    ]


def require_gradients(norms: dict[str, float], stage: int, *, images: bool) -> None:
    """Raise QcvlError where a trained tower gets no gradient; without images those but the llm's have none to get."""
    dead = [tower for tower, norm in norms.items() if norm == 0 and (tower == "llm" or images)]
    if dead:
        raise QcvlError(
            f"no gradient reaches {', '.join(dead)} at step 1 though stage={stage} trains it; check stage.towers, "
            "tuner.target_modules and that the batch has images"
        )
