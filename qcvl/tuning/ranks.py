"""AdaLoRA's course over a run: ranks shrink from step to step where singular values matter least."""

import math
from typing import TYPE_CHECKING, Any

import torch

from qcvl.errors import ConfigError
from qcvl.tuning.adapters import ADAPTER_NAME

if TYPE_CHECKING:
    from qcvl.tuning.settings import RankSchedule

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # peft's names of what it remembers of each tensor


class RankCourse:
    """Steps the rank allocator of a peft model, and keeps what it needs to go on after a resume.

    Raises:
        ConfigError: when the run is too short for a phase in which ranks can fall.
    """

    def __init__(self, model: Any, schedule: "RankSchedule", total_steps: int) -> None:
        first = math.ceil(total_steps * schedule["warmup_ratio"])
        last = math.floor(total_steps * schedule["final_ratio"])
        if first >= total_steps - last:
            raise ConfigError(
                f"tuner.rank_schedule: of {total_steps} steps {first} keep the initial rank and {last} the final one, "
                "which leaves none to shrink in; lower warmup_ratio or final_ratio, or train longer"
            )
        self.adalora, self.config = model.base_model, model.peft_config[ADAPTER_NAME]
        self.config.tinit, self.config.tfinal, self.config.total_step = first, last, total_steps
        self.config.deltaT = schedule["every_steps"]
        self.orthogonality = schedule["orthogonality"]

    def add_penalty(self) -> None:
        """Add the gradient of the orthogonality penalty, once an optimizer step and before clipping.

        The penalty is the paper's: the mean over A and B of the Frobenius norm of their Gram matrix less the identity.
        """
        if not self.orthogonality:
            return
        tensors = [
            (parameter, ".lora_A." in name)
            for name, parameter in self.adalora.named_parameters()
            if parameter.requires_grad and (".lora_A." in name or ".lora_B." in name)
        ]
        with torch.enable_grad():
            bases = [tensor if is_a else tensor.mT for tensor, is_a in tensors]
            norms = [torch.linalg.matrix_norm(rows @ rows.mT - torch.eye(len(rows)).to(rows)) for rows in bases]
            penalty = self.orthogonality * torch.stack(norms).mean()
        # Not by backward(): ranks have their gradients averaged already, and all come to the same penalty.
        for (tensor, _), gradient in zip(tensors, torch.autograd.grad(penalty, [t for t, _ in tensors]), strict=True):
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient

    def after_step(self, step: int) -> None:
        """Update importances from the gradients of optimizer step ``step`` (from 1) and, when it is due, the ranks."""
        self.adalora.update_and_allocate(step)

    def state_dict(self) -> dict[str, Any]:
        """The importances, by tensor, and the ranks dealt so far."""
        allocator = self.adalora.rankallocator
        state: dict[str, Any] = {name: dict(getattr(allocator, name)) for name in AVERAGES}
        return state | {"rank_pattern": self.config.rank_pattern}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        device = next(self.adalora.parameters()).device
        for name in AVERAGES:
            moved = {key: value.to(device) for key, value in state[name].items()}
            setattr(self.adalora.rankallocator, name, moved)
        self.config.rank_pattern = state["rank_pattern"]
