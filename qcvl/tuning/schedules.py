"""Learning-rate schedules as factors of each group's own rate."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine_warmup_with_min_lr(optimizer: Optimizer, *, total_steps: int, warmup_steps: int, min_lr: float) -> LambdaLR:
    """Rise linearly over ``warmup_steps`` to each group's rate, then fall along half a cosine to ``min_lr``.

    Step ``s`` counts from 0; the first step already moves (``1 / warmup_steps`` of the rate) and the last one,
    ``total_steps - 1``, runs at ``min_lr`` or at the group's own rate where that is lower. Later steps stay there.
    The formula is that of ``transformers``' ``cosine_warmup_with_min_lr``.
    """
    factors = [
        _factor(total_steps, warmup_steps, min(min_lr, group["lr"]) / group["lr"] if group["lr"] > 0 else 1.0)
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)


def warmup_steps(total_steps: int, ratio: float) -> int:
    """``ratio`` of ``total_steps``, rounded up as ``transformers`` does."""
    return math.ceil(total_steps * ratio)


def _factor(total: int, warmup: int, floor: float) -> Callable[[int], float]:
    """The factor at each step: up to 1 over ``warmup`` steps, then down to ``floor``."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup + 1) / max(1, total - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))

    return factor
