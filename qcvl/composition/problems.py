"""Pydantic's errors as lines a user can act on: ``tuner.rank: should be a valid integer, found 'eight'``."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from qcvl.composition.targets import nearest

_FOUND_LENGTH = 80  # characters of a wrong value that are shown


def describe(
    error: ValidationError, given: Any, path: str, *, factory: Any = None, skipped: Collection[str] = ()
) -> list[str]:
    """One line per wrong value at or below ``path``.

    The members of a union each complain about a value: their complaints become one line, at the deepest place that any
    member reached.

    Args:
        error: what pydantic found.
        given: the value it looked at; for a settings class the mapping of its fields.
        path: where ``given`` stands in the configuration.
        factory: the settings class, or None for a bare value.
        skipped: fields of the settings class that were reported elsewhere.
    """
    by_place: dict[tuple[int | str, ...], list[Any]] = {}
    for item in error.errors(include_url=False):
        if not (item["loc"] and item["loc"][0] in skipped):
            by_place.setdefault(_place(item, given), []).append(item)
    deepest = [place for place in by_place if not any(_is_above(place, other) for other in by_place)]
    return [_line(by_place[place], ".".join([path, *map(str, place)]).strip("."), factory) for place in deepest]


def _place(item: Any, given: Any) -> tuple[int | str, ...]:
    """The keys of a complaint's location; names of union members, which pydantic puts between them, are left out."""
    location = item["loc"]
    if item["type"] in ("missing", "unexpected_keyword_argument", "extra_forbidden"):
        location, last = location[:-1], location[-1:]  # a key that is not there cannot be followed
    else:
        last = ()
    place, value = [], given
    for key in location:
        if isinstance(value, Mapping) and key in value or isinstance(value, list) and key in range(len(value)):
            place.append(key)
            value = value[key]
    return (*place, *last)


def _is_above(place: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    return len(place) < len(other) and other[: len(place)] == place


def _line(items: list[Any], where: str, factory: Any) -> str:
    first = items[0]
    if first["type"] == "missing":
        return f"{where}: missing; {factory.__name__ if factory else 'it'} needs it"
    if first["type"] == "unexpected_keyword_argument":
        return f"{where}: unknown setting{nearest(str(first['loc'][-1]), [field.name for field in fields(factory)])}"
    wanted = " or ".join(dict.fromkeys(_sentence(item) for item in items))
    if factory is not None and not first["loc"]:
        return f"{where}: {wanted}"  # a rule over several fields speaks for itself: what it found is the whole object
    found = repr(first["input"])
    return f"{where}: {wanted}, found {found if len(found) <= _FOUND_LENGTH else found[: _FOUND_LENGTH - 1] + '…'}"


def _sentence(item: Any) -> str:
    text = str(item["msg"])
    for opening in ("Input ", "Value error, ", "Assertion failed, "):
        text = text.removeprefix(opening)
    return text
