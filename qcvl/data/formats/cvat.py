"""CVAT for images 1.1: ``annotations.xml``.

Coordinates are pixels from the photo's top left edge to its width and height, the continuous edges of a record. A
``box`` is a box, or with ``rotation`` (degrees clockwise about its centre) a quad from its top left corner on; a
``polygon`` a quad or polygon, a ``polyline`` a line; other shapes are left out by name. A description is the label and
its attributes: ``cable/colour:red``. Tags of a photo and its subset are metadata.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from qcvl.data.entries import Entry
from qcvl.data.reading import (
    Item,
    Notice,
    Photos,
    Size,
    Split,
    annotation,
    each,
    photo_record,
    polygon,
    with_attributes,
)
from qcvl.errors import RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

FILE = "annotations.xml"


@dataclass
class Element:
    """One element of an XML file, its attributes as an entry that knows the line."""

    tag: str
    entry: Entry
    children: list["Element"] = field(default_factory=list)
    text: str = ""


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of an export (``annotations.xml`` or its folder) in its order.

    Photos are looked for below ``root``, else in ``images/`` beside the file, else beside it.
    """
    file = path / FILE if path.is_dir() else path
    top = read_xml(file)
    if top.tag != "annotations":
        raise top.entry.error(f"is <{top.tag}>; expected <annotations>, an export as CVAT for images 1.1")
    beside = file.parent / "images"
    photos = Photos(root or (beside if beside.is_dir() else file.parent))
    yield from each(top.children, lambda child: _child(child, photos))


def _child(child: Element, photos: Photos) -> Iterator[Record | Notice]:
    if child.tag == "track":
        raise child.entry.error("is a track of CVAT for video; export the task as CVAT for images 1.1")
    if child.tag == "image":
        yield from _photo(child, photos)


def _photo(image: Element, photos: Photos) -> Iterator[Record | Notice]:
    entry = image.entry
    size = (entry["width"].whole(), entry["height"].whole())
    name, subset = entry["name"].text(), entry.get("subset")
    metadata: dict[str, object] = {}
    if tags := [child.entry["label"].text() for child in image.children if child.tag == "tag"]:
        metadata["tags"] = tags
    if subset is not None:
        metadata["subset"] = subset.text()
        name = f"{subset.value}/{name}"  # a project's export has a folder for each subset, a task's has none
    file = photos.find(name, entry["name"])
    found = (item for child in image.children if child.tag != "tag" for item in _object(child, size))
    yield from photo_record(file, found, entry, size=size, metadata=metadata)


def _object(shape: Element, size: Size) -> Iterator[Annotation | Notice]:
    entry = shape.entry
    attributes = {
        child.entry["name"].text(): child.text.strip() for child in shape.children if child.tag == "attribute"
    }
    desc = with_attributes(entry["label"].text(), attributes)
    for key in ("occluded", "group_id"):
        if entry.value.get(key, "0") != "0":
            yield Notice(f"{key} of a shape", entry.where)
    match shape.tag:
        case "box":
            yield _box(entry, desc, size)
        case "polygon":
            yield polygon(_points(entry), desc, entry, size)
        case "polyline":
            yield annotation("line", _points(entry), desc, entry, size)
        case other:
            yield Notice(f"shape of type {other}", entry.where)


def _box(entry: Entry, desc: str, size: Size) -> Annotation | Notice:
    x1, y1, x2, y2 = (entry[key].number() for key in ("xtl", "ytl", "xbr", "ybr"))
    if x1 > x2 or y1 > y2:
        raise entry.error(f"has corners {x1:g}, {y1:g} and {x2:g}, {y2:g}; expected xtl <= xbr and ytl <= ybr")
    turn = entry.get("rotation")
    if turn is None or turn.number() % 360 == 0:
        return annotation("bbox_2d", [[x1, y1], [x2, y2]], desc, entry, size)
    angle = math.radians(turn.number())
    cos, sin, cx, cy = math.cos(angle), math.sin(angle), (x1 + x2) / 2, (y1 + y2) / 2
    corners = [(x - cx, y - cy) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    turned = [[cx + cos * x - sin * y, cy + sin * x + cos * y] for x, y in corners]
    return annotation("quad", turned, desc, entry, size)


def _points(entry: Entry) -> list[list[float]]:
    """The points of ``x,y;x,y;…``."""
    return [pair.fields(",").numbers(2) for pair in entry["points"].fields(";")]


def read_xml(path: Path) -> Element:
    """A whole XML file; document types, and with them entities, are refused.

    Raises:
        RecordError: when it is missing, not well-formed or declares a document type, with the line.
    """
    parser = expat.ParserCreate()
    root = Element("", Entry({}, path))
    stack = [root]

    def start(tag: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        element = Element(tag, Entry(attributes, path, line, key=f"<{tag}>"))
        stack[-1].children.append(element)
        stack.append(element)

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*_: object) -> None:
        found = "declares a document type; CVAT writes none, and entities are not expanded"
        raise RecordError(found, path=path, line=parser.CurrentLineNumber)

    parser.StartElementHandler, parser.EndElementHandler = start, lambda _: stack.pop()
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        found = f"is not well-formed XML ({expat.ErrorString(error.code)} at column {error.offset})"
        raise RecordError(f"{found}; export the task again", path=path, line=error.lineno) from None
    except OSError as error:
        raise RecordError(f"cannot be read ({error.strerror}); give an existing file", path=path) from None
    return root.children[0]
