"""Arrays that take long to make, kept on disk under a key of all they depend on: made once, then memory-mapped.

They lie in ``$QCVL_CACHE`` (by default ``$XDG_CACHE_HOME/qcvl`` or ``~/.cache/qcvl``) and may be deleted at any time;
one that nobody has used for ``KEEP_DAYS`` goes when another is written.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from qcvl.log import get_logger

log = get_logger(__name__)
KEEP_DAYS = 60


def cache_folder() -> Path:
    """Where arrays are kept."""
    if own := os.environ.get("QCVL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "qcvl"


def stored_array(kind: str, facts: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """What ``make()`` gives, read-only: from disk where it was made before for equal ``facts``.

    Several processes that ask at once wait for the first one to make it. Where the folder cannot be written, the array
    stays in memory and a warning says so.

    Args:
        kind: the folder it is kept in.
        facts: JSON values; all that the array depends on, the version of the code that makes it included.
        make: gives an array of plain numbers; its errors pass through and nothing is kept.
    """
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    file = cache_folder() / kind / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"
    kept = _mapped(file)
    if kept is not None:
        return kept
    if not _writable(file.parent):
        return _sealed(make())
    with FileLock(file.with_suffix(".lock")):
        kept = _mapped(file)  # another process may have made it while this one waited
        if kept is not None:
            return kept
        array = make()
        try:
            _write(file, array)
        except OSError as error:
            log.warning("%s cannot be kept (%s); it will be made again", file, error.strerror)
        return _sealed(array)


def _writable(folder: Path) -> bool:
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        return True
    log.warning("%s cannot be written: what it would keep is made again in each run; set QCVL_CACHE", folder)
    return False


def _mapped(file: Path) -> np.ndarray | None:
    """The kept array, or None where there is none or it is damaged."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    with suppress(OSError):  # a folder that is only read from
        os.utime(file)
    return array


def _write(file: Path, array: np.ndarray) -> None:
    """Put the whole array in place at once, and drop what nobody has used for long."""
    handle, draft = tempfile.mkstemp(suffix=".partial", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            np.save(out, array, allow_pickle=False)
        os.replace(draft, file)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    oldest = time.time() - KEEP_DAYS * 24 * 3600
    for entry in file.parent.iterdir():
        with suppress(OSError):
            if entry.stat().st_mtime < oldest:
                entry.unlink()


def _sealed(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
