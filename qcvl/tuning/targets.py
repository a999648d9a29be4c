"""Which modules of a model get an adapter: the linears of the stage's towers that the setting names."""

import difflib
import re
from collections.abc import Collection, Sequence

from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import Tower, linear_names
from qcvl.tuning.freezing import is_under

ALL_LINEAR = "all-linear"


def target_names(
    model: nn.Module, towers: Sequence[Tower], wanted: str | list[str], held: Collection[str] = ()
) -> list[str]:
    """Full names of the linears of ``towers`` that ``wanted`` names, outside ``held`` modules: at least one in a tower.

    ``wanted`` is ``"all-linear"``, a list of names matched from the end, or a regular expression over the whole name.

    Raises:
        ConfigError: for a tower or a list entry that matches nothing, and for ``lm_head``.
    """
    _refuse_head(wanted)
    linears = {tower: [name for name in linear_names(model, tower) if not is_under(name, held)] for tower in towers}
    found = {tower: [name for name in names if _matches(name, wanted)] for tower, names in linears.items()}
    candidates = [name for names in linears.values() for name in names]
    problems = [
        f"matches no linear of tower {tower}, which the stage trains{_near(wanted, linears[tower])}"
        for tower, names in found.items()
        if not names
    ]
    problems += [
        f"entry {entry!r} matches nothing in {', '.join(towers)}{_near([entry], candidates)}"
        for entry in (wanted if isinstance(wanted, list) else [])
        if not any(_matches(name, [entry]) for name in candidates)
    ]
    if problems:
        raise ConfigError(
            "\n".join(f"tuner.target_modules={wanted}: {problem}" for problem in problems)
            + f"\nexpected {ALL_LINEAR}, module names or a regular expression over whole names; or change stage.towers"
        )
    return [name for names in found.values() for name in names]


def _matches(name: str, wanted: str | list[str]) -> bool:
    if isinstance(wanted, list):
        return any(name == entry or name.endswith("." + entry) for entry in wanted)
    return wanted == ALL_LINEAR or re.fullmatch(wanted, name) is not None


def _refuse_head(wanted: str | list[str]) -> None:
    entries = wanted if isinstance(wanted, list) else [wanted]
    if any("lm_head" in entry for entry in entries):
        # Measured: LoRA on a tied head merges wrongly (logits off by 0.33). On an untied one it would be passed over,
        # because the loss takes the head's weight, not its forward.
        raise ConfigError(
            f"tuner.target_modules={wanted}: lm_head cannot carry an adapter (it shares its weight with the embedding "
            "or is read as a plain weight by the loss); remove it, or use tuner=full"
        )


def _near(wanted: str | list[str], names: Sequence[str]) -> str:
    """``"; near: q_proj, k_proj"``: the last parts of ``names`` closest to ``wanted``, or all of them when few."""
    parts = sorted({name.rsplit(".", 1)[-1] for name in names})
    entries = [wanted] if isinstance(wanted, str) else wanted
    close = sorted({near for entry in entries for near in difflib.get_close_matches(entry.rsplit(".", 1)[-1], parts)})
    shown = close or parts[:12]
    return f"; near: {', '.join(shown)}" if shown else "; no linear module there may move"
