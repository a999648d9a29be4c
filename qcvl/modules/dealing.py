"""What a strategy does to a module's weights, as far as a teacher and the drawing of answers must know."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.distributed.fsdp import FSDPModule

from qcvl.modules.base import VLModule
from qcvl.modules.sharded import whole_blocks
from qcvl.modules.zero.strategy import ZeroStrategy


def rounding(module: VLModule) -> torch.dtype | None:
    """What DeepSpeed has rounded the whole model to, as it does in half precision; None: nothing is rounded.

    Tuners keep what is trained in float32.
    """
    if _deepspeed(module) is None:
        return None
    dtype = next(parameter.dtype for parameter in module.built.parameters() if parameter.requires_grad)
    return None if dtype == torch.float32 else dtype


def takes_weights(module: VLModule) -> bool:
    """Whether a parameter is empty between its uses by the model, as ZeRO-3 leaves it: no other model may share it."""
    strategy = _deepspeed(module)
    return strategy is not None and strategy.zero_stage_3


def run_alone(module: VLModule) -> AbstractContextManager[None]:
    """Within the block, in the midst of a step, each rank may run the model as often as it likes; not under ZeRO-3."""
    if not isinstance(module, FSDPModule):
        return nullcontext()
    return whole_blocks(module, module.trainer.strategy.reshard_after_forward)


def _deepspeed(module: VLModule) -> ZeroStrategy | None:
    strategy = None if module._trainer is None else module.trainer.strategy
    return strategy if isinstance(strategy, ZeroStrategy) else None
