"""The Hydra callback around a command: it looks before anything is written, and concludes a sweep.

Hydra makes ``.hydra/`` before the task runs, so a task could only look too late.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from qcvl.composition.check import validate
from qcvl.composition.nodes import run_disagreement, sweep_disagreement
from qcvl.composition.processes import in_sweep, is_first_process
from qcvl.composition.rules import search_follows_the_monitor, sweeps_run_on_one_device
from qcvl.errors import ConfigError

# What a run makes once all its processes have met: of another run, wherever it is found before. Without this look the
# others would wait for a first process that was refused, half an hour on other nodes.
_MADE_TOGETHER = ("metrics.json", "checkpoints")
_HOW_TO_GO_ON = ", or resume=auto to continue the run in it"


class RunGuard(Callback):
    """Refuses wrong settings and directories that hold another run, before the run directory exists."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings, then that all processes agree on a ``hydra.run.dir``, free or that of the resumed run."""
        HydraConfig.instance().set_config(config)  # ${hydra:…} in the settings; Hydra itself does so only later
        with open_dict(config):
            settings = config.copy()
            del settings["hydra"]
        try:
            validate(settings)
            if problem := run_disagreement(config):
                raise ConfigError(problem)
            folder = Path(config.hydra.run.dir)
            looks = is_first_process() or any((folder / name).exists() for name in _MADE_TOGETHER)
            if looks and OmegaConf.select(config, "resume") is None:
                require_free(folder, "hydra.run.dir", _HOW_TO_GO_ON)
        except ConfigError as error:
            stop(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what concerns the sweep as a whole; the settings of each job are checked when it starts."""
        HydraConfig.instance().set_config(config)
        try:
            if problem := sweep_disagreement(config):
                raise ConfigError(problem)
            require_free(Path(config.hydra.sweep.dir), "hydra.sweep.dir", "")
            for part in ("launcher", "sweeper"):
                require_installed(part, config.hydra[part]["_target_"])
            problems = [rule(config) for rule in (sweeps_run_on_one_device, search_follows_the_monitor)]
            if found := [problem for problem in problems if problem is not None]:
                raise ConfigError("\n".join(found))
        except ConfigError as error:
            stop(error)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show and keep the table of the sweep's jobs."""
        conclude_sweep()


def conclude_sweep() -> None:
    """After a sweep: print its table, write it and its plot into the sweep's folder, exit with 1 where a job failed.

    Does nothing outside a sweep or before its first job. Jobs that score nothing (``check``, ``convert``) get no table.
    """
    from qcvl.viz.runs import ERROR_FILE, has_runs, read_runs

    if not in_sweep() or not has_runs(folder := Path(HydraConfig.get().sweep.dir)):
        return
    runs = read_runs(folder)
    if any(run.metrics for run in runs.runs):
        from rich.console import Console

        from qcvl.viz.runs_report import print_runs

        print_runs(runs, folder, Console())
    failed = [run for run in runs.runs if run.state == "failed"]
    if failed:
        names = ", ".join(str(folder / run.name) for run in failed)
        print(
            f"error: {len(failed)} of {len(runs.runs)} jobs failed; {ERROR_FILE} says why in {names}", file=sys.stderr
        )
        raise SystemExit(1)


def require_installed(part: str, target: str) -> None:
    """Raise ConfigError where the package of a launcher or sweeper is not there; Hydra would say "unknown plugin"."""
    package = ".".join(target.split(".")[:2])
    try:
        there = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even hydra_plugins
        there = False
    if not there:
        raise ConfigError(f"hydra/{part}: {package} is not installed; run pip install 'qcvl[sweep]'")


def require_free(folder: Path, setting: str, alternative: str) -> None:
    """Raise ConfigError where ``folder`` holds more than ``.hydra``, which a sweep writes before its job starts."""
    found = sorted(path.name for path in folder.iterdir() if path.name != ".hydra") if folder.is_dir() else []
    if found:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise ConfigError(f"{setting}: {folder} is not empty (it holds {shown}); give an empty one{alternative}")


def stop(error: ConfigError) -> NoReturn:
    """Print the error and exit with 2; Hydra turns any exception of a callback, but for SystemExit, into a warning."""
    print(error_text(error), file=sys.stderr)
    raise SystemExit(2)


def error_text(error: Exception) -> str:
    """How entry points print an error: the problems one a line, without a traceback."""
    text = str(error) or type(error).__name__
    lines = text.splitlines()
    if isinstance(error, ConfigError) and len(lines) > 1:
        return "\n".join([f"error: {len(lines)} problems in the configuration", *(f"  {line}" for line in lines)])
    return f"error: {text}"
