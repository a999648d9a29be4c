"""What a strategy does to a model's weights, as far as a teacher and the drawing of answers must know."""

from contextlib import AbstractContextManager, nullcontext

import lightning.pytorch as pl
import torch

from qcvl.modules.fsdp import FSDP
from qcvl.modules.zero.strategy import ZeroStrategy


def rounding(trainer: pl.Trainer | None) -> torch.dtype | None:
    """What the strategy rounds the whole model to, as DeepSpeed does in half precision; None: nothing is rounded."""
    strategy = None if trainer is None else trainer.strategy
    return strategy.rounding if isinstance(strategy, ZeroStrategy) else None


def takes_weights(trainer: pl.Trainer | None) -> bool:
    """Whether a parameter is empty between its uses by the model, as ZeRO-3 leaves it: no other may share it."""
    strategy = None if trainer is None else trainer.strategy
    return isinstance(strategy, ZeroStrategy) and strategy.zero_stage_3


def run_alone(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Within the block, in the midst of a step, each rank may run the model as often as it likes; not under ZeRO-3."""
    return trainer.strategy.whole_blocks() if isinstance(trainer.strategy, FSDP) else nullcontext()
