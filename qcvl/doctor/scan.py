"""One block of entries looked at from all sides: what a worker process does, and nothing it keeps."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from qcvl.data.completeness import missing_parts
from qcvl.data.sources import JsonlSource, Sampling, Source
from qcvl.doctor.findings import Finding, found, refused
from qcvl.doctor.lengths import Length, Lengths
from qcvl.doctor.numbers import Numbers
from qcvl.doctor.photos import Photo, Size, look_at_photos, photo_of
from qcvl.doctor.reading import Block, Entry
from qcvl.doctor.repair import Repair, mend, offender
from qcvl.doctor.shapes import Shapes, look_at_shapes
from qcvl.doctor.splits import Groups, Place, Seen
from qcvl.doctor.texts import look_at_desc, look_at_summary, tag_in
from qcvl.doctor.videos import look_at_videos
from qcvl.errors import DataError, RecordError
from qcvl.schema.groups import group_of, label_of, record_group
from qcvl.schema.lines import Line, read_line
from qcvl.schema.records import Record

EXHIBITS = 2  # records of a block kept to be drawn, by code
DRAWN = ("box-", "shape-", "quad-", "poly-", "object-", "image-size", "image-turned", "summary-contradicts", "desc-")
OBJECT = re.compile(r"objects\[(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How the blocks of the source ``name`` are looked at.

    ``decode`` also reads pixels, ``lengths`` (None: not) also counts tokens, ``fix`` also writes repaired lines;
    ``across`` keeps photos and groups, to hold the splits against each other, ``draw`` keeps records to be drawn.
    """

    name: str
    source: Source
    sampling: Sampling
    decode: bool
    lengths: Lengths | None
    fix: bool
    group_by: str | None
    across: bool
    draw: bool


@dataclass(slots=True)
class Looked:
    """What one block gave: findings in file order, counts, what the splits are compared by, and repaired lines."""

    findings: list[Finding] = field(default_factory=list)
    numbers: Numbers = field(default_factory=Numbers)
    photos: list[Seen] = field(default_factory=list)
    groups: Groups = field(default_factory=dict)
    exhibits: list[tuple[Finding, Record]] = field(default_factory=list)
    fixed: bytes = b""


@dataclass(slots=True)
class _Examined:
    """Records without problems of schema, with their photos, and what was found by the record's number."""

    photos: list[list[Photo]]
    sizes: list[list[Size | None]]
    shapes: Shapes
    lengths: list[Length | None]
    found: list[tuple[int, Finding]]


def look_at_block(block: Block, look: Look) -> Looked:
    """Everything about one block."""
    looked = Looked()
    entries: list[Entry] = []
    numbered: list[tuple[int, Finding]] = []
    positions: list[int] = []
    for position, (entry, problems) in enumerate(block.entries()):
        numbered += [(position, refused(problem, look.name)) for problem in problems]
        if entry is not None:
            positions.append(position)
            entries.append(entry)
    examined = _examine(entries, look)
    numbered += [(positions[number], finding) for number, finding in examined.found]
    numbered.sort(key=lambda pair: pair[0])
    looked.findings = [finding for _, finding in numbered]
    _count(looked, entries, examined)
    if look.across:
        _keep_places(looked, entries, examined, look)
    if look.draw:
        by_position = dict(zip(positions, entries, strict=True))
        looked.exhibits = list(_exhibits(numbered, by_position, block))
    if look.fix and isinstance(look.source, JsonlSource):
        _repair(looked, block, look)
    return looked


def _examine(entries: Sequence[Entry], look: Look) -> _Examined:
    result = _Examined([], [], Shapes.of([], []), [], [])
    for number, entry in enumerate(entries):
        place = {"source": look.name, **entry.place}
        photos, faults = look_at_photos(entry, decode=look.decode)
        faults += look_at_videos(entry, decode=look.decode)
        result.photos.append(photos)
        result.sizes.append(list(entry.said.sizes) or [photo.size for photo in photos])
        result.found += [(number, found(code, text, **place, field=name)) for name, code, text in faults]
        result.found += [(number, finding) for finding in _look_at_record(entry, look)]
        length, finding = _measure(entry, result.sizes[-1], look, faulty=bool(faults))
        result.lengths.append(length)
        if finding is not None:
            result.found.append((number, finding))
    result.shapes = Shapes.of([entry.said.objects for entry in entries], result.sizes)
    for number, index, code, text in sorted(look_at_shapes(result.shapes)):
        entry = entries[number]
        name = f"objects[{index}].{entry.said.objects[index][0]}"
        result.found.append((number, found(code, text, source=look.name, **entry.place, field=name)))
    return result


def _look_at_record(entry: Entry, look: Look) -> Iterator[Finding]:
    """What is wrong or odd about what a record says, without its photos and shapes."""
    said, sampling = entry.said, entry.sampling(look.source, look.sampling)
    place = {"source": look.name, **entry.place}
    if _may_lack(said, sampling):
        for problem in missing_parts(entry.record(), sampling, look.name):
            yield refused(problem, look.name, f"{problem.field}-missing")
    if "group" in said.metadata or "label" in said.metadata:
        for read in (group_of, label_of):
            try:
                read(entry.record())
            except RecordError as problem:
                yield refused(problem, look.name, "group")
    if said.annotated and not said.objects:
        yield found("no-objects", "is empty: the photo is said to show nothing", **place, field="objects")
    for index, (_, _, desc, _) in enumerate(said.objects):
        for code, text in look_at_desc(desc):
            yield found(code, text, **place, field=f"objects[{index}].desc")
    for index, message in enumerate(said.messages):
        if tag := tag_in(message):
            advice = 'an image place is the part {"type": "image"}; qcvl.convert reads files with tags'
            told = f"holds {tag}, which is plain text here: {advice}"
            yield found("message-tag", told, **place, field=f"messages[{index}].content")
    if said.summary is not None and said.annotated:
        contradiction = look_at_summary(said.summary, (desc for _, _, desc, _ in said.objects))
        if contradiction is not None:
            yield found("summary-contradicts", contradiction, **place, field="summary")


def _may_lack(said: Line, sampling: Sampling) -> bool:
    """Whether ``missing_parts`` is worth a call: it needs the whole record."""
    if sampling == "chat":
        return not said.messages
    return (sampling != "dense" and said.summary is None) or (sampling != "summary" and not said.annotated)


def _measure(
    entry: Entry, sizes: Sequence[Size | None], look: Look, *, faulty: bool
) -> tuple[Length | None, Finding | None]:
    """The length of a record's longest sample, and a finding where it is too long or cannot be encoded."""
    if look.lengths is None or faulty:
        return None, None
    place = {"source": look.name, **entry.place}
    try:
        length = look.lengths.longest(entry, sizes, look.source, look.sampling)
    except DataError as error:
        return None, found("schema", str(error), **place)
    if length is None or length.tokens <= look.lengths.limit:
        return length, None
    text = f"has {length.tokens:,} tokens ({length.image_tokens:,} of them image); the limit is {look.lengths.limit:,}"
    advice = "raise global_max_length, lower model.max_cells, or set data.overlong"
    return length, found("overlong", f"{text}: {advice}", **place, severity=look.lengths.severity)


def _count(looked: Looked, entries: Sequence[Entry], examined: _Examined) -> None:
    rows = zip(entries, examined.photos, examined.sizes, examined.lengths, strict=True)
    for entry, photos, sizes, length in rows:
        known = [photo if photo.size else replace(photo, size=size) for photo, size in zip(photos, sizes, strict=True)]
        looked.numbers.count_entry(entry, known, length)
    looked.numbers.count_shapes(examined.shapes)


def _keep_places(looked: Looked, entries: Sequence[Entry], examined: _Examined, look: Look) -> None:
    for entry, photos in zip(entries, examined.photos, strict=True):
        place = Place(look.name, str(entry.place["path"]), entry.line)
        looked.photos += [Seen(photo, index, place) for index, photo in enumerate(photos) if photo.file is not None]
        group = _group(looked, entry, look)
        if group is not None:
            first, count = looked.groups.get(group, (place, 0))
            looked.groups[group] = (first, count + 1)


def _group(looked: Looked, entry: Entry, look: Look) -> str | None:
    """The group by ``group_by``, or by ``metadata.group`` where none is asked for."""
    try:
        if look.group_by is not None:
            return record_group(entry.record(), look.group_by)
        return group_of(entry.record()) if "group" in entry.said.metadata else None
    except RecordError as problem:
        if look.group_by is not None:
            looked.findings.append(refused(problem, look.name, "group-missing"))
        return None


def _exhibits(
    numbered: Sequence[tuple[int, Finding]], entries: dict[int, Entry], block: Block
) -> Iterator[tuple[Finding, Record]]:
    """A few findings about what can be seen, each with a record of just the objects it names."""
    shown: dict[str, int] = {}
    for position, finding in numbered:
        drawn = finding.code.startswith(DRAWN) and finding.severity in ("error", "warning")
        if not drawn or shown.get(finding.code, 0) == EXHIBITS:
            continue
        record = _exhibit(position, finding, entries, block)
        if record is not None:
            shown[finding.code] = shown.get(finding.code, 0) + 1
            yield finding, record


def _exhibit(position: int, finding: Finding, entries: dict[int, Entry], block: Block) -> Record | None:
    own = OBJECT.search(finding.field or "")
    named = [*([int(own[1])] if own else []), *(int(number) for number in OBJECT.findall(finding.message))]
    entry, item = entries.get(position), block.items[position]
    if entry is None:
        if isinstance(item, bytes) and finding.line is not None and named:
            return offender(item, block.path, finding.line, named[0])
        return None
    record = replace(entry.record(), sizes=())  # a size that is wrong must not keep the photo from being drawn
    notes = record.annotations
    return replace(record, annotations=tuple(notes[k] for k in named if k < len(notes))) if named else record


def _repair(looked: Looked, block: Block, look: Look) -> None:
    """Repaired lines of a block, each checked again: what is still wrong is left out and named."""
    if block.path is None:  # the file could not be opened
        return
    mended: list[tuple[int, bytes, list[Repair]]] = []
    for number, item in enumerate(block.items, block.first):
        if isinstance(item, bytes):
            text, repairs = mend(item, block.path.parent, lambda file: photo_of(file, decode=look.decode))
            mended.append((number, text or item, repairs))
    entries, left_out = [], {}
    for number, text, _ in mended:
        said, problems = read_line(text)
        if said is None or problems:
            left_out[number] = str(problems[0])
        else:
            entries.append(Entry(said, block.path, number))
    for index, finding in _examine(entries, replace(look, lengths=None)).found:
        if finding.severity == "error":
            line = entries[index].line or 0
            left_out.setdefault(line, f"{finding.field} {finding.message}")
    for number, text, repairs in mended:
        place: dict[str, Any] = {"source": look.name, "path": block.path, "line": number}
        if number in left_out:
            looked.findings.append(found("left-out", f"cannot be repaired: {left_out[number]}", **place))
            continue
        looked.findings += [found("repaired", what, **place, field=name) for name, what in repairs]
        looked.fixed += text + b"\n"
