"""What a checkpoint folder is made of: the weights and Lightning's state of one moment."""

from typing import Any, NamedTuple

import lightning.pytorch as pl
from torch import Tensor

from qcvl.callbacks.expects import SavesItself
from qcvl.checkpoints.snapshot import size_bytes


class Moment(NamedTuple):
    """The weights and Lightning's state of one moment; on the first rank, where ranks hold parts of them."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def moment(trainer: pl.Trainer, state: dict[str, Any]) -> Moment:
    """The weights of now beside a state; all ranks call this: each gives its parts."""
    return Moment(saving_module(trainer.lightning_module).saved_tensors(), state)


def saving_module(module: pl.LightningModule) -> SavesItself:
    """The module as one that saves itself.

    Raises:
        TypeError: for a module that does not.
    """
    if not isinstance(module, SavesItself):
        raise TypeError(
            f"HFCheckpoint needs saved_tensors(), saved_bytes() and save(); {type(module).__name__} lacks one"
        )
    return module


def expected_bytes(module: SavesItself) -> int:
    """About how large a folder will be: the model's files, and what is trained with its two moments."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return module.saved_bytes() + 3 * size_bytes(trained)
