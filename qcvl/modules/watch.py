"""Looks at every tensor that passes through a module's parts, and remembers where the first one was not finite."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

BEFORE = 4  # readings kept of what came before: they show values that grow
MASKS = ("attention_mask", "attn_mask")  # arguments that are infinite on purpose


@dataclass(frozen=True, slots=True)
class Reading:
    """One tensor: whose it is, what it is to it, the least and largest finite value, how many are NaN or infinite."""

    path: str
    kind: str
    least: float
    most: float
    nans: int
    infs: int

    @property
    def finite(self) -> bool:
        """Whether all its values are."""
        return not self.nans + self.infs

    @classmethod
    def of(cls, path: str, kind: str, tensor: Tensor) -> "Reading":
        """Read a floating point tensor of any shape; ``least`` and ``most`` are 0 where no value is finite."""
        values = tensor.detach()
        finite = values[torch.isfinite(values)].float()
        least, most = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        return cls(path, kind, least, most, int(torch.isnan(values).sum()), int(torch.isinf(values).sum()))


class Watch:
    """While entered, reads inputs and outputs of all of a module's parts, forward, and their gradients, backward.

    ``first`` is the first reading that is not finite; ``table`` holds what came just before it, the weights of the part
    it names, and itself. The gradients of all inputs of a part that has no parts of its own are those it made itself,
    however many others read the same tensor.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.first: Reading | None = None
        self.table: list[Reading] = []
        self._before: deque[Reading] = deque(maxlen=BEFORE)
        self._handles: list[Any] = []

    def __enter__(self) -> "Watch":
        for path, part in self.module.named_modules():
            if path:
                self._follow(path, part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def look(self, path: str, kind: str, tensor: Tensor, part: nn.Module | None = None) -> None:
        """Read one tensor, unless the first that is not finite is found already."""
        if self.first is not None or not tensor.is_floating_point():
            return
        reading = Reading.of(path, kind, tensor)
        if reading.finite:
            self._before.append(reading)
            return
        self.first = reading
        weights = [] if part is None else [(n, p) for n, p in part.named_parameters(recurse=False)]
        self.table = [*self._before, *(Reading.of(f"{path}.{n}", "weight", p) for n, p in weights), reading]

    def _follow(self, path: str, part: nn.Module) -> None:
        alone = next(part.children(), None) is None

        def enter(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            for tensor in tensors_in([args, {k: v for k, v in kwargs.items() if k not in MASKS}]):
                self.look(path, "input", tensor, part)
            return (self._own(path, part, args), self._own(path, part, kwargs)) if alone else None

        def leave(_: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            for tensor in tensors_in(output):
                self.look(path, "output", tensor, part)
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._gradient, path, "gradient of output", part))

        self._handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        self._handles.append(part.register_forward_hook(leave, with_kwargs=True))
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.requires_grad:
                hook = partial(self._gradient, f"{path}.{name}", "gradient of weight", None)
                self._handles.append(parameter.register_hook(hook))

    def _own(self, path: str, part: nn.Module, value: Any) -> Any:
        """The value with each tensor that has a gradient as an alias: its gradient is then this part's share alone."""
        if isinstance(value, Tensor) and value.requires_grad and value.is_floating_point():
            alias = value.view_as(value)
            alias.register_hook(partial(self._gradient, path, "gradient of input", part))
            return alias
        if type(value) is dict:
            return {name: self._own(path, part, item) for name, item in value.items()}
        return type(value)(self._own(path, part, item) for item in value) if type(value) in (list, tuple) else value

    def _gradient(self, path: str, kind: str, part: nn.Module | None, gradient: Tensor) -> None:
        self.look(path, kind, gradient, part)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The floating point tensors in nested mappings, lists and tuples."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)
