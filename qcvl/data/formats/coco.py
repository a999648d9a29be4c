"""COCO object detection and instance segmentation JSON, both ways.

A box is ``[x, y, width, height]`` in pixels from the photo's top left edge, so ``x, y`` and ``x + width, y + height``
are the continuous edges of a record's box; polygons are flat ``x1, y1, …`` in the same pixels. An object with one
polygon gets the polygon (a quad where it has four corners), any other its box; a description is the category's name.
Summary and metadata are keys of an image that other tools pass over; further keys of an image are metadata as well.
COCO holds no lines, and a polygon that crosses itself has no mask.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shapely.geometry import Polygon

from qcvl.data.entries import Entry
from qcvl.data.images import image_size
from qcvl.data.reading import (
    Item,
    Notice,
    Photos,
    Size,
    Split,
    annotation,
    each,
    file_name,
    one_line,
    photo_record,
    polygon,
)
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

_KNOWN = {"id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "ignore", "score"}
_IMAGE = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url", "date_captured"}
_DIGITS = 9  # of a pixel: x + width is rounded, so that 0.1 and 0.2 make 0.3


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of an annotation file in its order; file names are below ``root``, else below the file's folder."""
    top = Entry.of_json(path)
    photos = Photos(root or path.parent)
    names = {key: category["name"].text() for key, category in _by_id(top["categories"]).items()}
    images = _by_id(top["images"])
    annotations = top["annotations"]
    places = _by_image(annotations, images)

    def photo(numbered: tuple[int, Any]) -> Iterator[Record | Notice]:
        number, key = numbered
        image = images[key]
        size = (image["width"].whole(), image["height"].whole())
        found = (item for place in places[key] for item in _object(annotations[place], names, size))
        file = photos.find(image["file_name"].text(), image["file_name"])
        yield from photo_record(file, found, image, size=size, number=number, **_about(image))

    yield from each(enumerate(images, 1), photo)


def _by_id(entries: Entry) -> dict[int | str, Entry]:
    found: dict[int | str, Entry] = {}
    for entry in entries:
        key = entry["id"]
        if not isinstance(key.value, int | str):
            raise key.error(f"is {key.value!r}; expected a whole number or text")
        if key.value in found:
            raise key.error(f"is {key.value!r}, as {found[key.value].field} has it; expected an id of its own")
        found[key.value] = entry
    return found


def _by_image(annotations: Entry, images: dict[int | str, Entry]) -> dict[int | str, list[int]]:
    """The places of each image's annotations in their list: of a million, no entry is made before it is needed."""
    places: dict[int | str, list[int]] = {key: [] for key in images}
    for place, value in enumerate(annotations.items()):
        key = value.get("image_id") if isinstance(value, dict) else None
        if not isinstance(key, int | str) or key not in places:
            image = annotations[place]["image_id"]
            raise image.error(f"is {image.value!r}, which no entry of images has; add that image or remove this")
        places[key].append(place)
    return places


def _about(image: Entry) -> dict[str, Any]:
    """Summary and metadata of a photo."""
    summary, metadata = image.get("summary"), image.get("metadata")
    known = {key: value for key, value in image.mapping().items() if key not in {*_IMAGE, "summary", "metadata"}}
    known |= {} if metadata is None else metadata.mapping()
    return {"summary": None if summary is None else one_line(summary.text()), "metadata": known}


def _object(entry: Entry, names: dict[int | str, str], size: Size) -> Iterator[Annotation | Notice]:
    for mark in ("iscrowd", "ignore"):
        if entry.marked(mark):
            yield Notice(f"object marked {mark}", entry.where)
            return
    for key in entry.mapping():
        if key not in _KNOWN and entry.marked(key):
            yield Notice(f"{key} of an object", entry.where)
    category = entry["category_id"]
    if not isinstance(category.value, int | str) or category.value not in names:
        raise category.error(f"is {category.value!r}; expected an id of categories: {', '.join(map(str, names))}")
    desc, parts = names[category.value], entry.get("segmentation")
    why = _no_polygon(parts) if parts is not None and parts.value else None
    if parts is not None and parts.value and not why:
        yield polygon(parts[0].pairs(), desc, entry, size)
        return
    if why:
        yield Notice(f"{why}; the object keeps its box", entry.where)
    x, y, width, height = entry["bbox"].numbers(4)
    if width < 0 or height < 0:
        raise entry["bbox"].error(f"has width {width:g} and height {height:g}; expected x, y, width, height")
    corners = [[x, y], [round(x + width, _DIGITS), round(y + height, _DIGITS)]]
    yield annotation("bbox_2d", corners, desc, entry, size)


def _no_polygon(parts: Entry) -> str | None:
    """Why a segmentation is not one polygon."""
    if isinstance(parts.value, dict):
        return "mask in run lengths"
    count = len(list(parts))
    if count > 1:
        return "mask of several polygons"
    return "polygon of fewer than 3 points" if isinstance(parts[0].value, list) and len(parts[0].value) < 6 else None


def write(records: Sequence[Record], output: Path) -> list[Notice]:
    """Write a COCO file; returns notices of lines, crossing outlines and what else COCO has no place for."""
    top: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    ids: dict[str, int] = defaultdict(lambda: len(ids) + 1)
    notices = []
    for record in records:
        notices += [Notice(f"{what}, which COCO has no place for", record.where) for what in _photo_wide(record)]
        for index, image in enumerate(record.images):
            if not isinstance(image, str | Path) or str(image).startswith("data:"):
                notices.append(Notice("photo inside its record; COCO names files", record.where))
                continue
            width, height = record.sizes[index] if record.sizes else image_size(image, f"{record.where}: image")
            number = len(top["images"]) + 1
            entry = {"id": number, "file_name": file_name(image, output.parent), "width": width, "height": height}
            entry |= {"summary": record.summary} if record.summary is not None else {}
            entry |= {"metadata": dict(record.metadata)} if record.metadata else {}
            top["images"].append(entry)
            for position, note in enumerate(record.annotations):
                if note.image != index:
                    continue
                if why := _unwritable(note):
                    notices.append(Notice(why, f"{record.where}: objects[{position}]"))
                if note.shape.kind != "line" and not _crosses(note):
                    row = {"id": len(top["annotations"]) + 1, "image_id": number, "category_id": ids[note.desc]}
                    top["annotations"].append({**row, **_geometry(note), "iscrowd": 0})
    top["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    output.write_text(json.dumps(top, ensure_ascii=False) + "\n", encoding="utf-8")
    return notices


def _photo_wide(record: Record) -> Iterator[str]:
    if not record.annotated:
        yield "that nobody labelled the photo"
    if len(record.images) > 1:
        yield "that several photos are one record"
    if record.messages:
        yield "messages"


def _unwritable(note: Annotation) -> str | None:
    """What of an object COCO cannot hold."""
    if note.shape.kind == "line":
        return "line, which COCO has no place for"
    if _crosses(note):
        return "outline that crosses itself, which has no mask"
    if note.shape.kind == "poly" and len(note.shape.points) == 4:
        return "polygon of 4 points, which COCO cannot tell from a quad"
    return None


def _crosses(note: Annotation) -> bool:
    return note.shape.kind in ("quad", "poly") and not Polygon(note.shape.points).is_valid


def _geometry(note: Annotation) -> dict[str, Any]:
    x1, y1, x2, y2 = note.shape.bounds
    box = [_plain(value) for value in (x1, y1, round(x2 - x1, _DIGITS), round(y2 - y1, _DIGITS))]
    if note.shape.kind == "bbox_2d":
        return {"bbox": box, "area": _plain(box[2] * box[3]), "segmentation": []}
    flat = [_plain(value) for value in note.shape.points.ravel()]
    return {"bbox": box, "area": float(Polygon(note.shape.points).area), "segmentation": [flat]}


def _plain(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)
