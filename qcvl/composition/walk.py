"""The one walk over a composed configuration: every ``_target_`` node checked and, from the leaves up, built.

A light walk leaves heavy targets (``lightning.*``, ``qcvl.callbacks.*`` …) alone so that no error waits for their
imports; the full walk, run by ``build``, checks and builds them too. Both collect every problem before they speak.
"""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from qcvl.composition.problems import describe
from qcvl.composition.targets import construction_errors, is_light, locate, nearest, parameters, refusal
from qcvl.errors import ConfigError

_DIRECTIVES = frozenset({"_target_", "_partial_", "_convert_", "_recursive_"})
_REFERENCE = re.compile(r"^\$\{([A-Za-z_][\w.]*)\}$")  # ${tuner}: a whole node, known by its own path


class _Unknown:
    """A value that is not there to be looked at: wrong (already reported) or not built in a light walk."""


_UNKNOWN = _Unknown()


class Walk:
    """Visits a configuration once; ``problems`` holds ``path: what is wrong`` lines afterwards."""

    def __init__(self, *, trusted: Sequence[str], heavy: bool):
        self.problems: list[str] = []
        self._trusted = trusted
        self._heavy = heavy
        self._built: dict[str, Any] = {}
        self._dead_ends: set[str] = set()

    def visit(self, node: Any, path: str = "") -> Any:
        """The Python object of a node (settings built, containers plain)."""
        if not isinstance(node, DictConfig | ListConfig):
            return node
        if path not in self._built:
            if isinstance(node, ListConfig):
                self._built[path] = self._sequence(node, path)
            else:
                self._built[path] = self._target(node, path) if "_target_" in node else self._mapping(node, path)
        return self._built[path]

    def _sequence(self, node: ListConfig, path: str) -> Any:
        values = [self._child(node, index, f"{path}.{index}") for index in range(len(node))]
        return _UNKNOWN if _has_unknown(values) else values

    def _mapping(self, node: DictConfig, path: str) -> Any:
        for key in _unfinished_entries(node):
            siblings = [str(name) for name in node if name != key]
            self.problems.append(f"{_join(path, key)}: unknown setting{nearest(key, siblings)}")
        values = {str(key): self._child(node, key, _join(path, key)) for key in node}
        return _UNKNOWN if _has_unknown(values.values()) else values

    def _child(self, parent: DictConfig | ListConfig, key: Any, path: str) -> Any:
        if not OmegaConf.is_interpolation(parent, key) and OmegaConf.is_missing(parent, key):
            self.problems.append(f"{path}: must be given; add {path}=VALUE")
            return _UNKNOWN
        raw = _plain(parent)[key] if OmegaConf.is_interpolation(parent, key) else None
        try:
            value = parent[key]
        except InterpolationToMissingValueError:
            return _UNKNOWN  # reported where the value is missing
        except InterpolationResolutionError as error:
            reason = str(error).splitlines()[0]
            if reason not in self._dead_ends:  # what depends on a setting that leads nowhere does so too
                self._dead_ends.add(reason)
                self.problems.append(f"{path}: {raw} leads nowhere ({reason})")
            return _UNKNOWN
        reference = _REFERENCE.match(raw) if isinstance(raw, str) else None
        return self.visit(value, reference[1] if reference else path)

    def _target(self, node: DictConfig, path: str) -> Any:
        target = node["_target_"]
        if why := refusal(target, self._trusted):
            self.problems.append(f"{_join(path, '_target_')}: {why}")
            return _UNKNOWN
        given = {str(key): self._child(node, key, _join(path, key)) for key in node if key not in _DIRECTIVES}
        if not (self._heavy or is_light(target)):
            return _UNKNOWN
        try:
            factory = locate(target, self._trusted)
        except ConfigError as error:
            self.problems.append(f"{_join(path, '_target_')}: {error}")
            return _UNKNOWN
        partial = bool(node.get("_partial_", False))
        if isinstance(factory, type) and is_pydantic_dataclass(factory) and not partial:
            return self._settings(factory, given, path)
        return self._foreign(factory, given, path, partial)

    def _settings(self, factory: type, given: dict[str, Any], path: str) -> Any:
        """Build a settings object; pydantic reports all its fields together."""
        known = {key: value for key, value in given.items() if value is not _UNKNOWN}
        skipped = given.keys() - known.keys()
        try:
            made = factory(**known)
        except ValidationError as error:
            self.problems += describe(error, known, path, factory=factory, skipped=skipped)
            return _UNKNOWN
        except ConfigError as error:
            self.problems.append(f"{path}: {error}")
            return _UNKNOWN
        return _UNKNOWN if skipped else made

    def _foreign(self, factory: Callable[..., Any], given: dict[str, Any], path: str, partial: bool) -> Any:
        """Build an object of any other class, or its partial, after its signature's names and types."""
        accepted = parameters(factory)
        name = getattr(factory, "__name__", str(factory))
        before = len(self.problems)
        for key, value in given.items():
            if key in accepted.annotations:
                self._check_type(accepted.annotations[key], value, _join(path, key))
            elif not accepted.takes_others:
                suggestion = nearest(key, list(accepted.annotations))
                self.problems.append(f"{_join(path, key)}: unknown setting of {name}{suggestion}")
        if not partial:
            missing = sorted(accepted.required - given.keys())
            self.problems += [f"{_join(path, key)}: missing; {name} needs it" for key in missing]
        if len(self.problems) > before or _has_unknown(given.values()):
            return _UNKNOWN
        if partial:
            return functools.partial(factory, **given)
        try:
            return factory(**given)
        except construction_errors() as error:
            self.problems.append(f"{path}: {name} refuses these settings: {error}")
            return _UNKNOWN

    def _check_type(self, annotation: Any, value: Any, path: str) -> None:
        if value is _UNKNOWN:
            return
        try:
            TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            self.problems += describe(error, value, path)
        except (PydanticSchemaGenerationError, PydanticUserError):
            return  # an annotation pydantic has no schema for


def _has_unknown(values: Iterable[Any]) -> bool:
    return any(value is _UNKNOWN for value in values)


def _unfinished_entries(node: DictConfig) -> list[str]:
    """Entries without ``_target_`` in a mapping of targets: ``callbacks.checkpont.save_last=true`` makes one."""
    mappings = {str(key): value for key, value in _plain(node).items() if isinstance(value, dict)}
    if not any("_target_" in value for value in mappings.values()):
        return []
    return [key for key, value in mappings.items() if "_target_" not in value]


def _plain(node: DictConfig | ListConfig) -> Any:
    """The node as written: interpolations are strings."""
    return OmegaConf.to_container(node, resolve=False)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
