"""Adapters folded into their base: a plain model that computes the same."""

from pathlib import Path

import peft
import torch
from torch import nn

from qcvl.checkpoints.adapters import adapter_modules, is_adapter
from qcvl.errors import CheckpointError


def merge(base_model: nn.Module, adapter_folder: Path) -> nn.Module:
    """The base model with the adapter's changes in its weights and the trained copies in place of its modules.

    ``base_model`` is changed and returned without adapters, each parameter in the dtype it had.

    Raises:
        CheckpointError: when the folder holds no adapter, or one whose modules ``base_model`` does not have.
    """
    if not is_adapter(adapter_folder):
        raise CheckpointError(
            f"{adapter_folder}: holds a whole model, so there is nothing to merge; use it as model.path"
        )
    modules = adapter_modules(adapter_folder)
    present = {name for name, _ in base_model.named_modules()}
    if missing := sorted((modules.targets | modules.saved) - present):
        raise CheckpointError(
            f"{adapter_folder}: adapts {missing[0]} ({len(missing)} such), which {type(base_model).__name__} does not "
            "have; merge into the model named in its qcvl.json"
        )
    dtypes = {name: parameter.dtype for name, parameter in base_model.named_parameters()}
    try:
        merged = peft.PeftModel.from_pretrained(base_model, adapter_folder).merge_and_unload(safe_merge=True)
    except RuntimeError as error:
        raise CheckpointError(f"{adapter_folder}: does not fit {type(base_model).__name__}: {error}") from error
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])
    return merged


@torch.no_grad()
def interpolate(trained: nn.Module, base: nn.Module, share: float) -> None:
    """Move the weights of ``trained`` towards those of ``base``: ``base + share * (trained - base)``.

    A model between the two keeps more of what the base could (Wortsman et al., 2022, robust fine-tuning).

    Raises:
        CheckpointError: where the two have other parameters.
    """
    ends = dict(base.named_parameters())
    for name, parameter in trained.named_parameters():
        if name not in ends or ends[name].shape != parameter.shape:
            found = "none" if name not in ends else str(list(ends[name].shape))
            raise CheckpointError(
                f"{name}: {list(parameter.shape)} in the checkpoint, {found} in its base, which share= starts from; "
                "use share=1"
            )
        way = torch.lerp(ends[name].float(), parameter.float(), share)
        parameter.copy_(way)
