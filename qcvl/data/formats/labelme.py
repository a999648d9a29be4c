"""LabelMe JSON, one file a photo, both ways.

Points are pixels of the photo as LabelMe shows it, after EXIF orientation, and a click on its right edge is the photo's
width: the continuous edges of a record. ``rectangle`` (two corners, any two) is a box, ``polygon`` and
``oriented_rectangle`` a quad or polygon, ``linestrip`` and ``line`` a line; other types are left out by name. A
description is the label, then the shape's own ``description`` and the flags that are set: ``plug, loose``.
"""

import base64
import json
import mimetypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qcvl.data.entries import Entry
from qcvl.data.images import image_size
from qcvl.data.reading import Item, Notice, Photos, Size, Split, annotation, each, file_name, photo_record, polygon
from qcvl.errors import DataError
from qcvl.geometry.shapes import Kind
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

VERSION = "5.5.0"  # of the files written
_TYPES: dict[Kind, str] = {"bbox_2d": "rectangle", "quad": "polygon", "poly": "polygon", "line": "linestrip"}


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of one file or of all ``*.json`` files below a folder, by name.

    A photo that is not found is taken from the file's own ``imageData`` where there is one.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} has no *.json file; expected a folder of LabelMe files")
    yield from each(files, lambda file: _read_file(Entry.of_json(file), root))


def _read_file(top: Entry, root: Path | None) -> Iterator[Record | Notice]:
    shapes, name = top["shapes"], top["imagePath"]
    size = (top["imageWidth"].whole(), top["imageHeight"].whole()) if top.get("imageWidth") else None
    image: Path | str = Photos(root or top.path.parent).find(name.text(), name)
    data = top.get("imageData")
    if data is not None and not os.path.isfile(image):
        kind = mimetypes.guess_type(name.value)[0] or "image/jpeg"
        image = f"data:{kind};base64,{data.text()}"
    found = (item for shape in shapes for item in _object(shape, size))
    metadata, flags, summary = top.get("metadata"), top.get("flags"), top.get("summary")
    known = {} if metadata is None else dict(metadata.mapping())
    if flags is not None and flags.mapping():
        known["flags"] = flags.value
    yield from photo_record(
        image, found, top, size=size, metadata=known, summary=summary.text() if summary is not None else None
    )


def _object(shape: Entry, size: Size | None) -> Iterator[Annotation | Notice]:
    kind = shape.get("shape_type")
    points = [pair.numbers(2) for pair in shape["points"]]
    desc = ", ".join([shape["label"].text(), *_additions(shape)])
    if shape.get("group_id") is not None:
        yield Notice("group_id of a shape", shape.where)
    match kind.value if kind is not None else "polygon":  # the type is absent in the oldest files
        case "rectangle":
            if len(points) != 2:
                raise shape["points"].error(f"has {len(points)} points; a rectangle needs 2 corners")
            corners = [[low(a, b) for a, b in zip(*points, strict=True)] for low in (min, max)]
            yield annotation("bbox_2d", corners, desc, shape, size)
        case "polygon" | "oriented_rectangle":
            yield polygon(points, desc, shape, size)
        case "linestrip" | "line":
            yield annotation("line", points, desc, shape, size)
        case other:
            yield Notice(f"shape of type {other}", shape.where)


def _additions(shape: Entry) -> Iterator[str]:
    description, flags = shape.get("description"), shape.get("flags")
    if description is not None and description.value != "":
        yield description.text()
    if flags is not None:
        yield from (str(flag) for flag, is_set in flags.mapping().items() if is_set)


def write(records: Sequence[Record], output: Path) -> list[Notice]:
    """Write a folder with one file a photo, named after it; summary and metadata are keys LabelMe keeps as they are."""
    output.mkdir()
    notices: list[Notice] = []
    taken: set[str] = set()
    for record in records:
        if len(record.images) > 1:
            notices.append(Notice("that several photos are one record", record.where))
        if not record.annotated:
            notices.append(Notice("that nobody labelled the photo", record.where))
        for index, image in enumerate(record.images):
            top = _photo_keys(record, index, image, output)
            top["shapes"] = [_shape(note) for note in record.annotations if note.image == index]
            notices += [
                Notice(
                    "polygon of 4 points, which LabelMe cannot tell from a quad", f"{record.where}: objects[{place}]"
                )
                for place, note in enumerate(record.annotations)
                if note.image == index and note.shape.kind == "poly" and len(note.shape.points) == 4
            ]
            (output / _free_name(top["imagePath"], taken)).write_text(
                json.dumps(top, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
            )
    return notices


def _photo_keys(record: Record, index: int, image: Any, output: Path) -> dict[str, Any]:
    data = None
    if isinstance(image, str) and image.startswith("data:"):
        head, _, data = image.partition(",")
        suffix = mimetypes.guess_extension(head[5:].partition(";")[0]) or ".jpg"
        name, size = f"photo{suffix}", base64.b64decode(data)
    else:
        name, size = file_name(image, output), image
    width, height = record.sizes[index] if record.sizes else image_size(size, f"{record.where}: image")
    top = {"version": VERSION, "flags": record.metadata.get("flags", {}), "shapes": [], "imagePath": name}
    top |= {"imageData": data, "imageHeight": height, "imageWidth": width}
    if record.summary is not None:
        top["summary"] = record.summary
    if rest := {key: value for key, value in record.metadata.items() if key != "flags"}:
        top["metadata"] = rest
    return top


def _free_name(photo: str, taken: set[str]) -> str:
    """``board.json`` for ``board.png``, and ``board_2.json`` where that is taken."""
    stem, number = Path(photo).stem, 1
    name = f"{stem}.json"
    while name in taken:
        number += 1
        name = f"{stem}_{number}.json"
    taken.add(name)
    return name


def _shape(note: Annotation) -> dict[str, Any]:
    points = [[float(x), float(y)] for x, y in note.shape.points]
    shape = {"label": note.desc, "points": points, "group_id": None, "description": ""}
    return {**shape, "shape_type": _TYPES[note.shape.kind], "flags": {}, "mask": None}
