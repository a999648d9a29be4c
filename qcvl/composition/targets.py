"""``_target_``: which dotted paths may be instantiated, what they name, and which arguments they take."""

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from qcvl.errors import ConfigError

# Nothing else is ever imported because a configuration says so; trusted_targets adds to it.
ALLOWED = ("qcvl", "torch", "lightning", "transformers", "peft", "albumentations")
_LIGHT_PACKAGES = ("qcvl.schema.", "qcvl.geometry.", "qcvl.augment.", "qcvl.composition.")


@dataclass(frozen=True)
class Parameters:
    """What a target accepts: annotation by name, the names without a default, and whether it takes any other name."""

    annotations: dict[str, Any]
    required: frozenset[str]
    takes_others: bool


def refusal(target: Any, trusted: Sequence[str]) -> str | None:
    """Why ``target`` may not be instantiated, or None when it may."""
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")) or "." not in target:
        return f"should be a dotted path to a class, found {target!r}"
    if _is_under(target, [*ALLOWED, *trusted]):
        return None
    return (
        f"{target} is not allowed: targets start with {', '.join(f'{name}.' for name in ALLOWED)} "
        f"or with an entry of trusted_targets; if you trust it, add trusted_targets=[{target.split('.')[0]}]"
    )


def is_light(target: str) -> bool:
    """Whether the target's module is known to import in well under a second (no torch, lightning or transformers)."""
    module = target.rpartition(".")[0]
    return module.startswith("qcvl.") and (module.endswith(".settings") or target.startswith(_LIGHT_PACKAGES))


def locate(target: str, trusted: Sequence[str]) -> Callable[..., Any]:
    """Import what an allowed ``target`` names; raises ConfigError where it is not there or not what it claims to be.

    A path under an allowed package may still lead out of it (``qcvl.infer.Path``), so the object's own module is held
    against the same list, and from other packages only classes are taken (``torch.hub.load`` is refused).
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{target} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if found is None:
        names = [n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module_name]
        raise ConfigError(f"{module_name} has no {name}{nearest(name, names)}")
    explicit = _is_under(target, trusted)
    home = getattr(found, "__module__", "") or ""
    if not callable(found) or not (explicit or _is_under(f"{home}.", [*ALLOWED, *trusted])):
        raise ConfigError(f"{target} is not allowed: it is {home}.{name}, from outside the allowed packages")
    if not (explicit or inspect.isclass(found) or home.startswith("qcvl.")):
        raise ConfigError(f"{target} is not allowed: it is a function, and only classes are taken from {home}")
    return found


def parameters(factory: Callable[..., Any]) -> Parameters:
    """Arguments of a function or class; a class of qcvl that passes ``**kwargs`` on also takes its parent's."""
    if not inspect.isclass(factory) or factory.__init__ is object.__init__:  # the latter: made by __new__
        return _own_parameters(factory)
    annotations: dict[str, Any] = {}
    required: frozenset[str] = frozenset()
    for parent in factory.__mro__:
        if "__init__" not in vars(parent):
            continue
        own = _own_parameters(vars(parent)["__init__"])
        annotations = {**own.annotations, **annotations}
        required |= own.required
        if not own.takes_others:
            return Parameters(annotations, required, takes_others=False)
        if not parent.__module__.startswith("qcvl."):
            break
    return Parameters(annotations, required, takes_others=True)


def nearest(name: str, known: Sequence[str]) -> str:
    """``; did you mean rank?`` or, where nothing is near, what there is: ``; known: alpha, rank``."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def construction_errors() -> tuple[type[Exception], ...]:
    """What constructors of third parties raise over wrong arguments; Lightning's own where it is imported."""
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    own = (lightning.MisconfigurationException,) if lightning is not None else ()
    return (TypeError, ValueError, ImportError, *own)


def _is_under(target: str, prefixes: Sequence[str]) -> bool:
    return any(target == prefix or target.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)


def _own_parameters(function: Callable[..., Any]) -> Parameters:
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    named = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # a name that only type checkers import: such an argument goes unchecked
        hints = {}
    return Parameters(
        annotations={p.name: hints.get(p.name, Any) for p in named},
        required=frozenset(p.name for p in named if p.default is p.empty),
        takes_others=any(p.kind is p.VAR_KEYWORD for p in found),
    )
