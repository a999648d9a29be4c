"""The geometry of one JSON object, both ways: read with errors that name the field, written as JSON keys."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any

import numpy as np

from qcvl.errors import RecordError
from qcvl.geometry.shapes import KINDS, Kind, Shape, as_points

COUNT_KEYS: dict[Kind, str] = {"poly": "poly_points", "line": "line_points"}
OBJECT_KEYS = (*KINDS, *COUNT_KEYS.values(), "desc", "image")

# Far above any image side, far below where float64 loses half a pixel; also refuses NaN and infinity.
LARGEST_COORDINATE = 1e9

_NOUNS: dict[Kind, str] = {"bbox_2d": "a box", "quad": "a quad", "poly": "a polygon", "line": "a polyline"}
_EXACT_POINTS: dict[Kind, int] = {"bbox_2d": 2, "quad": 4}
_CORNERS: dict[Kind, str] = {"bbox_2d": "4 numbers: x1, y1, x2, y2", "quad": "8 numbers: x1, y1, … x4, y4"}
_FEWEST_POINTS: dict[Kind, int] = {"poly": 3, "line": 2}

# What other tools call the same thing, where spelling alone would not find it.
_SYNONYMS = {"box": "bbox_2d", "polyline": "line", "segmentation": "poly", "label": "desc", "category": "desc"}


def read_shape(raw: Mapping[str, Any], where: str) -> Shape:
    """The one geometry of a JSON object, in the numbers it holds; ``where`` names the object in errors.

    Raises:
        RecordError: no or several geometries, a wrong count, something that is not a finite number, an inverted box.
    """
    kinds = [kind for kind in KINDS if kind in raw]
    if not kinds:
        raise RecordError(f"has no geometry; expected exactly one of {', '.join(KINDS)}", field=where)
    if len(kinds) > 1:
        raise RecordError(f"has {' and '.join(kinds)}; expected exactly one geometry", field=where)
    kind = kinds[0]
    field = f"{where}.{kind}"
    points = as_points(_checked_count(kind, _flat_numbers(raw[kind], field, kind), field))
    _check_declared_count(raw, kind, len(points), where)
    if kind == "bbox_2d":
        _check_corners(points, field)
    return Shape(kind, points)


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


def _flat_numbers(value: object, field: str, kind: Kind) -> list[float]:
    """``[x1, y1, x2, y2, …]`` from flat numbers or from point pairs."""
    if not isinstance(value, list):
        raise RecordError(f"is {describe(value)}; expected a list of numbers", field=field)
    if value and all(isinstance(point, list) for point in value):
        for index, point in enumerate(value):
            if len(point) != 2:
                needs = f"{_NOUNS[kind]} needs x, y pairs"
                raise RecordError(f"has {_counted(len(point), 'number')} in point {index}; {needs}", field=field)
        value = list(chain.from_iterable(value))
    for index, number in enumerate(value):
        if type(number) not in (int, float):
            raise RecordError(f"has {describe(number)} at position {index}; expected numbers", field=field)
        if not -LARGEST_COORDINATE <= number <= LARGEST_COORDINATE:
            found = str(number)[:20]
            raise RecordError(f"has {found} at position {index}; expected finite pixel coordinates", field=field)
    return value


def _checked_count(kind: Kind, numbers: list[float], field: str) -> list[float]:
    found = _counted(len(numbers), "number")
    if kind in _EXACT_POINTS:
        if len(numbers) != 2 * _EXACT_POINTS[kind]:
            raise RecordError(f"has {found}; {_NOUNS[kind]} needs {_CORNERS[kind]}", field=field)
    elif len(numbers) % 2:
        raise RecordError(f"has {found}; {_NOUNS[kind]} needs x, y pairs", field=field)
    elif len(numbers) < 2 * _FEWEST_POINTS[kind]:
        points = _counted(len(numbers) // 2, "point")
        raise RecordError(f"has {points}; {_NOUNS[kind]} needs at least {_FEWEST_POINTS[kind]}", field=field)
    return numbers


def _check_declared_count(raw: Mapping[str, Any], kind: Kind, count: int, where: str) -> None:
    for owner, key in COUNT_KEYS.items():
        if key not in raw:
            continue
        if owner != kind:
            raise RecordError(f"stands beside {kind}; it belongs to {owner} only", field=f"{where}.{key}")
        if type(raw[key]) is not int or raw[key] != count:
            found = raw[key] if type(raw[key]) is int else describe(raw[key])
            message = f"is {found} but {kind} has {_counted(count, 'point')}; expected {count}, or leave the key out"
            raise RecordError(message, field=f"{where}.{key}")


def _check_corners(points: np.ndarray, field: str) -> None:
    for axis, low, high in zip("xy", points[0], points[1], strict=True):
        if not low < high:
            found = f"has {axis}1 = {low:g} and {axis}2 = {high:g}"
            raise RecordError(f"{found}; a box needs x1 < x2 and y1 < y2", field=field)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
