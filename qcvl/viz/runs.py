"""What the folders of several runs say, read without building anything: settings, state and metrics of each.

A run is *finished* when its ``metrics.json`` has ``final``, *failed* when its sweep left an ``error.txt`` in it, and
*unfinished* otherwise: still running, or stopped with its sweep.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from qcvl.errors import DataError

ERROR_FILE = "error.txt"  # in the folder of a sweep's job that failed: the reason in its first line
_OVERRIDES = ".hydra/overrides.yaml"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run as its folder tells it.

    ``metrics`` is ``metrics.json`` (empty where there is none), ``monitor`` the key whose lowest (``mode`` min) or
    highest (max) value is best, None where the run monitors nothing.
    """

    name: str
    state: Literal["finished", "failed", "unfinished"]
    overrides: dict[str, str]
    metrics: dict[str, dict[str, float]]
    monitor: str | None
    mode: str
    error: str

    @property
    def value(self) -> float | None:
        """The final value of what is monitored."""
        return self.metrics.get("final", {}).get(self.monitor or "")


@dataclass(frozen=True, slots=True)
class Runs:
    """Several runs; ``varied`` are the overrides in which they differ."""

    runs: tuple[RunFolder, ...]
    varied: tuple[str, ...]
    monitor: str | None
    mode: str

    @property
    def best(self) -> RunFolder | None:
        """The finished run with the best final value, the first of equal ones."""
        sign = -1 if self.mode == "max" else 1
        scored = [(sign * value, run) for run in self.runs if (value := self.value(run)) is not None]
        return min(scored, key=lambda item: item[0])[1] if scored else None

    def value(self, run: RunFolder) -> float | None:
        """A finished run's final value of what these runs monitor; None for another run and for NaN."""
        value = run.metrics.get("final", {}).get(self.monitor or "") if run.state == "finished" else None
        return value if value is not None and not math.isnan(value) else None


def has_runs(folder: Path) -> bool:
    """Whether ``read_runs`` finds any."""
    return bool(_run_folders(folder))


def read_runs(folder: Path) -> Runs:
    """The runs in a sweep's folder or one level deeper (``outputs/train/<date>`` holds runs too), in their order.

    Raises:
        DataError: when there is none.
    """
    found = _run_folders(folder)
    if not found:
        raise DataError(
            f"runs={folder}: {'holds no runs' if folder.is_dir() else 'no such folder'}; "
            "give the folder of a sweep, outputs/train/multirun/<date>/<time>"
        )
    runs = tuple(read_run(path, str(path.relative_to(folder))) for path in sorted(found, key=_natural))
    monitored = next((run for run in runs if run.monitor), runs[0])
    return Runs(runs, _varied(runs), monitored.monitor, monitored.mode)


def read_run(folder: Path, name: str = "") -> RunFolder:
    """One run; files that are missing or damaged leave it without what they would say."""
    metrics = _read_metrics(folder / "metrics.json")
    error = _first_line(folder / ERROR_FILE)
    monitor = _read_monitor(folder / "config.yaml")
    return RunFolder(
        name=name or folder.name,
        state="failed" if error else "finished" if "final" in metrics else "unfinished",
        overrides=_read_overrides(folder / _OVERRIDES),
        metrics=metrics,
        monitor=monitor.get("monitor"),
        mode=monitor.get("mode", "min"),
        error=error,
    )


def _run_folders(folder: Path) -> list[Path]:
    return [path.parents[1] for level in ("*", "*/*") for path in folder.glob(f"{level}/{_OVERRIDES}")]


def _natural(folder: Path) -> tuple[tuple[str, int, str], ...]:
    """``2`` before ``10``, and names as they are."""
    return tuple(("", int(part), "") if part.isdigit() else (part, 0, "") for part in folder.parts)


def _varied(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for run in runs for key in run.overrides)
    return tuple(key for key in keys if len({run.overrides.get(key) for run in runs}) > 1)


def _read_overrides(path: Path) -> dict[str, str]:
    """``{"tuner.rank": "8"}`` of ``- ++tuner.rank=8``; quotes around a whole value are dropped."""
    lines = _read_yaml(path)
    pairs = (str(line).partition("=") for line in lines if isinstance(line, str)) if isinstance(lines, list) else ()
    return {key.lstrip("+"): value.strip("'\"") for key, _, value in pairs}


def _read_metrics(path: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or cut off by a full disk
        return {}
    return {key: value for key, value in found.items() if isinstance(value, dict)} if isinstance(found, dict) else {}


def _read_monitor(path: Path) -> dict[str, str]:
    settings = _read_yaml(path)
    found: Any = settings
    for key in ("callbacks", "metrics"):
        found = found.get(key) if isinstance(found, dict) else None
    return {key: str(found[key]) for key in ("monitor", "mode") if key in found} if isinstance(found, dict) else {}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _first_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return lines[0] if lines else ""
