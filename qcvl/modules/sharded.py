"""Tensors of which each rank holds a part: whole on the first rank, and back into parts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DeviceMesh, DTensor, distribute_tensor

from qcvl.models.forward import blocks


def gathered(state: Any) -> Any:
    """Nested dicts and lists with every sharded tensor whole, as a copy in the first rank's host memory.

    All ranks call this. On the others a dict lacks its sharded tensors. Tensors that are one (tied embeddings) stay
    one; those that are not sharded stay as they are.
    """
    copies: dict[tuple[Any, ...], Tensor | None] = {}

    def gather(value: Any) -> Any:
        if isinstance(value, DTensor):
            local = value.to_local()
            # By the storage's own address: that of its data is the same, 0, for all of which a rank has no number.
            place = (local.untyped_storage()._cdata, local.storage_offset(), value.shape)
            if place not in copies:
                whole = value.detach().full_tensor()
                copies[place] = whole.to("cpu", copy=True) if dist.get_rank() == 0 else None
            return copies[place]
        if isinstance(value, dict):
            pairs = ((key, item, gather(item)) for key, item in value.items())
            return type(value)(
                (key, whole) for key, item, whole in pairs if not (whole is None and isinstance(item, DTensor))
            )
        return type(value)(map(gather, value)) if type(value) in (list, tuple) else value

    return gather(state)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor as a plain one, on every rank; a plain one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, as ``like`` is sharded; whole where ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.to_local().device), like.device_mesh, like.placements, src_data_rank=None)


def load_whole(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into the parameters of these names, sharded or not."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(placed(tensor, parameters[name]))


def shard(
    module: nn.Module,
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    reshard_after_forward: bool,
    precision: MixedPrecisionPolicy,
    offload: OffloadPolicy,
) -> None:
    """Shard every block of both towers by itself and what is left of ``module`` together; over all ranks of ``mesh``.

    What is left, gathered for the whole of a step, are embeddings, head, norms, patch embedding and mergers.
    """
    how = {"mesh": mesh, "mp_policy": precision, "offload_policy": offload}
    for block in blocks(model):
        fully_shard(block, reshard_after_forward=reshard_after_forward, **how)
    fully_shard(module, **how)


@contextmanager
def training_goes_on() -> Iterator[None]:
    """For weights gathered in a validation's inference mode: their memory is that of training afterwards."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def gather_weights(module: FSDPModule) -> None:
    """Gather all weights until ``release_weights``: ranks may then run the model as often as each likes."""
    module._get_fsdp_state()._lazy_init()  # else the first block that runs would think it is the root
    module.set_reshard_after_forward(False)
    with training_goes_on():
        for part in _parts(module):
            _unshard(part)


def release_weights(module: FSDPModule, reshard_after_forward: bool) -> None:
    """Keep this rank's parts alone."""
    for part in _parts(module):
        part.reshard()
        part.set_reshard_after_forward(reshard_after_forward and part is not module, recurse=False)


@contextmanager
def whole_blocks(module: Any) -> Iterator[None]:
    """Within the block, in the midst of a forward of ``module``, ranks may run its blocks as often as each likes.

    What is in no block is gathered by then, and stays so. A module that is not sharded is left as it is.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    reshard_after_forward = module.trainer.strategy.reshard_after_forward
    blocks = [part for part in _parts(module) if part is not module]
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
        _unshard(block)
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(reshard_after_forward, recurse=False)
            if reshard_after_forward:
                block.reshard()


def _unshard(part: FSDPModule) -> None:
    """Gather weights; the public method also asks anew which of them train, and of a teacher's none seem to."""
    for group in part._get_fsdp_state()._fsdp_param_groups:
        group.unshard()
        group.wait_for_unshard()


def _parts(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))
