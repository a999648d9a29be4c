"""Where a checkpoint lies: a local folder, a hub id, or a folder inside the package; and whether it is usable."""

import json
import re
from pathlib import Path
from typing import Any

from qcvl.errors import CheckpointError

EMBEDDED = "embedded:"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # owner/name, nothing else
WITHOUT_WEIGHTS = ["*.json", "*.jinja", "*.txt"]
WITH_WEIGHTS = [*WITHOUT_WEIGHTS, "*.safetensors"]


def find_folder(path: str, *, weights: bool) -> Path:
    """The existing local folder that ``path`` names.

    Args:
        path: ``embedded:NAME`` (a folder of the package), a local folder, or a hub id ``owner/name``. A path that
            exists, or that does not look like a hub id, is never looked up in the hub.
        weights: for a hub id, whether the weights are fetched too.

    Raises:
        CheckpointError: when there is no such folder, saying what was looked for.
    """
    if path.startswith(EMBEDDED):
        folder = Path(__file__).parent / path.removeprefix(EMBEDDED)
        if folder.parent != Path(__file__).parent or not folder.is_dir():
            raise CheckpointError(f"{path}: the package has no embedded model of that name; `{EMBEDDED}tiny` exists")
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_file():
        raise CheckpointError(f"{path} is a file; a model path names the folder that holds config.json and weights")
    if HUB_ID.fullmatch(path):
        return _download(path, WITH_WEIGHTS if weights else WITHOUT_WEIGHTS)
    around = folder.parent
    beside = sorted(child.name for child in around.iterdir())[:8] if around.is_dir() else None
    found = (
        f"{around} holds {', '.join(beside) or 'nothing'}" if beside is not None else f"{around} does not exist either"
    )
    raise CheckpointError(f"{path}: no such model folder ({found}); set model.path to a folder with config.json")


def _download(hub_id: str, patterns: list[str]) -> Path:
    """The hub cache's snapshot of ``hub_id``, fetched when the network allows it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{hub_id} is no folder here, and the Hugging Face hub did not give it ({type(error).__name__}); download "
            "it where there is a network and set model.path to that folder"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a CheckpointError names the file when it does not hold one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a base model's folder; an adapter or an unrelated folder is a CheckpointError."""
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json) over {base}, not a base model; set model.path to the "
            "base and start from the adapter with stage.init_from, or merge it first with `python -m qcvl.export`"
        )
    if not (folder / "config.json").is_file():
        names = ", ".join(sorted(child.name for child in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder} has no config.json (it holds {names}); set model.path to a model's own folder")
    return read_json(folder / "config.json")


def check_weights(folder: Path) -> None:
    """Pass when every safetensors file the folder promises is there.

    Raises:
        CheckpointError: naming the missing shards, or when there are only pickled weights or none.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(shards)} weight files are missing ({', '.join(missing[:3])}, …); "
                "finish the download or copy them"
            )
    elif not (folder / "model.safetensors").is_file():
        pickled = sorted(child.name for child in folder.glob("*.bin")) + sorted(
            child.name for child in folder.glob("*.pt")
        )
        found = f"only pickled weights ({pickled[0]}), which are never loaded" if pickled else "no weights"
        raise CheckpointError(f"{folder} has {found}; expected model.safetensors or model-*.safetensors with its index")
