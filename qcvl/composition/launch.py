"""From a command line to a task: what ``python -m qcvl.<root>`` and the console scripts do before their own work."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qcvl.composition.argv import prepare_argv
from qcvl.composition.locations import CONF_DIR
from qcvl.errors import ConfigError, QcvlError
from qcvl.viz.runs import ERROR_FILE

Task = Callable[[DictConfig], Any]


def run(root: str, task: Task) -> None:
    """Compose ``conf/<root>.yaml`` with the command line, check it, and call ``task(cfg)``.

    Errors meant for the user end the process without a traceback: with 2 for a wrong configuration, else with 1.
    Nothing heavy is imported before the configuration has been checked. Each job of a sweep (``-m``) runs in a process
    of its own; the sweep ends with a table of its jobs, and with 1 where one of them failed.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from qcvl.composition.own_process import this_program
    from qcvl.composition.run_guard import conclude_sweep

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises errors in place of printing them: they are handled below
    try:
        sys.argv[1:] = prepare_argv(sys.argv[1:], root)
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=root)(
            _job(task, this_program(), sys.argv[1:])
        )()
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        _exit(error, 2)
    except QcvlError as error:
        _exit(error, 1)
    except Exception:
        conclude_sweep()  # a sweeper gives up where every job failed (Optuna does): the table still says why
        raise


def _job(task: Task, program: Sequence[str], overrides: Sequence[str]) -> Task:
    """The function Hydra calls for each job: checks the settings, keeps them, sets threads, does the work.

    In a sweep it starts ``python <program>`` for the job and waits; a launcher may call it on another machine, so it
    carries all it needs.
    """

    def job(cfg: DictConfig) -> Any:
        from qcvl.composition.check import validate
        from qcvl.composition.own_process import run_in_own_process
        from qcvl.composition.processes import in_sweep, is_first_process

        if in_sweep():
            return run_in_own_process(cfg, program, [item for item in overrides if "=" in item])
        validate(cfg)
        if is_first_process():
            save_config(cfg)
            (Path(cfg.paths.output_dir) / ERROR_FILE).unlink(missing_ok=True)  # of a sweep whose job this resumes
        # Read by torch when it is imported: two threads on busy cores stall each other.
        os.environ.setdefault("OMP_NUM_THREADS", str(cfg.threads))
        try:
            return task(cfg)
        except QcvlError as error:  # here, because Hydra would print the overrides of the job around it
            _exit(error, 2 if isinstance(error, ConfigError) else 1)

    return job


def save_config(cfg: DictConfig) -> Path:
    """Write the resolved settings to ``<output_dir>/config.yaml`` and return its path."""
    path = Path(cfg.paths.output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    return path


def _exit(error: Exception, code: int) -> None:
    from qcvl.composition.run_guard import error_text

    print(error_text(error), file=sys.stderr)
    sys.exit(code)
