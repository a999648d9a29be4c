"""What the readers and writers of ``qcvl.data.formats`` are, and what they share.

A format is a module there. ``to_records(path, split, root)`` reads a data set as a stream of Records, Notices and, in
the place of what is wrong, RecordErrors (see ``each``), so that one look finds them all;
``write(records, output)`` writes one and returns the Notices of what it could not write. A format of conversations has
``write_chats(records, output)`` instead, which gets chat records (see ``data.conversation``). Any may be absent.

    path    the file or folder the user named
    split   train or val, for a data set that lists its own splits
    root    the folder of the photos, or None for where the format itself says they are

Paths of photos are absolute in the records of a reader. A writer names photos below the folder of its output relative
to it (``file_name``). Points are kept as the source gives them, their order included: the canonical form is made when
an answer is written, and not there where a source keeps the order of its corners.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Literal, TypeVar

from qcvl.data import formats
from qcvl.data.entries import Entry
from qcvl.data.images import image_size
from qcvl.errors import ConfigError, DataError, QcvlError, RecordError
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.shapes import Kind, Shape, as_points
from qcvl.schema.lines import FEWEST_DISTINCT
from qcvl.schema.records import Record
from qcvl.schema.types import URLS, Annotation
from qcvl.schema.videos import Video

Split = Literal["train", "val"]
Size = tuple[int, int]  # (width, height)
LISTED = 20  # problems of a data set that one error names
T = TypeVar("T")
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".avif")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a conversion left out or changed: why, and where it stood."""

    reason: str
    where: str


Item = Record | Notice | RecordError
Reader = Callable[[Path, Split, Path | None], Iterator[Item]]
Writer = Callable[[Sequence[Record], Path], list[Notice]]


def known_formats(*functions: Literal["to_records", "write", "write_chats"]) -> list[str]:
    """Names of the formats that have one of these functions."""
    names = sorted(module.name for module in iter_modules(formats.__path__))
    return [name for name in names if any(hasattr(_module(name), function) for function in functions)]


def find_reader(name: str) -> Reader:
    """``to_records`` of a format; raises ConfigError with the known ones."""
    if name not in (known := known_formats("to_records")):
        raise ConfigError(f"format: {name} is unknown; expected {', '.join(known)} or the dotted path of a reader")
    return _module(name).to_records


def find_writer(name: str) -> tuple[Writer, bool]:
    """The writer of a format, and whether it writes chat records; raises ConfigError with the known ones."""
    if name not in (known := known_formats("write", "write_chats")):
        raise ConfigError(f"to: {name} is unknown; expected {', '.join(known)}")
    module = _module(name)
    chats = hasattr(module, "write_chats")
    return (module.write_chats if chats else module.write), chats


def _module(name: str) -> ModuleType:
    return import_module(f"{formats.__name__}.{name}")


def each(entries: Iterable[T], read: Callable[[T], Iterator[Record | Notice]]) -> Iterator[Item]:
    """What ``read`` makes of each entry; where it refuses one, its refusal, and on with the next."""
    for entry in entries:
        try:
            yield from read(entry)
        except RecordError as problem:
            yield problem


def told_apart(stream: Iterable[Item]) -> tuple[list[Record], list[Notice]]:
    """The records of a reader, and what it had to say.

    Raises:
        RecordError: for the one thing that is wrong.
        DataError: for several, the first ``LISTED`` of them one a line.
    """
    records: list[Record] = []
    notices: list[Notice] = []
    problems: list[RecordError] = []
    try:
        for item in stream:
            if isinstance(item, Notice):
                notices.append(item)
            elif isinstance(item, RecordError):
                problems.append(item)
            else:
                records.append(item)
    except RecordError as problem:  # where nothing can be read on
        problems.append(problem)
    if len(problems) > 1:
        raise DataError(listed(problems))
    if problems:
        raise problems[0]
    return records, notices


def listed(problems: Sequence[QcvlError]) -> str:
    """Problems one a line, and how many more there are."""
    rest = len(problems) - LISTED
    more = [f"and {rest:,} more problems; python -m qcvl.check lists all of them"] if rest > 0 else []
    return "\n".join([*map(str, problems[:LISTED]), *more])


def summarize(notices: Iterable[Notice]) -> list[str]:
    """One line a reason, the most frequent first: ``37 x marked ignore, first gt_img_1.txt:3``."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for notice in notices:
        first.setdefault(notice.reason, notice.where)
        counts[notice.reason] += 1
    return [f"{count:,} x {reason}, first {first[reason]}" for reason, count in counts.most_common()]


@dataclass(frozen=True)
class Photos:
    r"""Finds the photos a file names below ``base``, and nowhere else.

    Data sets move and their names of photos stay (``C:\old\images\a.jpg``, ``../images/a.jpg``), so the longest end
    of a name that exists below ``base`` is taken. Two names that lead to one photo are an error.
    """

    base: Path
    _names: dict[Path, str] = field(default_factory=dict, repr=False)

    def find(self, name: str, entry: Entry) -> Path:
        """The absolute path of a photo; that of its whole name below ``base`` where no file is found."""
        base = Path(os.path.abspath(self.base))
        name = name.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts:
            raise entry.error(f"is {name!r}; expected the name of a photo")
        whole = Path(os.path.normpath(name))
        if not (whole.is_absolute() and whole.is_relative_to(base)):
            whole = base.joinpath(*parts)
        tails = (base.joinpath(*parts[start:]) for start in range(len(parts)))
        path = next((tail for tail in (whole, *tails) if os.path.isfile(tail)), whole)
        other = self._names.setdefault(path, name)
        if os.path.normpath(other) != os.path.normpath(name):
            raise entry.error(f"is {name!r} and leads to {path}, as {other!r} does; name the folder above both as root")
        return path


def photo_size(path: Path | str, entry: Entry) -> Size:
    """``(width, height)`` from a photo's header, for formats whose coordinates are shares of it."""
    try:
        return image_size(path, "its photo")
    except DataError as error:
        raise entry.error(f"needs a size: {error}; root=FOLDER names another folder") from error


def photos_by_stem(folder: Path) -> dict[str, Path]:
    """The photos of a folder by name without suffix; raises DataError for two of one stem."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected the folder of the photos")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in PHOTO_SUFFIXES:
            if path.stem in found:
                raise DataError(f"{path} and {found[path.stem].name} go with the same labels; keep one of them")
            found[path.stem] = Path(os.path.abspath(path))
    return found


def annotation(
    kind: Kind, points: Sequence[Sequence[float]], desc: str, entry: Entry, size: Size | None = None
) -> Annotation | Notice:
    """One object of a photo of ``size`` as the record contract has it, or the notice of why it can be none."""
    if kind == "bbox_2d" and not all(low < high for low, high in zip(*points, strict=True)):
        return Notice("box without area", entry.where)
    if len({(x, y) for x, y in points}) < FEWEST_DISTINCT[kind]:
        return Notice(f"{kind} of fewer than {FEWEST_DISTINCT[kind]} distinct points", entry.where)
    shape = Shape(kind, as_points(points))
    if size and not all(0 <= x <= size[0] and 0 <= y <= size[1] for x, y in points) and not clip_shape(shape, *size):
        return Notice("object wholly outside its photo", entry.where)
    if not desc.strip():
        raise entry.error("has an empty label; expected what the object is")
    return Annotation(shape, one_line(desc))


def polygon(
    points: Sequence[Sequence[float]], desc: str, entry: Entry, size: Size | None = None
) -> Annotation | Notice:
    """A closed outline: a quad where it has four corners, else a polygon."""
    if len(points) < 3:
        return Notice("polygon of fewer than 3 points", entry.where)
    return annotation("quad" if len(points) == 4 else "poly", points, desc, entry, size)


def one_line(text: str) -> str:
    """The text with its line breaks, if any, as blanks."""
    return text if text.splitlines() == [text] else " ".join(text.split())


def with_attributes(label: str, attributes: Mapping[str, str]) -> str:
    """A label and named attributes as one description: ``cable/colour:red,state:bent``."""
    listed = ",".join(f"{name}:{value}" for name, value in attributes.items() if value.strip())
    return f"{label}/{listed}" if listed else label


def photo_record(
    image: Path | str,
    found: Iterable[Annotation | Notice],
    entry: Entry,
    *,
    size: Size | None = None,
    number: int | None = None,
    **fields: Any,
) -> Iterator[Record | Notice]:
    """The notices among ``found``, then the record of one photo with its annotations.

    A photo that is not there is said, not refused: ``qcvl.check`` names each. ``number`` is that of the entry in its
    file, where it has no line of its own.
    """
    kept = []
    for item in found:
        if isinstance(item, Notice):
            yield item
        else:
            kept.append(item)
    if isinstance(image, Path) and not os.path.isfile(image):
        yield Notice("photo not found (root=FOLDER names another folder)", f"{entry.where} ({image})")
    line = entry.line if entry.line is not None else number
    yield Record(
        images=(str(image),),
        annotations=tuple(kept),
        sizes=(size,) if size else (),
        path=entry.path,
        line=line,
        **fields,
    )


def file_name(image: Any, folder: Path) -> str:
    """An image as a file in ``folder`` names it: relative when it lies below, else as it is."""
    if not isinstance(image, str | Path):
        raise DataError(f"an image is {type(image).__name__} in memory; expected a path")
    path, below = Path(image), Path(os.path.abspath(folder))
    return path.relative_to(below).as_posix() if path.is_absolute() and path.is_relative_to(below) else str(image)


def located(record: Record, root: Path | None = None) -> Record:
    """The record with absolute paths of its media; relative ones are below ``root``, else below its file's folder."""
    folder = root or (record.path.parent if record.path else Path())
    images = tuple(_absolute(image, folder) for image in record.images)
    return replace(record, images=images, videos=renamed(record.videos, lambda name: _absolute(name, folder)))


def renamed(videos: Iterable[Video], name: Callable[[str], str]) -> tuple[Video, ...]:
    """Videos with other names of their files."""
    return tuple(
        replace(
            video,
            source=name(video.source) if isinstance(video.source, str) else tuple(name(path) for path in video.source),
        )
        for video in videos
    )


def _absolute(image: Any, folder: Path) -> Any:
    if not isinstance(image, str | Path) or str(image).startswith(URLS):
        return image
    return os.path.abspath(folder / image)
