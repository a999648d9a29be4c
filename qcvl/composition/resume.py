"""``resume=PATH|auto``: which checkpoint a run continues from, and in which run directory.

A resumed run goes on in its own directory. ``auto`` looks in the given ``hydra.run.dir``, else in the newest unfinished
run of this job whose settings have the same fingerprint. A run is finished when its ``metrics.json`` has ``final``.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qcvl.composition.processes import is_first_process
from qcvl.errors import CheckpointError, ConfigError

_NOT_PART_OF_A_RUN = frozenset({"paths", "logger", "hydra", "resume", "replay", "batch_probe"})
_MAY_CHANGE = re.compile(r"^(sp_degree|trainer\.(max_\w+|devices|num_nodes|default_root_dir)|.*\b(num_)?workers)$")


def resolve_resume(arguments: Sequence[str], root: str, *, multirun: bool) -> list[str]:
    """Replace ``resume=PATH|auto`` by the checkpoint's path and its run directory.

    ``resume=auto`` that finds nothing stays as it is: it means a fresh start that may reuse its directory, for a job
    that was killed before its first checkpoint is started again with the same command.
    """
    asked = _value_of("resume", arguments)
    if asked in (None, "", "null"):
        return list(arguments)
    if multirun:
        raise ConfigError(f"resume: continues one run, not a sweep; found resume={asked} together with -m")
    given = _value_of("hydra.run.dir", arguments)
    if asked == "auto":
        checkpoint = _newest_checkpoint(arguments, root, Path(given) if given else None)
        _say(f"resume=auto: {checkpoint or 'no unfinished run with these settings; starting fresh'}")
    else:
        checkpoint = _named_checkpoint(Path(asked), Path(given) if given else None)
        _say_differences(checkpoint, arguments, root)
    if checkpoint is None:
        return list(arguments)
    replacement = [f"resume={quoted(checkpoint)}", f"hydra.run.dir={quoted(checkpoint.parent.parent)}"]
    kept = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
    place = next(i for i, argument in enumerate(kept) if argument.startswith("resume="))
    return [*kept[:place], *replacement, *(a for a in kept[place + 1 :] if not a.startswith("resume="))]


def quoted(path: Path) -> str:
    """The path as one quoted value of Hydra's override grammar, whatever characters it has."""
    return "'" + str(path).replace("'", "\\'") + "'"


def fingerprint(settings: Mapping[str, Any]) -> str:
    """SHA-256 of resolved settings, but for those that may change when a run goes on.

    Left out: paths (also where they appear inside other settings), logger, hydra, resume, replay,
    batch_probe, ``trainer.max_*``, the number of devices and of workers, ``sp_degree``.
    """
    return hashlib.sha256(json.dumps(_lasting(settings), sort_keys=True, default=str).encode()).hexdigest()


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    output_dir = str((settings.get("paths") or {}).get("output_dir", ""))
    flat = dict(_flatten({key: value for key, value in settings.items() if key not in _NOT_PART_OF_A_RUN}))
    kept = {key: value for key, value in flat.items() if not _MAY_CHANGE.match(key)}
    if not output_dir:
        return kept
    return {key: value.replace(output_dir, "") if isinstance(value, str) else value for key, value in kept.items()}


def _flatten(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if not items:  # a leaf, or an empty mapping or list, which is a value of its own
        yield key, value
        return
    for name, child in items:
        yield from _flatten(child, f"{key}.{name}" if key else str(name))


def _value_of(key: str, arguments: Sequence[str]) -> str | None:
    values = [a.split("=", 1)[1] for a in arguments if re.match(rf"^\+{{0,2}}{re.escape(key)}=", a)]
    return values[-1].strip("'\"") if values else None


def _newest_checkpoint(arguments: Sequence[str], root: str, run_dir: Path | None) -> Path | None:
    from qcvl.checkpoints.folder import newest_complete

    if run_dir is not None:
        return _absolute(newest_complete(run_dir / "checkpoints"))
    settings = _compose(arguments, root)
    if not settings:
        return None
    wanted = fingerprint(settings)
    for candidate in _unfinished_runs(Path(settings["paths"]["outputs"]) / settings["job"]):
        if fingerprint(saved_settings(candidate)) == wanted and (found := newest_complete(candidate / "checkpoints")):
            return _absolute(found)
    return None


def _unfinished_runs(job_dir: Path) -> list[Path]:
    """Run directories ``<job>/<date>/<time>`` without final metrics, newest first."""
    runs = sorted((path.parent for path in job_dir.glob("*/*/config.yaml")), reverse=True)
    return [run for run in runs if not _is_finished(run / "metrics.json")]


def _is_finished(metrics: Path) -> bool:
    return metrics.is_file() and bool(json.loads(metrics.read_text(encoding="utf-8")).get("final"))


def saved_settings(run_dir: Path) -> dict[str, Any]:
    """A run's ``config.yaml`` as plain data: nothing in it is resolved or instantiated."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        return {}
    saved = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(key): value for key, value in saved.items()} if isinstance(saved, dict) else {}


def _named_checkpoint(path: Path, run_dir: Path | None) -> Path:
    from qcvl.checkpoints.folder import newest_complete, verify

    if not path.exists():
        raise CheckpointError(f"resume={path} not found; give a checkpoint folder, a run directory, or resume=auto")
    if (path / "checkpoints").is_dir():
        newest = newest_complete(path / "checkpoints")
        if newest is None:
            raise CheckpointError(f"{path}/checkpoints has no complete checkpoint; start afresh in another directory")
        path = newest
    if is_first_process():  # hashing gigabytes once is enough
        verify(path)
    path = path.resolve()
    if path.parent.name != "checkpoints":
        raise CheckpointError(f"{path} is not in a run's checkpoints/; to start from its weights use stage.init_from=")
    if run_dir is not None and run_dir.resolve() != path.parent.parent:
        raise ConfigError(
            f"hydra.run.dir: {run_dir} is not the directory of the resumed run ({path.parent.parent}); leave it out"
        )
    return path


def _absolute(path: Path | None) -> Path | None:
    return path.resolve() if path is not None else None


def _compose(arguments: Sequence[str], root: str) -> dict[str, Any]:
    """Resolved settings of a command line; empty where they do not resolve, which the walk will report better."""
    from qcvl.composition.compose import compose_root

    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "resume=", "hydra.", "hydra/"))]
    try:
        settings = OmegaConf.to_container(compose_root(root, overrides), resolve=True)
    except OmegaConfBaseException:
        return {}
    assert isinstance(settings, dict)  # a root is a mapping
    return {str(key): value for key, value in settings.items()}


def _say_differences(checkpoint: Path, arguments: Sequence[str], root: str) -> None:
    """Name the settings in which an explicitly resumed run differs from its first part."""
    if not is_first_process():
        return
    before = saved_settings(checkpoint.parent.parent)
    if before and (now := _compose(arguments, root)) and (told := differences(before, now)):
        _say(f"resume: {told}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """In which settings a run and its ``config.yaml`` differ, but for those that may; None: in none."""
    then, this = _lasting(before), _lasting(now)
    changed = [key for key in sorted(then.keys() | this.keys()) if then.get(key) != this.get(key)]
    if not changed:
        return None
    shown = ", ".join(f"{key} {then.get(key)!r} -> {this.get(key)!r}" for key in changed[:5])
    return f"{len(changed)} settings differ from the run's own config.yaml: {shown}"


def _say(message: str) -> None:
    if is_first_process():
        print(message, file=sys.stderr)  # not stdout: --cfg job prints the configuration there
