"""DOTA: oriented objects in aerial photos, ``labelTxt/NAME.txt`` for a photo ``NAME.png``.

A line is ``x1 y1 x2 y2 x3 y3 x4 y4 category difficulty`` with corners in pixels from the photo's top left edge, kept as
they stand (a quad, even one that crosses itself); before them lines as ``imagesource:GoogleEarth`` and ``gsd:0.146``.
These and the difficulties, in the order of the objects, are the record's metadata.
"""

from collections.abc import Iterator
from pathlib import Path

from qcvl.data.entries import Entry, read_lines
from qcvl.data.reading import Item, Notice, Split, annotation, each, photo_record, photo_size, photos_by_stem
from qcvl.errors import DataError
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

HEADERS = ("imagesource", "gsd")


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of ``path`` or, where there is one, of its folder ``train`` or ``val``, by name."""
    folder = path / split if (path / split).is_dir() else path
    labels = next((place for place in (folder / "labelTxt", folder) if any(place.glob("*.txt"))), None)
    if labels is None:
        raise DataError(f"{folder} has no labelTxt folder with *.txt files; expected a DOTA folder")
    photos = photos_by_stem(root or _photo_folder(folder, labels))

    def photo(file: Path) -> Iterator[Record | Notice]:
        if file.stem in photos:
            yield from _read_file(file, photos[file.stem])
        elif any(_header(line) is None for line in read_lines(file)):
            where = root or _photo_folder(folder, labels)
            raise Entry(None, file).error(f"has no photo {file.stem}.* in {where}; root=FOLDER names another folder")
        else:
            yield Notice("label file without objects and without photo", str(file))

    yield from each(sorted(labels.glob("*.txt")), photo)


def _photo_folder(folder: Path, labels: Path) -> Path:
    """``images/`` beside the labels, else the folder above them, else their own."""
    if (folder / "images").is_dir():
        return folder / "images"
    return labels.parent if labels.name == "labelTxt" else labels


def _header(line: Entry) -> tuple[str, str] | None:
    """``("gsd", "0.146")`` for such a line, None for one of an object."""
    name, colon, value = line.value.partition(":")
    return (name.strip(), value.strip()) if colon and name.strip() in HEADERS else None


def _read_file(file: Path, photo: Path) -> Iterator[Record | Notice]:
    top = Entry(None, file)
    size = photo_size(photo, top)
    metadata: dict[str, object] = {}
    found: list[Annotation | Notice] = []
    difficulties = []
    for line in read_lines(file):
        if header := _header(line):
            metadata |= [header]
            continue
        fields = line.fields()
        if len(fields.value) not in (9, 10):
            expected = "8 coordinates, a category and a difficulty"
            raise line.error(f"has {len(fields.value)} fields ({line.value[:60]!r}); expected {expected}")
        corners = [fields[index].number() for index in range(8)]
        pairs = list(zip(corners[::2], corners[1::2], strict=True))
        found.append(annotation("quad", pairs, fields[8].text(), line, size))
        if isinstance(found[-1], Annotation):
            difficulties.append(fields[9].whole(least=0) if len(fields.value) == 10 else 0)
    if difficulties:
        metadata["difficulty"] = difficulties
    yield from photo_record(photo, found, top, size=size, metadata=metadata)
