"""How large a step's gradients are."""

import torch
from torch import Tensor, nn

from qcvl.models.towers import tower_of
from qcvl.modules.sharded import whole
from qcvl.tuning.adapters import base_name


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The norm of each tower's gradient over what is trained of it; 0 where nothing has one."""
    by_tower: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradients = by_tower.setdefault(tower_of(base_name(name)), [])
            if parameter.grad is not None:
                gradients.append(parameter.grad)
    return {
        tower: float(whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))) if gradients else 0.0
        for tower, gradients in by_tower.items()
    }
