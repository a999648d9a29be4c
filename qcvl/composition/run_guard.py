"""The Hydra callback that looks before anything is written: Hydra makes ``.hydra/`` before the task runs."""

import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from qcvl.composition.check import validate
from qcvl.composition.processes import is_first_process
from qcvl.errors import ConfigError

_HOW_TO_GO_ON = ", or resume=auto to continue the run in it"


class RunGuard(Callback):
    """Refuses wrong settings and directories that hold another run, before the run directory exists."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the settings, then that ``hydra.run.dir`` is free or belongs to the resumed run."""
        HydraConfig.instance().set_config(config)  # ${hydra:…} in the settings; Hydra itself does so only later
        with open_dict(config):
            settings = config.copy()
            del settings["hydra"]
        try:
            validate(settings)
            if is_first_process() and OmegaConf.select(config, "resume") is None:
                require_free(Path(config.hydra.run.dir), "hydra.run.dir", _HOW_TO_GO_ON)
        except ConfigError as error:
            stop(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check that ``hydra.sweep.dir`` is free; the settings of each job are checked when it starts."""
        try:
            require_free(Path(config.hydra.sweep.dir), "hydra.sweep.dir", "")
        except ConfigError as error:
            stop(error)


def require_free(folder: Path, setting: str, alternative: str) -> None:
    """Raise ConfigError where ``folder`` exists and is not empty."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
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
