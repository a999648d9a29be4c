"""The geometry of one JSON object, both ways: read with errors that name the field, written as JSON keys."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any

import numpy as np

from qcvl.errors import RecordError
from qcvl.geometry.shapes import KINDS, Kind, Shape

COUNT_KEYS: dict[Kind, str] = {"poly": "poly_points", "line": "line_points"}
_KINDS = set(KINDS)
OBJECT_KEYS = (*KINDS, *COUNT_KEYS.values(), "desc", "image")

# Far above any image side, far below where float64 loses half a pixel; also refuses NaN and infinity.
LARGEST_COORDINATE = 1e9

_NOUNS: dict[Kind, str] = {"bbox_2d": "a box", "quad": "a quad", "poly": "a polygon", "line": "a polyline"}
_EXACT_NUMBERS: dict[Kind, int] = {"bbox_2d": 4, "quad": 8}
_CORNERS: dict[Kind, str] = {"bbox_2d": "4 numbers: x1, y1, x2, y2", "quad": "8 numbers: x1, y1, … x4, y4"}
_FEWEST_POINTS: dict[Kind, int] = {"poly": 3, "line": 2}

# What other tools call the same thing, where spelling alone would not find it.
_SYNONYMS = {"box": "bbox_2d", "polyline": "line", "segmentation": "poly", "label": "desc", "category": "desc"}


def read_shape(raw: Mapping[str, Any], where: str) -> Shape:
    """The one geometry of a JSON object, in the numbers it holds; ``where`` names the object in errors.

    Raises:
        RecordError: no or several geometries, a wrong count, something that is not a finite number, an inverted box.
    """
    kind, numbers = read_geometry(raw, where)
    return Shape(kind, np.array(numbers, dtype=np.float64).reshape(-1, 2))


def read_geometry(raw: Mapping[str, Any], where: str) -> tuple[Kind, list[float]]:
    """Kind and flat numbers ``[x1, y1, x2, y2, …]`` of the one geometry of a JSON object; refuses as ``read_shape``."""
    kind = _only_kind(raw, where)
    numbers = _flat_numbers(raw[kind], where, kind)
    if len(numbers) != _EXACT_NUMBERS.get(kind):
        _check_count(kind, len(numbers), f"{where}.{kind}")
    if "line_points" in raw or "poly_points" in raw:
        _check_declared_count(raw, kind, len(numbers) // 2, where)
    if kind == "bbox_2d" and not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        raise _not_a_box(numbers, f"{where}.{kind}")
    return kind, numbers


def _only_kind(raw: Mapping[str, Any], where: str) -> Kind:
    found = _KINDS.intersection(raw)
    if len(found) == 1:
        return found.pop()
    kinds = [kind for kind in KINDS if kind in raw]
    if not kinds:
        raise RecordError(f"has no geometry; expected exactly one of {', '.join(KINDS)}", field=where)
    raise RecordError(f"has {' and '.join(kinds)}; expected exactly one geometry", field=where)


def write_shape(kind: Kind, points: Iterable[Sequence[float]], *, nested: bool = False) -> dict[str, Any]:
    """The JSON keys of one geometry from its points ``[N, 2]``; a polygon or polyline gives its count first."""
    pairs = [list(point) for point in points]
    numbers = pairs if nested else list(chain.from_iterable(pairs))
    count = {COUNT_KEYS[kind]: len(pairs)} if kind in COUNT_KEYS else {}
    return {**count, kind: numbers}


def read_image_index(raw: Mapping[str, Any], where: str, image_count: int | None) -> int:
    """The index of the image an object lies in (0 when not given); ``image_count`` None leaves the range unchecked."""
    index = raw.get("image", 0)
    if type(index) is not int:
        raise RecordError(f"is {describe(index)}; expected the index of an image, from 0", field=f"{where}.image")
    if index < 0 or (image_count is not None and index >= image_count):
        many = f"{image_count} image{'s' * (image_count != 1)}" if image_count is not None else "images counted from 0"
        last = f" to {image_count - 1}" if image_count and image_count > 1 else ""
        raise RecordError(f"is {index} but there are {many}; expected 0{last}", field=f"{where}.image")
    return index


def unknown_key(key: str, known: Sequence[str], where: str) -> RecordError:
    """The error for a key that is none of ``known``, with the nearest one."""
    nearest = [_SYNONYMS[key]] if _SYNONYMS.get(key) in known else get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    field = f"{where}.{key}" if where else key
    return RecordError(f"is not a known key; {hint}expected {', '.join(known)}", field=field)


def describe(value: object) -> str:
    """A JSON value in a few words, for error messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the string {value[:40]!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "an object"


def _flat_numbers(value: object, where: str, kind: Kind) -> list[float]:
    """``[x1, y1, x2, y2, …]`` from flat numbers or from point pairs."""
    if not isinstance(value, list):
        raise RecordError(f"is {describe(value)}; expected a list of numbers", field=f"{where}.{kind}")
    if value and type(value[0]) is list and all(isinstance(point, list) for point in value):
        for index, point in enumerate(value):
            if len(point) != 2:
                message = f"has {_counted(len(point), 'number')} in point {index}; {_NOUNS[kind]} needs x, y pairs"
                raise RecordError(message, field=f"{where}.{kind}")
        value = list(chain.from_iterable(value))
    for number in value:
        if type(number) not in (int, float) or not -LARGEST_COORDINATE <= number <= LARGEST_COORDINATE:
            raise _not_a_coordinate(value, f"{where}.{kind}")
    return value


def _not_a_coordinate(value: list, field: str) -> RecordError:
    """The error for the first entry that is no finite number; looked for only where there is one."""
    for index, number in enumerate(value):
        if type(number) not in (int, float):
            return RecordError(f"has {describe(number)} at position {index}; expected numbers", field=field)
        if not -LARGEST_COORDINATE <= number <= LARGEST_COORDINATE:
            break
    found = str(number)[:20]
    return RecordError(f"has {found} at position {index}; expected finite pixel coordinates", field=field)


def _check_count(kind: Kind, count: int, field: str) -> None:
    if kind in _EXACT_NUMBERS:
        raise RecordError(f"has {_counted(count, 'number')}; {_NOUNS[kind]} needs {_CORNERS[kind]}", field=field)
    if count % 2:
        raise RecordError(f"has {_counted(count, 'number')}; {_NOUNS[kind]} needs x, y pairs", field=field)
    if count < 2 * _FEWEST_POINTS[kind]:
        needs = f"{_NOUNS[kind]} needs at least {_FEWEST_POINTS[kind]}"
        raise RecordError(f"has {_counted(count // 2, 'point')}; {needs}", field=field)


def _check_declared_count(raw: Mapping[str, Any], kind: Kind, count: int, where: str) -> None:
    for owner, key in COUNT_KEYS.items():
        if key not in raw:
            continue
        if owner != kind:
            message = f"stands beside {kind}; it belongs to {owner} only"
            raise RecordError(message, field=f"{where}.{key}", code="point-count")
        if type(raw[key]) is not int or raw[key] != count:
            found = raw[key] if type(raw[key]) is int else describe(raw[key])
            message = f"is {found} but {kind} has {_counted(count, 'point')}; expected {count}, or leave the key out"
            raise RecordError(message, field=f"{where}.{key}", code="point-count")


def _not_a_box(numbers: Sequence[float], field: str) -> RecordError:
    x1, y1, x2, y2 = numbers
    axis, low, high = ("x", x1, x2) if not x1 < x2 else ("y", y1, y2)
    code = "box-flat" if x1 == x2 or y1 == y2 else "box-inverted"
    message = f"has {axis}1 = {low:g} and {axis}2 = {high:g}; a box needs x1 < x2 and y1 < y2"
    return RecordError(message, field=field, code=code)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
