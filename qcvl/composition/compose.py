"""Compose a root without the command line, for Python users, tests and ``resume=auto``."""

from collections.abc import Sequence
from datetime import datetime

from omegaconf import DictConfig

from qcvl.composition.locations import CONF_DIR


def planned_output_dir(root: str) -> str:
    """Where a run of ``root`` started now goes by default: ``outputs/<root>/<date>/<time>``."""
    return f"outputs/{root}/{datetime.now():%Y-%m-%d/%H-%M-%S}"


def compose_root(root: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/<root>.yaml`` with overrides in Hydra's grammar.

    Outside a Hydra job nothing names the run directory, so ``paths.output_dir`` is ``outputs/<root>/<date>/<time>``
    unless an override says otherwise; nothing is created there.
    """
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(config_name=root, overrides=[f"++paths.output_dir={planned_output_dir(root)}", *overrides])
