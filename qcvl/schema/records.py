"""One line of a JSONL file: its contract, its errors, and reading a whole file.

    {"images": ["a.jpg"], "width": 1920, "height": 1080, "summary": "…", "metadata": {…},
     "objects": [{"bbox_2d": [x1, y1, x2, y2], "desc": "…"}, …]}

Coordinates are pixels of the stored image after EXIF orientation with continuous edges. Only ``images`` is required,
and not even that of a record with ``messages``, which may be text alone (see ``schema.messages``).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from qcvl.errors import DataError, RecordError
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.shapes import Shape
from qcvl.schema.messages import read_messages, unread_key, without_images, write_messages
from qcvl.schema.objects import OBJECT_KEYS, describe, read_image_index, read_shape, unknown_key, write_shape
from qcvl.schema.types import Annotation, ImageValue, Message

RECORD_KEYS = ("images", "width", "height", "objects", "summary", "metadata", "messages")
T = TypeVar("T")
_FEWEST_DISTINCT = {"bbox_2d": 2, "quad": 3, "poly": 3, "line": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One validated line: image paths as written, annotations in pixels, and what else the line said.

    A record made in Python may hold bytes, arrays or PIL images in ``images``; only strings can be written as JSON.
    ``sizes`` holds ``(width, height)`` per image, or nothing when the line gives none. ``annotated`` is False when the
    line has no ``objects`` key at all: a photo nobody labelled, which is not the same as a photo without objects.
    ``messages`` is a conversation, beside which ``images`` may be empty.
    """

    images: tuple[ImageValue, ...]
    annotations: tuple[Annotation, ...] = ()
    annotated: bool = True
    sizes: tuple[tuple[int, int], ...] = ()
    summary: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    path: Path | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    @classmethod
    def from_json(cls, text: str | bytes, path: str | Path | None = None, line: int | None = None) -> "Record":
        """The record in one JSON line; ``path`` and ``line`` are where it stands, for errors and image paths.

        Raises:
            RecordError: the first thing that breaks the contract, as ``path:line: field message``.
        """
        fields, problems = _read_line(text)
        if problems:
            raise _located(problems[0], path, line)
        return cls(**fields, path=None if path is None else Path(path), line=line)

    def to_json(self) -> str:
        """The JSON line this record is read from: ``Record.from_json(record.to_json()) == record``."""
        raw: dict[str, Any] = {"images": list(self.images)} if self.images else {}
        if self.sizes:
            widths, heights = ([size[axis] for size in self.sizes] for axis in (0, 1))
            one = len(self.images) == 1
            raw |= {"width": widths[0] if one else widths, "height": heights[0] if one else heights}
        if self.summary is not None:
            raw["summary"] = self.summary
        if self.metadata:
            raw["metadata"] = dict(self.metadata)
        if self.messages:
            raw["messages"] = write_messages(self.messages)
        if self.annotated:
            raw["objects"] = [geometry_json(item, len(self.images)) for item in self.annotations]
        return json.dumps(raw, ensure_ascii=False)

    @property
    def where(self) -> str:
        """``file:line``, as errors name this record."""
        known = ":".join(str(part) for part in (self.path, self.line) if part is not None)
        named = self.images[0] if self.images and isinstance(self.images[0], str | Path) else "an image in memory"
        return known or (f"the record of {named}" if self.images else "a record without images")

    def image_path(self, image: int = 0) -> Path | str:
        """Where one image lies: relative to the JSONL's folder unless absolute; a data or http URL stays as it is."""
        value = self.images[image]
        if not isinstance(value, str | Path):
            raise DataError(f"{self.where}: images[{image}] is {type(value).__name__} in memory; expected a path")
        if isinstance(value, str) and value.startswith(("data:", "http://", "https://")):
            return value
        return (self.path.parent if self.path else Path()) / value


def geometry_json(annotation: Annotation, image_count: int = 1) -> dict[str, Any]:
    """One entry of ``objects`` in pixels; ``image`` is named when the record has several images."""
    numbers = [[int(v) if float(v).is_integer() else float(v) for v in point] for point in annotation.shape.points]
    image = {"image": annotation.image} if image_count > 1 else {}
    return {**image, **write_shape(annotation.shape.kind, numbers), "desc": annotation.desc}


def read_records(path: str | Path) -> list[Record]:
    """All records of a JSONL file, in file order.

    Raises:
        RecordError: the first problem of the file; ``iter_problems`` finds all of them.
    """
    return [Record.from_json(text, path, number) for number, text in _lines(path)]


def iter_problems(path: str | Path) -> Iterator[RecordError]:
    """Everything that is wrong in a JSONL file, in file order: per line each broken field and each broken object."""
    try:
        for number, text in _lines(path):
            for problem in _read_line(text)[1]:
                yield _located(problem, path, number)
    except RecordError as problem:  # the file itself: missing, a folder, or empty
        yield problem


def line_offsets(content: bytes) -> np.ndarray:
    """Byte offsets ``[N + 1]`` of the lines: line ``i`` is ``content[offsets[i]:offsets[i + 1]]``."""
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    tail = [] if content[-1:] in (b"", b"\n") else [len(content)]
    return np.concatenate([[0], ends, tail]).astype(np.int64)


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """``(line number from 1, bytes)`` of each line; blank lines at the very end are left out."""
    file = Path(path)
    if not file.is_file():
        raise RecordError(_missing(file), path=path)
    content = file.read_bytes().removeprefix(b"\xef\xbb\xbf").rstrip()
    if not content:
        raise RecordError("the file is empty; expected one JSON object a line", path=path)
    offsets = line_offsets(content)
    for number, (start, end) in enumerate(pairwise(offsets), 1):
        yield number, content[start:end]


def _missing(file: Path) -> str:
    if file.is_dir():
        found = sorted(entry.name for entry in file.glob("*.jsonl"))[:5]
        return f"is a folder; expected a JSONL file{', for instance ' + ', '.join(found) if found else ''}"
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist; expected a JSONL file"
    near = get_close_matches(file.name, [entry.name for entry in file.parent.iterdir()], n=1)
    return f"the file does not exist{'; did you mean ' + near[0] + '?' if near else '; expected a JSONL file'}"


def _located(problem: RecordError, path: str | Path | None, line: int | None) -> RecordError:
    return RecordError(problem.problem, path=path, line=line, field=problem.field)


class _Problems(list[RecordError]):
    """The problems of one line, collected so that one look shows them all."""

    def attempt(self, read: Callable[..., T], *args: Any) -> T | None:
        """What ``read`` returns; None when it refuses, and its refusal is kept."""
        try:
            return read(*args)
        except RecordError as problem:
            self.append(problem)
            return None


def _read_line(text: str | bytes) -> tuple[dict[str, Any], list[RecordError]]:
    """The fields of one line and everything wrong with it."""
    problems = _Problems()
    raw = problems.attempt(_decode, text)
    if raw is None:
        return {}, problems
    problems += [unread_key(key, RECORD_KEYS) for key in raw if key not in RECORD_KEYS]
    images = problems.attempt(_images, raw)
    image_count = None if images is None else len(images)
    problems += without_images(raw) if image_count == 0 else []
    sizes = problems.attempt(_sizes, raw, image_count) if images else ()
    objects = problems.attempt(_objects, raw) or []
    annotations = [
        problems.attempt(_annotation, item, f"objects[{index}]", image_count, sizes)
        for index, item in enumerate(objects)
    ]
    summary = problems.attempt(_summary, raw)
    metadata = problems.attempt(_metadata, raw)
    messages = problems.attempt(read_messages, raw.get("messages"), image_count)
    fields = {"images": images, "annotations": tuple(annotations), "annotated": "objects" in raw, "sizes": sizes}
    return {**fields, "summary": summary, "metadata": metadata, "messages": messages}, problems


def _decode(text: str | bytes) -> dict[str, Any]:
    if not text.strip():
        raise RecordError("the line is blank; expected one JSON object a line")
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"{error.msg} at column {error.colno}"
        raise RecordError(f"the line is not valid JSON ({where}); expected one whole JSON object a line") from error
    if not isinstance(raw, dict):
        raise RecordError(f"the line is {describe(raw)}; expected one JSON object a line")
    return raw


def _images(raw: Mapping[str, Any]) -> tuple[str, ...]:
    images = raw.get("images")
    if not images and isinstance(images, list | None) and raw.get("messages") is not None:
        return ()
    if not isinstance(images, list) or not images:
        found = "is missing" if images is None else "is an empty list" if images == [] else f"is {describe(images)}"
        raise RecordError(f"{found}; expected a list of image paths", field="images")
    for index, image in enumerate(images):
        if not isinstance(image, str) or not image.strip():
            found = "an empty string" if isinstance(image, str) else describe(image)
            raise RecordError(f"is {found}; expected an image path", field=f"images[{index}]")
    return tuple(images)


def _sizes(raw: Mapping[str, Any], image_count: int) -> tuple[tuple[int, int], ...]:
    """``(width, height)`` per image; one number stands for every image."""
    given = [key for key in ("width", "height") if raw.get(key) is not None]
    if len(given) == 1:
        other = "height" if given == ["width"] else "width"
        raise RecordError(f"is missing beside {given[0]}; give both or neither", field=other)
    sides = []
    for key in given:
        values = raw[key] if isinstance(raw[key], list) else [raw[key]] * image_count
        if len(values) != image_count:
            found, expected = f"has {len(values)} entries", f"images has {image_count}"
            raise RecordError(f"{found} but {expected}; expected one number, or one for each image", field=key)
        for index, value in enumerate(values):
            if type(value) is not int or value < 1:
                entry = f"{key}[{index}]" if isinstance(raw[key], list) else key
                raise RecordError(f"is {describe(value)}; expected a whole number of pixels above 0", field=entry)
        sides.append(values)
    return tuple(zip(*sides, strict=True))


def _objects(raw: Mapping[str, Any]) -> list[Any]:
    objects = raw.get("objects", [])
    if not isinstance(objects, list):
        raise RecordError(f"is {describe(objects)}; expected a list of objects ([] for none)", field="objects")
    return objects


def _annotation(
    item: object, where: str, image_count: int | None, sizes: tuple[tuple[int, int], ...] | None
) -> Annotation:
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected an object with a geometry and a desc", field=where)
    for key in item:
        if key not in OBJECT_KEYS:
            raise unknown_key(key, OBJECT_KEYS, where)
    shape = read_shape(item, where)
    field_name = f"{where}.{shape.kind}"
    distinct, fewest = len({(x, y) for x, y in shape.points.tolist()}), _FEWEST_DISTINCT[shape.kind]
    if distinct < fewest:
        raise RecordError(f"has only {distinct} distinct points; expected at least {fewest}", field=field_name)
    if "desc" not in item:
        raise RecordError("is missing; expected a description of the object", field=f"{where}.desc")
    desc = _one_line(item["desc"], f"{where}.desc")
    image = read_image_index(item, where, image_count)
    if sizes:
        _check_frame(shape, sizes[image], field_name)
    return Annotation(shape, desc, image)


def _check_frame(shape: Shape, size_wh: tuple[int, int], field_name: str) -> None:
    """Refuse a shape that has no part inside the frame; what leaves it only partly is clipped later."""
    width, height = size_wh
    x1, y1, x2, y2 = shape.bounds
    if min(x1, y1) >= 0 and x2 <= width and y2 <= height:
        return
    if not clip_shape(shape, width, height):
        found = f"lies outside the {width} x {height} image (it spans {x1:g}, {y1:g} to {x2:g}, {y2:g})"
        raise RecordError(f"{found}; expected pixels of the stored image after EXIF orientation", field=field_name)


def _one_line(value: object, field_name: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"is {describe(value)}; expected one line of text", field=field_name)
    if not value.strip():
        raise RecordError("is empty; expected one line of text", field=field_name)
    if value.splitlines() != [value]:
        raise RecordError(f"has a line break ({value[:40]!r}); expected one line of text", field=field_name)
    return value


def _summary(raw: Mapping[str, Any]) -> str | None:
    return None if raw.get("summary") is None else _one_line(raw["summary"], "summary")


def _metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    metadata = raw.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RecordError(f"is {describe(metadata)}; expected an object", field="metadata")
    return metadata or {}
