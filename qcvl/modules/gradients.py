"""How large a step's gradients are."""

import torch
from torch import Tensor, nn

from qcvl.errors import QcvlError
from qcvl.models.towers import tower_of
from qcvl.modules.sharded import whole
from qcvl.modules.zero.sharded import is_dealt, norms_of_shares
from qcvl.tuning.adapters import base_name


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


def require_gradients(norms: dict[str, float], stage: int, *, images: bool) -> None:
    """Raise QcvlError where a trained tower gets no gradient; without images those but the llm's have none to get."""
    dead = [tower for tower, norm in norms.items() if norm == 0 and (tower == "llm" or images)]
    if dead:
        raise QcvlError(
            f"no gradient reaches {', '.join(dead)} at step 1 though stage={stage} trains it; check stage.towers, "
            "tuner.target_modules and that the batch has images"
        )
