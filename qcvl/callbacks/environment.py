"""``environment.json``: what a run was made with."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qcvl.data.datamodule import VLDataModule
from qcvl.data.settings import JsonlSource

PACKAGES = ("qcvl", "torch", "lightning", "transformers", "peft", "hydra-core", "albumentations", "numpy", "pillow")


def write_environment(folder: Path, datamodule: VLDataModule) -> None:
    """Write versions, the git commit of the working directory (if it is a checkout) and the data's fingerprints."""
    data = {
        f"{split}/{name}": _sha256(Path(source.path))
        for split in ("train", "val")
        for name, source in datamodule.data.sources(split).items()
        if isinstance(source, JsonlSource)
    }
    environment = {"python": platform.python_version(), "packages": _versions(), "git_commit": _commit(), "data": data}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
