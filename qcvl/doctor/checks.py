"""What is wrong or odd in a data set, record by record. Imports no torch, so that it answers at once.

A problem stops training; a warning is worth a look. Both name file, line and field.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcvl.data.completeness import missing_parts, sampling_of
from qcvl.data.samples import load_photo, record_error
from qcvl.data.settings import JsonlSource, Sampling, Source
from qcvl.errors import RecordError
from qcvl.geometry.clip import clip_shape, is_inside
from qcvl.geometry.shapes import Points
from qcvl.schema.groups import group_of, label_of
from qcvl.schema.records import Record, iter_problems

Size = tuple[int, int]  # (width, height)
TAGS = re.compile(r"<(?:image|video|audio|bbox|ref-object)>|<\|\w+\|>")


@dataclass(frozen=True, slots=True)
class Checked:
    """One source after the check: ``records`` are the valid ones, ``sizes`` what is known of each one's photos.

    A source that is complete by construction is not looked into: it has a ``count`` and no ``records``.
    """

    name: str
    count: int
    records: tuple[Record, ...]
    sizes: tuple[tuple[Size | None, ...], ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check_source(name: str, source: Source, sampling: Sampling, *, decode: bool = False) -> Checked:
    """Look at every record of a source.

    Args:
        name: what the report calls it, as ``train/zh``.
        source: where the records come from.
        sampling: what samples are made of the records, unless the source has its own task or a record messages alone.
        decode: also open every photo and compare its size with the record's.
    """
    if source.complete:
        return Checked(name, len(source.open()), (), (), (), ())
    records, refused = _read(source)
    problems, warnings, all_sizes = list(refused), [], []
    for record in records:
        sizes, unseen = look_at_photos(record, decode=decode)
        outside, odd = look_at_shapes(record, sizes)
        wanted = sampling_of(record, source.task or sampling, fixed=source.task is not None)
        lacking = missing_parts(record, wanted, name)
        problems += [*unseen, *outside, *lacking, *unreadable_group(record)]
        warnings += [*odd, *tags_in_text(record)]
        all_sizes.append(sizes)
    problems.sort(key=lambda problem: problem.line or 0)
    texts = (tuple(map(str, found)) for found in (problems, warnings))
    return Checked(name, len(records), tuple(records), tuple(all_sizes), *texts)


def look_at_photos(record: Record, *, decode: bool) -> tuple[tuple[Size | None, ...], list[RecordError]]:
    """``(width, height)`` of each photo of a record as far as known, and what is wrong with the files."""
    sizes: list[Size | None] = list(record.sizes) or [None] * len(record.images)
    problems = []
    for index in range(len(record.images)):
        try:
            if decode:
                height, width = load_photo(record, index).shape[:2]
                sizes[index] = (width, height)
            else:
                _require_file(record, index)
        except RecordError as problem:
            problems.append(problem)
    return tuple(sizes), problems


def look_at_shapes(record: Record, sizes: Sequence[Size | None]) -> tuple[list[RecordError], list[RecordError]]:
    """Problems (shapes wholly outside their photo) and warnings (partly outside, not convex) of a record's objects."""
    problems, warnings = [], []
    for index, note in enumerate(record.annotations):
        field, size = f"objects[{index}].{note.shape.kind}", sizes[note.image]
        if note.shape.kind == "quad" and not is_convex(note.shape.points):
            message = "is not convex; expected corners in their order around the object (training keeps it as it is)"
            warnings.append(record_error(record, field, message))
        if size is None or is_inside(note.shape.points, *size):
            continue
        x1, y1, x2, y2 = note.shape.bounds
        frame = f"the {size[0]} x {size[1]} image (it spans {x1:g}, {y1:g} to {x2:g}, {y2:g})"
        if clip_shape(note.shape, *size):
            warnings.append(record_error(record, field, f"reaches outside {frame}; training clips it"))
        else:
            problems.append(
                record_error(record, field, f"lies outside {frame}; expected pixels after EXIF orientation")
            )
    return problems, warnings


def is_convex(points_42: Points) -> bool:
    """True when the corners ``[4, 2]`` turn one way all around; a straight corner counts, a crossing does not."""
    edges = np.roll(points_42, -1, axis=0) - points_42
    following = np.roll(edges, -1, axis=0)
    turns = edges[:, 0] * following[:, 1] - edges[:, 1] * following[:, 0]
    return bool((turns >= 0).all() or (turns <= 0).all())


def tags_in_text(record: Record) -> Iterator[RecordError]:
    """A warning for each turn whose text holds what another tool reads as a place or a special token."""
    for index, message in enumerate(record.messages):
        tag = next((found for part in message.parts if isinstance(part, str) for found in TAGS.findall(part)), None)
        if tag is not None:
            advice = 'an image place is the part {"type": "image"}; qcvl.convert reads files with tags'
            yield record_error(record, f"messages[{index}].content", f"holds {tag}, which is plain text here: {advice}")


def unreadable_group(record: Record) -> Iterator[RecordError]:
    """What is wrong with ``metadata.group`` and ``metadata.label`` of a record."""
    for read in (group_of, label_of):
        try:
            read(record)
        except RecordError as problem:
            yield problem


def shared_photos(source: Checked, train: Iterable[Checked]) -> Iterator[str]:
    """A warning for each photo of a validation source that is trained on as well."""
    seen = {path: record.where for other in train for record in other.records for _, path in _photos(record)}
    for record in source.records:
        for index, path in _photos(record):
            if path in seen:
                message = f"({path}) is also in {seen[path]}; expected photos the model has not been trained on"
                yield str(record_error(record, f"images[{index}]", message))


def _read(source: Source) -> tuple[list[Record], list[RecordError]]:
    """The valid records of a source and the errors of the others."""
    if isinstance(source, JsonlSource):
        problems = list(iter_problems(source.path))
        return (list(_valid_lines(source.path)) if Path(source.path).is_file() else []), problems
    try:
        return list(source.open()), []
    except RecordError as problem:  # another kind of source may stop at its first problem
        return [], [problem]


def _valid_lines(path: str) -> Iterator[Record]:
    with Path(path).open("rb") as lines:
        for number, text in enumerate(lines, 1):
            try:
                yield Record.from_json(text.removeprefix(b"\xef\xbb\xbf"), path, number)
            except RecordError:  # iter_problems has named everything that is wrong with this line
                continue


def _require_file(record: Record, index: int) -> None:
    value = record.images[index]
    if not isinstance(value, str) or value.startswith("data:"):
        return
    field = f"images[{index}]"
    if value.startswith(("http://", "https://")):
        raise record_error(record, field, f"is a URL ({value}); download the photos first and give their paths")
    file = Path(record.image_path(index))
    if not file.is_file():
        there = "its folder exists, the file does not" if file.parent.is_dir() else "its folder does not exist"
        raise record_error(record, field, f"({file}) not found: {there}; paths are relative to the JSONL's folder")


def _photos(record: Record) -> Iterator[tuple[int, str]]:
    """Number and absolute path of each photo of a record that is a file."""
    for index, value in enumerate(record.images):
        if isinstance(value, str) and not value.startswith("data:"):
            yield index, os.path.abspath(record.image_path(index))
