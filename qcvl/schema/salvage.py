"""Finding the JSON objects in what a model wrote: exactly where the text obeys, object by object where it does not.

Nothing is completed or invented: an object whose closing brace is missing does not count, and json-repair sees one
closed object at a time (over a whole answer it closes truncated lists and drops duplicate keys).
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import json_repair

from qcvl.geometry.shapes import KINDS

AnswerStatus = Literal["strict", "repaired", "truncated", "failed"]


class Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as its key, value pairs in order, so that a key given twice is seen."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """The objects with a geometry key in text order, how they were found, and how many entries had no geometry.

    Of an answer keyed by image (``{"image_1": {…}, …}``), ``images`` has the image of each object, from 0, and
    ``named`` is how many images the text names; of any other answer they are empty and 0.
    """

    status: AnswerStatus
    objects: tuple[Pairs, ...] = ()
    dropped: int = 0
    images: tuple[int, ...] = ()
    named: int = 0


# One closed object without nested ones, and its geometry keys; ``：`` is the full-width colon Chinese models type.
_LEAF = re.compile(r"\{[^{}]*\}")
_GEOMETRY_KEY = re.compile(rf"""(['"])({"|".join(KINDS)})\1\s*[:：]""")
_FULL_WIDTH = ((re.compile(r'"\s*：\s*'), '": '), (re.compile(r'(?<=["\]\d])\s*，\s*(?=["\[{\d-])'), ", "))
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_IMAGE_KEY = re.compile(r"""(["'])image_([1-9]\d{0,5})\1\s*[:：]""")
_END_OF_TURN = re.compile(r"(?:<\|(?:im_end|endoftext)\|>\s*)+$")
_FENCE = re.compile(r"^```\w*\s*|\s*```$")
_OPENING = {"}": "{", "]": "["}


def find_objects(text: str) -> FoundObjects:
    """The objects a model listed, in the order it wrote them.

    ``strict`` is exactly one JSON list or one ``{"object_1": …}``, or ``{"image_1": …}`` of these; ``repaired`` had to
    leave something aside (a fence, prose, a wrapper, a duplicate name, broken JSON); ``truncated`` ends inside an open
    bracket, string or thought; ``failed`` holds no object with a geometry and is not an empty answer.
    """
    found = _from_json(text.strip())
    if found is not None:
        return found
    answer = _unwrapped(text)
    if answer is None:
        return FoundObjects("truncated")
    found = _from_json(answer)
    if found is not None:
        return replace(found, status="failed" if found.status == "failed" else "repaired")
    objects, images, is_open = _scan(answer)
    status: AnswerStatus = "truncated" if is_open else "repaired" if objects else "failed"
    return FoundObjects(status, tuple(objects), images=tuple(images), named=len(set(images)))


def without_thinking(text: str) -> str | None:
    """The text after the last ``</think>``; None when a thought was begun and never ended."""
    if "</think>" in text:
        return text.rpartition("</think>")[2]
    return None if text.lstrip().startswith("<think>") else text


def _unwrapped(text: str) -> str | None:
    """The answer without thought, ``<answer>`` tag, Markdown fence and end-of-turn tokens; None if all is thought."""
    text = _END_OF_TURN.sub("", text.strip()).strip()
    if not text.startswith(("{", "[")):  # else such tags stand in a description
        answer = without_thinking(text)
        if answer is None:
            return None
        text = answer.partition("<answer>")[2].partition("</answer>")[0] if "<answer>" in answer else answer
    return _FENCE.sub("", text.strip()).strip()


def _from_json(text: str) -> FoundObjects | None:
    """The objects of a text that is one JSON value; None when it is not JSON."""
    try:
        value = json.loads(text, object_pairs_hook=Pairs, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    numbers = _image_numbers(value)
    if numbers is None:
        return _listed(value)
    parts = [_listed(part) for _, part in value]
    found = [number - 1 for number, part in zip(numbers, parts, strict=True) for _ in part.objects]
    objects = tuple(item for part in parts for item in part.objects)
    in_order = numbers == list(range(1, len(numbers) + 1))
    exact = in_order and all(part.status == "strict" for part in parts)
    failed = not objects and any(part.status == "failed" for part in parts)
    status: AnswerStatus = "strict" if exact else "failed" if failed else "repaired"
    return FoundObjects(status, objects, sum(part.dropped for part in parts), tuple(found), len(numbers))


def _image_numbers(value: Any) -> list[int] | None:
    """The numbers, from 1, of the images that the keys of a JSON object name; None where any key names none."""
    if not isinstance(value, Pairs) or not value:
        return None
    found = [_IMAGE_KEY.fullmatch(f'"{key}":') for key, _ in value]
    numbers = [int(match[2]) for match in found if match]
    return numbers if len(numbers) == len(found) else None


def _listed(value: Any) -> FoundObjects:
    """The objects that a JSON value lists."""
    if value in ([], Pairs()):
        return FoundObjects("strict")
    entries, as_agreed = _entries(value)
    objects = tuple(entry for entry in entries if _has_geometry(entry))
    dropped = sum(isinstance(entry, Pairs) for entry in entries) - len(objects)
    if not objects and entries != []:
        return FoundObjects("failed", dropped=dropped)
    exact = as_agreed and len(objects) == len(entries)
    return FoundObjects("strict" if exact else "repaired", objects, dropped)


def _entries(value: Any) -> tuple[list[Any], bool]:
    """What a JSON value lists, and whether in one of the two agreed forms."""
    if isinstance(value, list):
        return value, True
    if not isinstance(value, Pairs):
        return [value], False
    if _has_geometry(value):
        return [value], False
    if len(value) == 1 and isinstance(value[0][1], list):  # {"objects": [...]}
        return value[0][1], False
    return [entry for _, entry in value], [key for key, _ in value] == [f"object_{n}" for n in range(1, len(value) + 1)]


def _scan(text: str) -> tuple[list[Pairs], list[int], bool]:
    """The complete objects with a geometry in a text, and whether it ends inside an open bracket or string.

    Between the two, the image of each object where the text names images, else nothing.
    """
    objects: list[Pairs] = []
    images: list[int] = []
    image, is_keyed = 0, False
    open_brackets: list[str] = []
    position = 0
    while position < len(text):
        character, end = text[position], position + 1
        if character == "{" and (found := _object_at(text, position)):
            objects.append(found[0])
            images.append(image)
            end = found[1]
        elif character in "{[":
            open_brackets.append(character)
        elif character in "}]" and _OPENING[character] in open_brackets:
            while open_brackets.pop() != _OPENING[character]:
                continue
        elif character in "\"'" and (key := _IMAGE_KEY.match(text, position)):
            image, is_keyed, end = int(key[2]) - 1, True, key.end()
        elif character == '"' and open_brackets:
            string = _STRING.match(text, position)
            if string is None:
                return objects, images if is_keyed else [], True
            end = string.end()
        position = end
    return objects, images if is_keyed else [], bool(open_brackets)


def _object_at(text: str, position: int) -> tuple[Pairs, int] | None:
    """The object with a geometry that starts at ``position`` and where it ends; None when there is none."""
    try:
        value, end = _DECODER.raw_decode(text, position)
        return (value, end) if _has_geometry(value) else None
    except RecursionError:
        return None
    except ValueError as error:
        if _is_cut(error, text):
            return None
    leaf = _LEAF.match(text, position)
    if leaf is None or len(_GEOMETRY_KEY.findall(leaf[0])) != 1:
        return None
    repaired = _repair(leaf[0])
    return (repaired, leaf.end()) if _has_geometry(repaired) else None


def _is_cut(error: ValueError, text: str) -> bool:
    """True when decoding failed because the text stops: a brace inside a string that never ends closes nothing."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    in_escape = error.msg.startswith("Invalid \\") and error.pos >= len(text) - len(r"\uXXXX")
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) or in_escape


def _repair(leaf: str) -> Pairs:
    """One closed object that is not valid JSON, by json-repair; empty when it cannot make an object of it."""
    for pattern, replacement in _FULL_WIDTH:
        leaf = pattern.sub(replacement, leaf)
    try:
        value = json_repair.loads(leaf, skip_json_loads=True)
    except (ValueError, RecursionError):
        return Pairs()
    return Pairs(value.items()) if isinstance(value, dict) else Pairs()


def _has_geometry(value: object) -> bool:
    return isinstance(value, Pairs) and any(key in KINDS for key, _ in value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Not strict about raw line breaks and tabs inside a string: they need no repair.
_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_constant=_refuse_constant, strict=False)
