"""The Hydra boundary, importable by entry points only.

An entry point is ``def main() -> None: run("train", task)``. Python users write::

    cfg = config.load("train", ["stage=2", "tuner=lora"])
    run = config.build(cfg)
"""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from qcvl.composition.argv import prepare_argv, prepare_overrides, quote_stage
from qcvl.composition.assemble import assemble
from qcvl.composition.check import instantiate_settings, validate
from qcvl.composition.compose import compose_root
from qcvl.composition.launch import run, save_config
from qcvl.composition.locations import CONF_DIR
from qcvl.composition.roots import Train
from qcvl.composition.rules import check_compatible

__all__ = [
    "CONF_DIR",
    "build",
    "check_compatible",
    "instantiate_settings",
    "load",
    "prepare_argv",
    "quote_stage",
    "run",
    "save_config",
    "validate",
]


def load(root: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``conf/<root>.yaml`` with command-line style overrides; nothing is checked or written yet."""
    return compose_root(root, prepare_overrides(overrides, root))


def build(cfg: DictConfig) -> Any:
    """Check ``cfg`` and build it: a ``Run`` (module, datamodule, trainer) for ``train``, else the settings object."""
    settings = instantiate_settings(cfg)
    return assemble(settings) if isinstance(settings, Train) else settings
