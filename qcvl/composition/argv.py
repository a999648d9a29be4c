"""The command line before Hydra reads it: quoted stages, unknown settings let through, ``resume=`` resolved.

Hydra answers an unknown key by itself, one at a time. Written as ``++key=value`` the key enters the configuration, and
the walk over it names every wrong key at once (see ``walk.py``).
"""

import re
from collections.abc import Sequence

from qcvl.composition.compose import planned_output_dir
from qcvl.composition.locations import groups, root_keys
from qcvl.composition.resume import resolve_resume

# Hydra reads stage=2 as the number 2 and refuses it: "Config group override must be a string or a list. Got int".
_STAGE = re.compile(r"^(\+{0,2}stage=)(\d+(?:,\d+)*)$")
# A value override without prefix. Group overrides with / or @ (hydra/launcher=joblib, logger@tracker=csv) never match.
_VALUE = re.compile(r"^(?P<key>[A-Za-z_]\w*(?:\.[\w-]+)*)=")


def quote_stage(argument: str) -> str:
    """``stage=1,2`` becomes ``stage="1","2"``; every other argument comes back as it is."""
    match = _STAGE.match(argument)
    if match is None:
        return argument
    return match[1] + ",".join(f'"{number}"' for number in match[2].split(","))


def admit(argument: str, root: str) -> str:
    """``tuner.rnak=8`` becomes ``++tuner.rnak=8``; groups, the root's own keys, ``hydra.*`` and prefixed ones stay."""
    match = _VALUE.match(argument)
    if match is None:
        return argument
    key = match["key"]
    known = key in groups() or key in root_keys(root) or key.startswith("hydra.")
    return argument if known else f"++{argument}"


def prepare_overrides(overrides: Sequence[str], root: str) -> list[str]:
    """Each override quoted and admitted; what ``config.load`` applies."""
    return [admit(quote_stage(override), root) for override in overrides]


def prepare_argv(argv: Sequence[str], root: str) -> list[str]:
    """The arguments of ``python -m qcvl.<root>`` as Hydra shall read them; idempotent, for Lightning repeats them.

    Raises ConfigError for a ``resume=`` that cannot be followed.
    """
    arguments = _overrides_first(prepare_overrides(argv, root))
    if "--resolve" in arguments:  # --cfg job --resolve: no job starts, so nothing else names the run directory
        arguments.insert(0, f"++paths.output_dir={planned_output_dir(root)}")
    multirun = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)
    return resolve_resume(arguments, root, multirun=multirun)


def _overrides_first(arguments: Sequence[str]) -> list[str]:
    """Overrides before options: Hydra's parser refuses ``stage=1 -m tuner=lora``, an option between overrides."""
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    return overrides + [a for a in arguments if a not in overrides]
