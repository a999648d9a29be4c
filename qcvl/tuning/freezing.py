"""What stays as it is inside towers that move: all but the last blocks, and modules frozen by path."""

import difflib
import re
from collections.abc import Collection

from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import Tower, tower_of
from qcvl.tuning.settings import TrainingStage

BLOCK = re.compile(r".*\.(blocks|layers)\.\d+")


def held_modules(model: nn.Module, stage: TrainingStage) -> frozenset[str]:
    """Full paths of modules and parameters that ``stage`` holds back in the towers it moves.

    Raises:
        ConfigError: for a path of ``freeze_modules`` that is nowhere, more ``last_blocks`` than there are, or a tower
            that would be held back whole though the stage moves it.
    """
    held = _named(model, stage.freeze_modules)
    for tower, count in (("vision", stage.last_blocks["vision"]), ("llm", stage.last_blocks["llm"])):
        if count is not None and tower in stage.towers:
            held |= _all_but_last(model, tower, count)
    for tower in stage.towers:
        names = [name for name, _ in model.named_parameters() if tower_of(name) == tower]
        if names and all(is_under(name, held) for name in names):
            raise ConfigError(
                f"stage.freeze_modules={stage.freeze_modules} holds all of tower {tower}, which stage.towers moves; "
                "leave the tower out of stage.towers, or freeze less of it"
            )
    return frozenset(held)


def is_under(name: str, paths: Collection[str]) -> bool:
    """Whether a dotted name is one of ``paths`` or inside one of them."""
    parts = name.split(".")
    return any(".".join(parts[:end]) in paths for end in range(1, len(parts) + 1)) if paths else False


def _named(model: nn.Module, wanted: list[str]) -> set[str]:
    """The modules and parameters that ``wanted`` names, each entry matched from the end."""
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    found: set[str] = set()
    for entry in wanted:
        matches = {name for name in names if name == entry or name.endswith(f".{entry}")}
        if not matches:
            tails = {".".join(name.split(".")[-entry.count(".") - 1 :]) for name in names}
            near = ", ".join(difflib.get_close_matches(entry, sorted(tails), n=4))
            raise ConfigError(
                f"stage.freeze_modules: {entry!r} is no module or parameter of {type(model).__name__}"
                + (f"; near: {near}" if near else "; expected a path such as model.language_model.embed_tokens")
            )
        found |= matches
    return found


def _all_but_last(model: nn.Module, tower: Tower, count: int) -> set[str]:
    """The modules of ``tower`` outside its last ``count`` blocks."""
    blocks = [name for name, _ in model.named_modules() if BLOCK.fullmatch(name) and tower_of(name) == tower]
    if count > len(blocks):
        raise ConfigError(f"stage.last_blocks.{tower}={count}: the tower has {len(blocks)}; give at most that, or null")
    beside = {
        name
        for name, module in model.named_modules()
        if tower_of(name) == tower and not is_under(name, blocks) and any(True for _ in module.parameters(False))
    }
    return beside | set(blocks[: len(blocks) - count])
