"""Learning-rate schedules as factors of each group's own rate."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from qcvl.errors import ConfigError

Fall = Callable[[float], float]  # what is left, 1 to 0, at a progress of 0 to 1


def scheduled(optimizer: Optimizer, fall: Fall, *, total_steps: int, warmup_steps: int, min_lr: float) -> LambdaLR:
    """Rise linearly over ``warmup_steps`` to each group's rate, then go down to ``min_lr`` along ``fall``.

    Step ``s`` counts from 0; the first step already moves (``1 / warmup_steps`` of the rate), and the last one,
    ``total_steps - 1``, and later ones run at the end of the fall. With ``cosine`` the formula is that of
    ``transformers``' ``cosine_warmup_with_min_lr``.

    Raises:
        ConfigError: for groups whose rate is below ``min_lr``, which would rise where they should fall.
    """
    below = [group for group in optimizer.param_groups if group["lr"] < min_lr]
    if below:
        name = below[0].get("name", "the first group")
        raise ConfigError(
            f"lr_scheduler.min_lr={min_lr:g} is above the rate of {len(below)} of {len(optimizer.param_groups)} "
            f"parameter groups, first {name} with {below[0]['lr']:g}; lower it, or raise the stage's rates"
        )
    factors = [
        _factor(fall, total_steps, warmup_steps, min_lr / group["lr"] if group["lr"] > 0 else 1.0)
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)


def cosine(progress: float) -> float:
    """Half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line."""
    return 1 - progress


def constant(progress: float) -> float:
    """No fall at all."""
    return 1.0


def warmup_steps(total_steps: int, ratio: float) -> int:
    """``ratio`` of ``total_steps``, rounded up as ``transformers`` does."""
    return math.ceil(total_steps * ratio)


def _factor(fall: Fall, total: int, warmup: int, floor: float) -> Callable[[int], float]:
    """The factor at each step: up to 1 over ``warmup`` steps, then down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup + 1) / max(1, total - warmup))
        return floor + (1 - floor) * fall(progress)

    return factor
