"""Where the configuration lives: the folder, its groups, the roots' own keys."""

from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parent.parent


def _conf_dir() -> Path:
    """``qcvl/conf`` of an installed wheel, else the checkout's ``conf``.

    The wheel comes first: beside ``site-packages/qcvl`` another project may well have left a folder named ``conf``.
    """
    inside = _PACKAGE / "conf"
    return inside if (inside / "train.yaml").is_file() else _PACKAGE.parent / "conf"


CONF_DIR: Path = _conf_dir()


def groups() -> set[str]:
    """Names of the config groups (``model``, ``tuner``, …): the folders of ``CONF_DIR``."""
    return {path.name for path in CONF_DIR.iterdir() if path.is_dir()}


@cache
def root_keys(root: str) -> frozenset[str]:
    """Keys that ``conf/<root>.yaml`` itself declares, its defaults list excluded; empty for an unknown root."""
    path = CONF_DIR / f"{root}.yaml"
    if not path.is_file():
        return frozenset()
    return frozenset(str(key) for key in OmegaConf.load(path)) - {"defaults", "_target_"}
