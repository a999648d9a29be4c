"""What one JSON line says, held against the record contract: every broken field and every broken object by name."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from qcvl.errors import RecordError
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.shapes import KINDS, Kind, Shape
from qcvl.schema.messages import read_messages, without_images
from qcvl.schema.objects import (
    COUNT_KEYS,
    LARGEST_COORDINATE,
    OBJECT_KEYS,
    describe,
    read_geometry,
    read_image_index,
    unknown_key,
)
from qcvl.schema.types import Annotation, ImageValue, Message
from qcvl.schema.videos import Video, read_video

ObjectFields = tuple[Kind, list[float], str, int]  # geometry, its flat numbers [x1, y1, …], desc, index of the image
RECORD_KEYS = ("images", "width", "height", "objects", "summary", "metadata", "messages", "videos")
T = TypeVar("T")
FEWEST_DISTINCT: dict[Kind, int] = {"bbox_2d": 2, "quad": 3, "poly": 3, "line": 2}  # points, of each kind of shape
_OBJECT_KEYS = frozenset(OBJECT_KEYS)
_NUMBERS = frozenset((int, float))
_USUAL_COUNTS: dict[Kind, range] = {
    "bbox_2d": range(4, 5),
    "quad": range(8, 9),
    "poly": range(6, 2**20, 2),
    "line": range(4, 2**20, 2),
}  # of numbers


def located(problem: RecordError, path: str | Path | None, line: int | None) -> RecordError:
    """The same problem with where its line stands."""
    return RecordError(problem.problem, path=path, line=line, field=problem.field, code=problem.code)


class _Problems(list[RecordError]):
    """The problems of one line, collected so that one look shows them all."""

    def attempt(self, read: Callable[..., T], *args: Any) -> T | None:
        """What ``read`` returns; None when it refuses, and its refusal is kept."""
        try:
            return read(*args)
        except RecordError as problem:
            self.append(problem)
            return None


@dataclass(slots=True)
class Line:
    """What one line says, checked, its shapes still flat numbers: all that most checks of a large file need."""

    images: tuple[ImageValue, ...]
    sizes: tuple[tuple[int, int], ...]
    objects: list[ObjectFields]
    annotated: bool
    summary: str | None
    metadata: Mapping[str, Any]
    messages: tuple[Message, ...]
    videos: tuple[Video, ...] = ()


def as_annotation(fields: ObjectFields) -> Annotation:
    """The annotation of checked fields."""
    kind, numbers, desc, image = fields
    return Annotation(Shape(kind, np.array(numbers, dtype=np.float64).reshape(-1, 2)), desc, image)


def read_line(text: str | bytes) -> tuple[Line | None, list[RecordError]]:
    """What one line says and everything wrong with it; with problems, only what is right is in the line."""
    problems = _Problems()
    raw = problems.attempt(_decode, text)
    if raw is None:
        return None, problems
    problems += [unknown_key(key, RECORD_KEYS, "") for key in raw if key not in RECORD_KEYS]
    images = problems.attempt(_images, raw)
    image_count = None if images is None else len(images)
    problems += without_images(raw) if image_count == 0 else []
    sizes = problems.attempt(_sizes, raw, image_count) if images else None
    width, height = (min(side, LARGEST_COORDINATE) for side in (sizes[0] if sizes else (math.inf, math.inf)))
    objects: list[ObjectFields] = []
    for index, item in enumerate(problems.attempt(_objects, raw) or ()):
        usual = usual_fields(item, width, height)
        if usual is not None:
            objects.append(usual)
            continue
        try:
            objects.append(object_fields(item, f"objects[{index}]", image_count, sizes))
        except RecordError as problem:
            problems.append(problem)
    summary = problems.attempt(_summary, raw)
    metadata = problems.attempt(_metadata, raw)
    videos = problems.attempt(_videos, raw) if "videos" in raw else ()
    counts = image_count, None if videos is None else len(videos)
    messages = problems.attempt(read_messages, raw["messages"], *counts) if "messages" in raw else ()
    said = (images or (), sizes or (), objects, "objects" in raw, summary, metadata or {}, messages or (), videos or ())
    return Line(*said), problems


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


def _videos(raw: Mapping[str, Any]) -> tuple[Video, ...]:
    videos = raw["videos"]
    if videos is None:
        return ()
    if not isinstance(videos, list):
        raise RecordError(f"is {describe(videos)}; expected a list of videos", field="videos")
    if videos and raw.get("messages") is None:
        raise RecordError("is given but messages is not; a video is shown in a conversation", field="videos")
    for key in ("objects", "summary"):
        if videos and raw.get(key) is not None:
            found = f"is given beside {key}, which are of images; expected a conversation alone"
            raise RecordError(found, field="videos")
    return tuple(read_video(value, f"videos[{index}]") for index, value in enumerate(videos))


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


def usual_fields(item: object, width: float, height: float) -> ObjectFields | None:
    """What ``object_fields`` says of an object as nearly all are, in a third of the time; None: look closer.

    Such an object has a desc and one shape of flat numbers wholly inside the first image's frame, which is no larger
    than ``LARGEST_COORDINATE``.
    """
    if type(item) is not dict:
        return None
    for kind in KINDS:
        if kind in item:
            break
    else:
        return None
    numbers, desc = item[kind], item.get("desc")
    if type(numbers) is not list or len(numbers) not in _USUAL_COUNTS[kind]:
        return None
    if not _NUMBERS.issuperset(map(type, numbers)):
        return None
    if type(desc) is not str or not desc.isprintable() or not desc.strip():
        return None
    if len(item) != 2:
        count = item.get(COUNT_KEYS.get(kind))
        if len(item) != 3 or type(count) is not int or 2 * count != len(numbers):
            return None
    if kind == "bbox_2d":
        x1, y1, x2, y2 = numbers
        return (kind, numbers, desc, 0) if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height else None
    xs, ys = numbers[::2], numbers[1::2]
    if min(numbers) < 0 or max(xs) > width or max(ys) > height:
        return None
    fewest = FEWEST_DISTINCT[kind]
    if len(set(xs)) < fewest and len(set(ys)) < fewest and len(set(zip(xs, ys, strict=True))) < fewest:
        return None
    return kind, numbers, desc, 0


def object_fields(
    item: object, where: str, image_count: int | None, sizes: tuple[tuple[int, int], ...] | None
) -> ObjectFields:
    """The checked fields of any object; raises RecordError with the field below ``where`` that is wrong."""
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected an object with a geometry and a desc", field=where)
    if not _OBJECT_KEYS.issuperset(item):
        raise unknown_key(next(key for key in item if key not in _OBJECT_KEYS), OBJECT_KEYS, where)
    kind, numbers = read_geometry(item, where)
    if kind == "bbox_2d":
        x1, y1, x2, y2 = numbers
    else:
        xs, ys = numbers[::2], numbers[1::2]
        x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
        spread = kind == "line" and (x1 < x2 or y1 < y2)  # is two points at least, without counting
        if not spread and (distinct := len(set(zip(xs, ys, strict=True)))) < FEWEST_DISTINCT[kind]:
            message = f"has only {distinct} distinct points; expected at least {FEWEST_DISTINCT[kind]}"
            raise RecordError(message, field=f"{where}.{kind}", code="shape-flat")
    if "desc" not in item:
        raise RecordError("is missing; expected a description of the object", field=f"{where}.desc", code="desc-empty")
    desc = item["desc"]
    if not _is_one_line(desc):
        raise _not_one_line(desc, f"{where}.desc")
    image = read_image_index(item, where, image_count) if "image" in item else 0
    fields = (kind, numbers, desc, image)
    if sizes:
        width, height = sizes[image]
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            _check_frame(as_annotation(fields).shape, sizes[image], f"{where}.{kind}")
    return fields


def _check_frame(shape: Shape, size_wh: tuple[int, int], field_name: str) -> None:
    """Refuse a shape that has no part inside the frame; what leaves it only partly is clipped later."""
    width, height = size_wh
    if not clip_shape(shape, width, height):
        x1, y1, x2, y2 = shape.bounds
        found = f"lies outside the {width} x {height} image (it spans {x1:g}, {y1:g} to {x2:g}, {y2:g})"
        message = f"{found}; expected pixels of the stored image after EXIF orientation"
        raise RecordError(message, field=field_name, code="shape-outside")


def _is_one_line(value: object) -> bool:
    return isinstance(value, str) and not value.isspace() and value.splitlines() == [value]


def _not_one_line(value: object, field_name: str) -> RecordError:
    if not isinstance(value, str):
        return RecordError(f"is {describe(value)}; expected one line of text", field=field_name)
    code = f"{field_name.rpartition('.')[2]}-empty"
    if not value.strip():
        return RecordError("is empty; expected one line of text", field=field_name, code=code)
    return RecordError(f"has a line break ({value[:40]!r}); expected one line of text", field=field_name)


def _summary(raw: Mapping[str, Any]) -> str | None:
    value = raw.get("summary")
    if value is not None and not _is_one_line(value):
        raise _not_one_line(value, "summary")
    return value


def _metadata(raw: Mapping[str, Any]) -> dict[str, Any]:
    metadata = raw.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RecordError(f"is {describe(metadata)}; expected an object", field="metadata")
    return metadata or {}
