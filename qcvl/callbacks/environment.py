"""``environment.json``: what a run was made with."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qcvl.data.datamodule import VLDataModule
from qcvl.data.reading import PHOTO_SUFFIXES
from qcvl.data.sources import FormatSource, JsonlSource
from qcvl.data.stream_source import StreamSource

PACKAGES = ("qcvl", "torch", "lightning", "transformers", "peft", "hydra-core", "albumentations", "numpy", "pillow")


def write_environment(folder: Path, datamodule: VLDataModule) -> None:
    """Write versions, the git commit of the working directory (if it is a checkout) and the data's fingerprints."""
    data = {
        f"{split}/{name}": source.stream().fingerprint
        if isinstance(source, StreamSource)
        else _sha256(Path(source.path))
        for split in ("train", "val")
        for name, source in datamodule.data.sources(split).items()
        if isinstance(source, JsonlSource | FormatSource | StreamSource)
    }
    environment = {"python": platform.python_version(), "packages": versions(), "git_commit": _commit(), "data": data}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Version of each of PACKAGES that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # qcvl itself, run from a checkout that was not installed
            continue
    return found


def _commit() -> str | None:
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return answer.stdout.strip()


def _sha256(path: Path) -> str:
    """The hash of a file; of a folder, that of the names and hashes of its files but for photos."""
    if path.is_dir():
        files = [
            file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() not in PHOTO_SUFFIXES
        ]
        listed = "".join(f"{file.relative_to(path).as_posix()} {_sha256(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
