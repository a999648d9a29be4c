"""Copies of a training state, to be written while training goes on."""

from typing import Any

import torch
from torch import Tensor

Place = tuple[Any, ...]


def host_copy(state: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied into host memory; equal views stay one tensor."""
    copies: dict[Place, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            place = _place(value)
            if place not in copies:
                copies[place] = value.detach().to("cpu", copy=True)
            return copies[place]
        if isinstance(value, dict):
            return type(value)((key, copy(item)) for key, item in value.items())
        if type(value) in (list, tuple):
            return type(value)(copy(item) for item in value)
        return value

    return copy(state)


def with_own_containers(state: Any) -> Any:
    """The state with its dicts, lists and tuples copied, so that later counting leaves it alone; tensors are shared."""
    if isinstance(state, dict):
        return type(state)((key, with_own_containers(value)) for key, value in state.items())
    return type(state)(map(with_own_containers, state)) if type(state) in (list, tuple) else state


def size_bytes(state: Any) -> int:
    """Bytes of all tensors in a nested state, each as often as it would be written."""
    if isinstance(state, Tensor):
        return getattr(state, "ds_numel", state.numel()) * state.element_size()  # the former: ZeRO-3 holds a share
    if isinstance(state, dict):
        return sum(map(size_bytes, state.values()))
    return sum(map(size_bytes, state)) if isinstance(state, list | tuple) else 0


def _place(tensor: Tensor) -> Place:
    """What two tensors share when they are one: memory and the way it is read."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return (id(tensor),)
    storage = tensor.untyped_storage().data_ptr()
    return (storage or id(tensor), tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
