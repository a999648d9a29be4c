"""Data made on first use: a folder that appears whole or not at all, also when several processes ask for it at once."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from qcvl.errors import DataError

MARKER = "done"


def prepare_folder(folder: Path, recipe: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """Let ``make(draft)`` fill ``folder`` unless its marker names this very ``recipe``; return ``folder``.

    Args:
        folder: is replaced as a whole when another recipe of the same data set made it.
        recipe: all that the files depend on, as JSON values; ``recipe["data"]`` names the data set.
        make: writes the files into the empty folder it is given.

    Raises:
        DataError: when ``folder`` holds something else.
    """
    if _read_marker(folder) == recipe:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if _read_marker(folder) != recipe:  # another process may have made it while this one waited
            _replace(folder, recipe, make)
    return folder


def _read_marker(folder: Path) -> dict[str, Any]:
    """The recipe in the marker of ``folder``; empty without a readable one."""
    try:
        recipe = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _replace(folder: Path, recipe: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    wanted, found = recipe["data"], _read_marker(folder).get("data")
    if folder.exists() and found != wanted and not (folder.is_dir() and not any(folder.iterdir())):
        holds = f"it holds {found}" if found else f"it has no `{MARKER}` marker"
        raise DataError(f"{folder} is no {wanted} ({holds}) and is left as it is; name a new or empty folder")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        draft = Path(work) / "draft"
        draft.mkdir()
        make(draft)
        (draft / MARKER).write_text(json.dumps(recipe), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(work) / "old")
        draft.rename(folder)
