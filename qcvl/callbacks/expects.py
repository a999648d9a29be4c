"""What the callbacks ask of a LightningModule; modules fulfil it without being imported here."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class SavesItself(Protocol):
    """Writes what was trained, the processing files and ``qcvl.json`` into a folder."""

    def save(self, folder: Path) -> None:
        """Write into an existing folder."""
        ...


@runtime_checkable
class HoldsModel(Protocol):
    """Has the vision-language model as ``model`` once ``configure_model`` ran."""

    model: nn.Module | None
