"""A fingerprint of a base model: equal for the same weights however they are split into files. No torch for folders."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from qcvl.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
# Fields that change when a model is saved again without changing what it computes.
VOLATILE = ("_name_or_path", "transformers_version")
# Bytes read from the start, middle and end of each tensor: two trainings never agree there, and 4B parameters take
# a fraction of a second instead of half a minute.
SAMPLE_BYTES = 1024
HEADER_LENGTH_BYTES = 8  # the safetensors format: u64 little-endian, then a JSON header, then the tensors' bytes

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int8": "I8"}


def fingerprint(model: str | Path | Mapping[str, "Tensor"]) -> str:
    """SHA-256 (hex) over a model's config and, of each tensor by name, its dtype, shape and samples of its bytes.

    ``model`` is a folder with ``config.json`` and safetensors files, or a state dict (which has no config, so compare
    folders with folders and states with states).

    Raises:
        CheckpointError: when the folder lacks a config or safetensors weights, or a file is damaged.
    """
    digest = hashlib.sha256()
    if isinstance(model, str | Path):
        digest.update(_config(Path(model)).encode())
        tensors = _tensors_in(Path(model))
    else:
        tensors = _tensors_of(model)
    for name, dtype, shape, samples in sorted(tensors):
        digest.update(json.dumps([name, dtype, shape]).encode() + samples)
    return digest.hexdigest()


def _config(folder: Path) -> str:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected a model folder in the Hugging Face layout")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not JSON ({error}); copy the model folder again") from None
    return json.dumps({key: value for key, value in config.items() if key not in VOLATILE}, sort_keys=True)


def _tensors_in(folder: Path) -> Iterator[tuple[str, str, list[int], bytes]]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise CheckpointError(f"{folder}: has no *.safetensors; pickled weights are not read, convert the model first")
    for path in paths:
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
            header = _header(stream, header_bytes, path)
            for name, entry in header.items():
                start, end = (HEADER_LENGTH_BYTES + header_bytes + offset for offset in entry["data_offsets"])
                yield name, entry["dtype"], entry["shape"], b"".join(_read(stream, spot) for spot in _spots(start, end))


def _header(stream: BinaryIO, length: int, path: Path) -> dict[str, Any]:
    try:
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = json.loads(stream.read(length))
        return {name: entry for name, entry in header.items() if name != "__metadata__"}
    except ValueError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); copy the model folder again") from None


def _tensors_of(state: Mapping[str, "Tensor"]) -> Iterator[tuple[str, str, list[int], bytes]]:
    import torch

    for name, tensor in state.items():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        dtype = str(tensor.dtype).removeprefix("torch.")
        samples = b"".join(data[start:end].numpy().tobytes() for start, end in _spots(0, len(data)))
        yield name, DTYPES.get(dtype, dtype), list(tensor.shape), samples


def _spots(start: int, end: int) -> list[tuple[int, int]]:
    """Byte ranges at the start, middle and end of ``start..end``; all of it when short."""
    if end - start <= 3 * SAMPLE_BYTES:
        return [(start, end)]
    middle = (start + end) // 2
    return [(start, start + SAMPLE_BYTES), (middle, middle + SAMPLE_BYTES), (end - SAMPLE_BYTES, end)]


def _read(stream: BinaryIO, spot: tuple[int, int]) -> bytes:
    stream.seek(spot[0])
    return stream.read(spot[1] - spot[0])
