"""What the callbacks ask of a LightningModule; modules fulfil it without being imported here."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class SavesItself(Protocol):
    """Writes what was trained, the processing files and ``qcvl.json`` into a folder."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As any module."""
        ...

    def saved_tensors(self) -> dict[str, Tensor]:
        """The weights that ``save`` writes, on the first rank; all ranks call this."""
        ...

    def saved_bytes(self) -> int:
        """Their size, asked for by any rank."""
        ...

    def save(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write into an existing folder, with ``tensors`` (a copy of ``saved_tensors()``) as the weights."""
        ...


@runtime_checkable
class HoldsModel(Protocol):
    """Has the vision-language model as ``model`` once ``configure_model`` ran."""

    model: nn.Module | None

    def whole_weights(self) -> AbstractContextManager[None]:
        """A block in which each rank may run the model alone."""
        ...
