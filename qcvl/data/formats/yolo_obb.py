"""YOLO labels: oriented boxes (YOLO-OBB), plain boxes and segments, one text file a photo.

A line is ``class x1 y1 x2 y2 x3 y3 x4 y4`` (a quad), ``class cx cy width height`` (a box) or ``class x1 y1 …`` with
another number of corners (a polygon), all in shares of the photo's sides, 0 to 1 from edge to edge: times width and
height they are a record's pixels. So each photo's header is read. A photo without a label file shows no object.

The data set is a ``data.yaml`` (or the folder that holds it) with ``names`` and the folders or lists ``train`` and
``val``; or a folder with ``classes.txt`` and ``images/``. Labels lie in ``labels/`` as the photos in ``images/``.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from qcvl.data.entries import Entry, read_lines, read_text
from qcvl.data.reading import (
    PHOTO_SUFFIXES,
    Item,
    Notice,
    Photos,
    Size,
    Split,
    annotation,
    each,
    photo_record,
    photo_size,
    polygon,
)
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

_ROUND = 9  # digits of a pixel: 0.3 * 1280 is 384, not 383.99999999999994


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of a split in the order of their names, or of the list that names them."""
    names, files = _data_set(path, split, root)
    read: set[Path] = set()

    def photo(named: tuple[Path, Entry]) -> Iterator[Record | Notice]:
        file, entry = named
        labels, size = _label_file(file), photo_size(file, entry)
        if entry.line is None:  # the photos of a folder, not those of a list
            read.add(labels)
        lines = read_lines(labels) if labels.is_file() else ()
        found = [_object(line, names, size) for line in lines]
        yield from photo_record(file, found, Entry(None, labels if labels.is_file() else file), size=size)

    yield from each(files, photo)
    for folder in sorted({labels.parent for labels in read if f"{os.sep}labels{os.sep}" in str(labels)}):
        for labels in sorted(set(folder.glob("*.txt")) - read):
            yield Notice("label file without a photo", str(labels))


def _object(line: Entry, names: dict[int, str], size: Size) -> Annotation | Notice:
    fields = line.fields()
    number, values = fields[0].whole(least=0), fields.numbers()[1:]
    if number not in names:
        raise line.error(f"has class {number}; expected one of {min(names)}..{max(names)}, see names")
    if len(values) == 4:
        cx, cy, width, height = values
        pairs = [[cx - width / 2, cy - height / 2], [cx + width / 2, cy + height / 2]]
        return annotation("bbox_2d", _pixels(pairs, size), names[number], line, size)
    if len(values) < 6 or len(values) % 2:
        expected = "4 (cx cy width height), 8 (four corners) or 6, 10, 12, … (a polygon's)"
        raise line.error(f"has {len(values)} numbers behind its class; expected {expected}")
    pairs = [list(pair) for pair in zip(values[::2], values[1::2], strict=True)]
    return polygon(_pixels(pairs, size), names[number], line, size)


def _pixels(pairs: list[list[float]], size: Size) -> list[list[float]]:
    return [[round(share * side, _ROUND) for share, side in zip(pair, size, strict=True)] for pair in pairs]


def _label_file(photo: Path) -> Path:
    """``…/labels/a.txt`` of ``…/images/a.jpg``; beside the photo where no folder is called images."""
    head, images, tail = str(photo.with_suffix(".txt")).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}") if images else photo.with_suffix(".txt")


def _data_set(path: Path, split: Split, root: Path | None) -> tuple[dict[int, str], list[tuple[Path, Entry]]]:
    """Class names by number, and each photo of the split with where it was listed."""
    if path.is_dir() and not (path / "data.yaml").is_file():
        classes = path / "classes.txt"
        if not classes.is_file():
            raise DataError(f"{path} has neither data.yaml nor classes.txt; one of them names the classes")
        names = {index: line.value.strip() for index, line in enumerate(read_lines(classes))}
        return names, _listed((root or path) / "images", Entry(None, path))
    file = path / "data.yaml" if path.is_dir() else path
    try:
        top = Entry(yaml.safe_load(read_text(file)), file)
    except yaml.YAMLError as error:
        raise RecordError(f"is not valid YAML ({error})", path=file) from None
    base = root or _inside(file.parent, top.get("path"))
    given = top[split]
    folders = list(given) if isinstance(given.value, list) else [given]
    return _names(top["names"]), [item for folder in folders for item in _listed(_inside(base, folder), folder)]


def _names(entry: Entry) -> dict[int, str]:
    """Class names from a list, or from a mapping of numbers."""
    given = entry.value if isinstance(entry.value, dict) else dict(enumerate(item.value for item in entry))
    if not given or not all(type(number) is int for number in given):
        raise entry.error("has no names by number; expected a list of names, or {0: name, 1: name}")
    return {number: str(name) for number, name in given.items()}


def _inside(base: Path, entry: Entry | None) -> Path:
    """The folder an entry names below ``base``; ``../`` in front is left out, as downloads have it where there is none.

    Raises:
        RecordError: for an absolute path elsewhere.
    """
    if entry is None:
        return base
    name = entry.text()
    path, top = os.path.normpath(os.path.join(os.path.abspath(base), name)), os.path.abspath(base)
    if os.path.isabs(name) and not Path(path).is_relative_to(top):
        raise entry.error(f"is {name!r}, outside {base}; root={name} says that the photos may be read from there")
    return Path(path) if Path(path).is_relative_to(top) else Path(top, *[p for p in Path(name).parts if p != ".."])


def _listed(place: Path, entry: Entry) -> list[tuple[Path, Entry]]:
    """The photos of a folder, or of a text file that lists them a line each, relative to its own folder."""
    if place.suffix == ".txt":
        photos = Photos(place.parent)
        return [(photos.find(line.value.strip(), line), line) for line in read_lines(place)]
    if not place.is_dir():
        raise entry.error(f"names {place}, which is no folder; expected the photos of this split")
    return [(file, entry) for file in sorted(place.rglob("*")) if file.suffix.lower() in PHOTO_SUFFIXES]
