"""Checkpoint folders that are either complete or absent: written aside, listed, flushed, renamed, never changed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qcvl.errors import CheckpointError
from qcvl.log import get_logger

MANIFEST = "manifest.json"
PARTIAL = ".partial"
OLD = ".old"
STEP = "step-"
BLOCK_BYTES = 1 << 20
_MAKE_ROOM = "free space, keep fewer checkpoints or set hydra.run.dir to another disk"

log = get_logger(__name__)


def write_checkpoint(folder: Path, write: Callable[[Path], None], expected_bytes: int = 0) -> Path:
    """Make ``folder`` from what ``write`` puts into a path given to it; other processes see all of it or nothing.

    Raises:
        CheckpointError: when ``folder`` exists, the disk has less than ``expected_bytes`` free, or writing fails; what
            was written of it is then removed, and earlier checkpoints are untouched.
    """
    partial = begin(folder, expected_bytes)
    try:
        write(partial)
        return commit(partial)
    except Exception as error:
        reason = _failed_write(error)
        if reason is None:
            raise
        written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_no_room(folder, reason, written, expected_bytes)) from error


def begin(folder: Path, expected_bytes: int = 0) -> Path:
    """Create an empty ``<folder>.partial`` (what a killed run left there is removed) and return it."""
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder}: already exists and checkpoints are written once; remove it or save elsewhere")
    check_free_space(folder, expected_bytes)
    partial = folder.with_name(folder.name + PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path) -> Path:
    """Write the manifest of ``<folder>.partial``, flush everything to disk and rename it to ``<folder>``."""
    _share(partial)
    files = {str(path.relative_to(partial)): _entry(path) for path in sorted(partial.rglob("*")) if path.is_file()}
    (partial / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    for path in (*partial.rglob("*"), partial):
        _flush(path)
    folder = partial.with_name(partial.name.removesuffix(PARTIAL))
    partial.rename(folder)
    _flush(folder.parent)
    return folder


def verify(folder: Path) -> None:
    """Check every file of a checkpoint against its manifest, by size and SHA-256.

    Raises:
        CheckpointError: naming the first file that is missing or differs, or the missing or unreadable manifest.
    """
    folder = Path(folder)
    for name, entry in _manifest(folder).items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CheckpointError(f"{folder}/{MANIFEST}: {name} lies outside the folder; the manifest is forged")
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, though {MANIFEST} lists it; use another checkpoint")
        if (found := _entry(path, with_hash=path.stat().st_size == entry["size"])) != entry:
            raise CheckpointError(f"{path}: found {found}, expected {entry} by {MANIFEST}; use another checkpoint")


def link(path: Path, target: Path) -> None:
    """Make ``path`` a relative symlink to ``target`` in one step: readers see the old target or the new one.

    Raises:
        CheckpointError: when ``path`` is a real file or folder.
    """
    path = Path(path)
    if path.exists() and not path.is_symlink():
        raise CheckpointError(f"{path}: is not a link; move it away, this name is kept for links to step folders")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(Path(target).resolve(), path.parent.resolve()), target_is_directory=True)
    fresh.replace(path)


def remove(folder: Path) -> None:
    """Remove a checkpoint; a kill in between leaves it complete, or a ``.partial`` that the next start removes."""
    partial = folder.with_name(folder.name + PARTIAL)
    if partial.exists():
        shutil.rmtree(partial)
    folder.rename(partial)
    shutil.rmtree(partial)


def steps_in(checkpoints_dir: Path) -> dict[int, Path]:
    """The step folders of a run, by step; half-written ones and those set aside are none."""
    paths = {_step_of(path): path for path in Path(checkpoints_dir).glob(f"{STEP}*")}
    return {step: path for step, path in paths.items() if step is not None}


def set_aside_after(checkpoints_dir: Path, step: int) -> None:
    """Make room for the steps after ``step``: their folders become ``step-N.old``; what is half made is removed."""
    for path in Path(checkpoints_dir).glob(".*"):
        if path.is_symlink():  # a link that was to replace another one
            path.unlink()
    for path in sorted(Path(checkpoints_dir).glob(f"{STEP}*")):
        if path.name.endswith(PARTIAL):
            shutil.rmtree(path)
        elif (number := _step_of(path)) is not None and number > step:
            old = path.with_name(path.name + OLD)
            if old.exists():
                shutil.rmtree(old)
            path.rename(old)
            log.warning("%s is past step %d, where this run goes on; it is now %s", path, step, old.name)


def newest_complete(checkpoints_dir: Path) -> Path | None:
    """The ``step-N`` folder with the largest N that passes ``verify``; one that fails is skipped with a warning."""
    for _, folder in sorted(steps_in(checkpoints_dir).items(), reverse=True):
        try:
            verify(folder)
        except CheckpointError as error:
            log.warning("skipped %s: %s", folder.name, error)
            continue
        return folder
    return None


def check_free_space(path: Path, expected_bytes: int) -> None:
    """Compare ``expected_bytes`` with what is free on the disk that ``path`` (existing or not) lies on.

    Raises:
        CheckpointError: with both numbers in MB.
    """
    free = free_bytes(path)
    if free < expected_bytes:
        raise CheckpointError(
            f"{path}: {free / 1e6:.0f} MB free, a checkpoint needs about {expected_bytes / 1e6:.0f} MB; {_MAKE_ROOM}"
        )


def free_bytes(path: Path) -> int:
    """What is free on the disk that ``path`` (existing or not) lies on."""
    existing = next(parent for parent in (Path(path), *Path(path).absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def _failed_write(error: Exception) -> str | None:
    """What the disk said where a write failed, else None; safetensors and torch have errors of their own for it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    told = str(error)
    if "os error" in told:  # safetensors: "I/O error: No space left on device (os error 28)"
        return told.splitlines()[0]
    if "PytorchStreamWriter" in told or "unexpected pos" in told:  # torch.save, which does not say why
        return "the trainer's state could not be written"
    return None


def _no_room(folder: Path, reason: str, written: int, expected: int) -> str:
    """The error of a write that failed: what was tried, what there is, what is still good."""
    needed = f"about {expected / 1e6:.0f}" if expected else f"more than {written / 1e6:.0f}"
    steps = steps_in(folder.parent)
    good = f"{steps[max(steps)]} is untouched" if steps else "there is no earlier checkpoint"
    return (
        f"{folder}: {reason}, after {written / 1e6:.0f} MB; a checkpoint needs {needed} MB and "
        f"{free_bytes(folder) / 1e6:.0f} MB are free; {good}; {_MAKE_ROOM}, then go on with resume=auto"
    )


def _step_of(path: Path) -> int | None:
    number = path.name.removeprefix(STEP)
    return int(number) if number.isdigit() else None


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        there = sorted(item.name for item in folder.iterdir())[:8] if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{path}: missing, so {folder} is no complete checkpoint; found {there}")
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): {"size": int(item["size"]), "sha256": str(item["sha256"])} for name, item in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{path}: cannot be read ({error}); expected {{"files": {{name: {{"size", "sha256"}}}}}}'
        ) from None


def _entry(path: Path, with_hash: bool = True) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file; the hash is left out where the size settles the matter."""
    entry: dict[str, Any] = {"size": path.stat().st_size}
    if with_hash:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        entry["sha256"] = digest.hexdigest()
    return entry


def _share(partial: Path) -> None:
    """Give files the mode the user's umask asks for: safetensors makes them readable by their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    for path in partial.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
