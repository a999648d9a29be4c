"""From a composed configuration to checked settings objects: the walk, then the rules between groups."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from qcvl.composition.rules import check_compatible
from qcvl.composition.walk import Walk
from qcvl.errors import ConfigError


def validate(cfg: DictConfig) -> None:
    """Raise one ConfigError that lists every wrong setting; imports nothing heavy and builds nothing that lasts."""
    _walk(cfg, heavy=False)
    check_compatible(cfg)


def instantiate_settings(cfg: DictConfig) -> Any:
    """The root's settings object (see ``roots.py``) with everything below it built, trainer and callbacks included."""
    validate(cfg)
    return _walk(cfg, heavy=True)


def _walk(cfg: DictConfig, *, heavy: bool) -> Any:
    settings = cfg.copy()
    OmegaConf.set_struct(settings, False)
    settings.pop("hydra", None)
    walk = Walk(trusted=_trusted_targets(settings), heavy=heavy)
    built = walk.visit(settings)
    if walk.problems:
        raise ConfigError("\n".join(dict.fromkeys(walk.problems)))
    return built


def _trusted_targets(cfg: DictConfig) -> list[str]:
    given = OmegaConf.select(cfg, "trusted_targets") or []
    return [name for name in given if isinstance(name, str)] if OmegaConf.is_list(given) else []
