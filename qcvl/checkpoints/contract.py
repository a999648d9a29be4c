"""``qcvl.json``: what a reader of a checkpoint must know to process photos and answers as in training."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from qcvl.errors import CheckpointError
from qcvl.schema.settings import settings
from qcvl.schema.types import Pairing

CONTRACT_FILE = "qcvl.json"
VERSION = 1


@settings
class Base:
    """The model under the checkpoint: where it was, its Hugging Face ``model_type`` and its fingerprint.

    ``context_factor`` is how many times its trained context it was read with (see ``models.context``).
    """

    path: str
    model_type: str
    fingerprint: str
    context_factor: PositiveFloat


@settings
class Contract:
    """The processing contract of one checkpoint.

    ``min_pixels``/``max_pixels`` bound an image's area, sides are multiples of ``patch_factor``, ``resample`` is PIL's
    name of the filter. ``prompts`` maps a task to its ``{"system", "user"}`` texts, ``tuner`` a tower to how it moved,
    ``pairing`` is what was seen of a photo and its template (see ``data.pairs``).
    """

    version: Literal[1]
    stage: PositiveInt
    min_pixels: PositiveInt
    max_pixels: PositiveInt
    patch_factor: PositiveInt
    resample: str
    exif: bool
    emit_norm: str
    answer_format: dict[str, Any]
    prompts: dict[str, dict[str, str]]
    order: str
    pairing: Pairing | None
    base: Base
    tuner: dict[str, str]

    def to_json(self) -> str:
        """Indented JSON, the same for equal contracts."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str | Path = CONTRACT_FILE) -> "Contract":
        """Read the text of a ``qcvl.json``.

        Raises:
            CheckpointError: listing every missing, unknown or mistyped field, with ``path`` in front.
        """
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in error.errors()
            )
            raise CheckpointError(f"{path}: not a checkpoint contract of version {VERSION}: {problems}") from None


def read_contract(folder: Path) -> Contract:
    """The contract of a checkpoint folder.

    Raises:
        CheckpointError: when the folder has none or it cannot be read.
    """
    path = Path(folder) / CONTRACT_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected a checkpoint folder written by qcvl.train, such as …/last")
    return Contract.from_json(path.read_text(encoding="utf-8"), path=path)


def write_contract(contract: Contract, folder: Path) -> None:
    """Write ``qcvl.json`` into a checkpoint folder."""
    (Path(folder) / CONTRACT_FILE).write_text(contract.to_json(), encoding="utf-8")
