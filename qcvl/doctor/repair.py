"""What of a broken line can be put right without guessing, on its JSON; the file itself is never touched.

Boxes with exchanged corners, boxes that reach over the frame, objects listed twice, blanks around texts, wrong point
counts, and a size that the photo's header contradicts while all objects fit the real one. A line that is still wrong
afterwards is left out of the copy: dropping the object alone would teach that it is not there.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson

from qcvl.errors import RecordError
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.shapes import Shape
from qcvl.schema.lines import as_annotation
from qcvl.schema.objects import COUNT_KEYS, read_geometry
from qcvl.schema.records import Record
from qcvl.schema.types import URLS

Size = tuple[int, int]
Repair = tuple[str, str]  # field, what was done
SizeOf = Callable[[str], tuple[Size | None, bool]]  # an absolute path's photo: its size, and whether EXIF turned it


def mend(text: bytes, folder: Path, size_of: SizeOf) -> tuple[bytes | None, list[Repair]]:
    """The line with all that can be put right, its image paths absolute, and what was done; None where it is no JSON.

    Args:
        text: one line of a file in ``folder``.
        folder: what its image paths are relative to.
        size_of: what is known of a photo.
    """
    raw = _object(text)
    if raw is None:
        return None, []
    objects = raw["objects"] if isinstance(raw.get("objects"), list) else []
    repairs: list[Repair] = []
    for index, item in enumerate(objects):
        if isinstance(item, dict):
            repairs += _mend_object(item, f"objects[{index}]")
    if isinstance(raw.get("summary"), str) and raw["summary"].strip() != raw["summary"]:
        raw["summary"] = raw["summary"].strip()
        repairs.append(("summary", "blanks around it were removed"))
    if isinstance(raw.get("images"), list):
        raw["images"] = [_absolute(image, folder) for image in raw["images"]]
        looked = [size_of(image) if isinstance(image, str) else (None, False) for image in raw["images"]]
        sizes = [size for size, _ in looked if size is not None]
        if sizes and len(sizes) == len(looked):
            repairs += _mend_size(raw, objects, sizes, [turned for _, turned in looked])
            repairs += _clip_boxes(objects, sizes)
    if objects:
        raw["objects"], dropped = _without_copies(objects)
        repairs += dropped
    try:
        return orjson.dumps(raw), repairs
    except orjson.JSONEncodeError:  # nested deeper than it writes, though not deeper than it reads
        return None, []


def offender(text: bytes, path: Path | None, line: int, index: int) -> Record | None:
    """A broken line as a record of one object, to be drawn: its size left out, a box's corners put in order."""
    raw = _object(text)
    try:
        item = raw["objects"][index] if raw else None
        images = raw["images"] if raw else None
        if not isinstance(item, dict) or not isinstance(images, list) or not all(isinstance(i, str) for i in images):
            return None
        _mend_object(item, "")
        kind, numbers = read_geometry(item, "")
        image = item.get("image", 0)
        if type(image) is not int or not 0 <= image < len(images):
            return None
    except (RecordError, LookupError, TypeError):
        return None
    note = as_annotation((kind, numbers, str(item.get("desc", "")), image))
    return Record(images=tuple(images), annotations=(note,), path=path, line=line)


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        raw = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return raw if isinstance(raw, dict) else None


def _absolute(image: Any, folder: Path) -> Any:
    if not isinstance(image, str) or image.startswith(URLS):
        return image
    return os.path.abspath(os.path.join(folder, image))


def _mend_object(item: dict[str, Any], where: str) -> list[Repair]:
    """Put one object right as far as it needs no photo."""
    repairs = []
    desc = item.get("desc")
    if isinstance(desc, str) and desc.strip() and desc.strip() != desc:
        item["desc"] = desc.strip()
        repairs.append((f"{where}.desc", "blanks around it were removed"))
    for kind, key in COUNT_KEYS.items():
        if key not in item:
            continue
        count = _point_count(item.get(kind))
        if count is None and kind not in item:
            del item[key]
            repairs.append((f"{where}.{key}", f"was removed: it belongs to {kind} only"))
        elif count is not None and (type(item[key]) is not int or item[key] != count):
            item[key] = count
            repairs.append((f"{where}.{key}", f"is now {count}, the number of points"))
    box = _flat(item.get("bbox_2d"))
    if box is not None and len(box) == 4 and (box[0] > box[2] or box[1] > box[3]):
        item["bbox_2d"] = [min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])]
        repairs.append((f"{where}.bbox_2d", f"{box} is now {item['bbox_2d']}: its corners were exchanged"))
    return repairs


def _mend_size(
    raw: dict[str, Any], objects: Sequence[Any], sizes: Sequence[Size], turned: Sequence[bool]
) -> list[Repair]:
    """Correct a stated size the headers contradict, unless it is that before EXIF orientation or an object is outside.

    Objects of a photo whose size is given as it was before it was turned were probably measured before, too.
    """
    if raw.get("width") is None and raw.get("height") is None:
        return []
    stated = [_stated(raw, index, len(sizes)) for index in range(len(sizes))]
    if stated == list(sizes):
        return []
    for old, size, was_turned in zip(stated, sizes, turned, strict=True):
        if was_turned and old == size[::-1]:
            return []
    if not all(_fits(item, sizes) for item in objects if isinstance(item, dict)):
        return []
    one = len(sizes) == 1
    raw["width"], raw["height"] = ([size[axis] for size in sizes] if not one else sizes[0][axis] for axis in (0, 1))
    return [("width, height", f"say {' and '.join(f'{width}x{height}' for width, height in sizes)} now, as the photo")]


def _clip_boxes(objects: list[Any], sizes: Sequence[Size]) -> list[Repair]:
    repairs = []
    for index, item in enumerate(objects):
        shape = _shape(item)
        image = item.get("image", 0) if isinstance(item, dict) else 0
        if shape is None or shape.kind != "bbox_2d" or type(image) is not int or not 0 <= image < len(sizes):
            continue
        inside = clip_shape(shape, *sizes[image])
        if inside and inside[0] is not shape:
            item["bbox_2d"] = [int(v) if v.is_integer() else v for v in inside[0].points.ravel().tolist()]
            repairs.append((f"objects[{index}].bbox_2d", f"was clipped to the frame: {item['bbox_2d']}"))
    return repairs


def _without_copies(objects: list[Any]) -> tuple[list[Any], list[Repair]]:
    """Objects without those that repeat an earlier one's geometry, desc and image exactly."""
    kept: list[Any] = []
    repairs: list[Repair] = []
    seen: dict[str, int] = {}
    for index, item in enumerate(objects):
        shape = _shape(item)
        key = repr((shape.kind, shape.points.tolist(), item.get("desc"), item.get("image", 0))) if shape else str(index)
        first = seen.setdefault(key, index)
        if first == index:
            kept.append(item)
        else:
            repairs.append((f"objects[{index}]", f"was removed: it repeats objects[{first}]"))
    return kept, repairs


def _shape(item: Any) -> Shape | None:
    if not isinstance(item, dict):
        return None
    try:
        kind, numbers = read_geometry(item, "")
    except RecordError:
        return None
    return as_annotation((kind, numbers, "", 0)).shape


def _fits(item: dict[str, Any], sizes: Sequence[Size]) -> bool:
    """True when an object that can be read lies in its photo whole."""
    shape, image = _shape(item), item.get("image", 0)
    if shape is None or type(image) is not int or not 0 <= image < len(sizes):
        return False
    x1, y1, x2, y2 = shape.bounds
    return x1 >= 0 and y1 >= 0 and x2 <= sizes[image][0] and y2 <= sizes[image][1]


def _stated(raw: dict[str, Any], index: int, count: int) -> tuple[Any, Any]:
    sides = []
    for key in ("width", "height"):
        value = raw.get(key)
        sides.append(value[index] if isinstance(value, list) and len(value) == count else value)
    return sides[0], sides[1]


def _flat(value: Any) -> list[float] | None:
    """Flat numbers of a geometry's value; None where it holds anything else."""
    if not isinstance(value, list):
        return None
    pairs = bool(value) and all(isinstance(point, list) for point in value)
    flat = [number for point in value for number in point] if pairs else value
    return flat if all(type(number) in (int, float) for number in flat) else None


def _point_count(value: Any) -> int | None:
    numbers = _flat(value)
    return None if numbers is None or len(numbers) % 2 else len(numbers) // 2
