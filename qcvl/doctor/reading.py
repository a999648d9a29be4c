"""A source in blocks of entries, in file order: a million lines are never in memory at once.

Lines of a JSONL file are handed on as bytes, so that the processes that check them also parse them. Any other source
is opened once and read record by record.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcvl.data.completeness import sampling_of
from qcvl.data.sources import FormatSource, JsonlSource, Sampling, Source
from qcvl.errors import QcvlError, RecordError
from qcvl.schema.lines import Line, ObjectFields, located, read_line
from qcvl.schema.records import BOM, Record, require_file

MAX_BYTES = 2**22  # of the lines of one block: photos inside a line (data URLs) make few lines large
Item = bytes | Record | RecordError


@dataclass(slots=True)
class Entry:
    """One line or record: what it says and where it stands. ``said.images`` may hold more than paths."""

    said: Line
    path: Path | None
    line: int | None
    made: Record | None = None  # by a source that is no JSONL file

    def record(self) -> Record:
        """The record of this entry."""
        return self.made or Record.of(self.said, self.path, self.line)

    def sampling(self, source: Source, sampling: Sampling) -> Sampling:
        """What samples are made of this entry (see ``completeness.sampling_of``)."""
        if not self.said.messages:
            return source.task or sampling
        return sampling_of(self.record(), source.task or sampling, fixed=source.task is not None)

    @property
    def place(self) -> dict[str, Any]:
        """Path and line for a finding; a record of no file is named by its photo."""
        return {"path": self.path or self.record().where, "line": self.line}


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive entries of a source: lines of the file ``path`` from ``first`` on, or records and what was refused.

    ``weight`` is what a progress bar counts: bytes of a file, else entries.
    """

    items: tuple[Item, ...]
    path: Path | None
    first: int
    weight: int

    def entries(self) -> Iterator[tuple[Entry | None, list[RecordError]]]:
        """Each entry (None where a line is no record at all or could not be read) and everything wrong with it."""
        for number, item in enumerate(self.items, self.first):
            if isinstance(item, bytes):
                said, problems = read_line(item)
                entry = None if said is None or problems else Entry(said, self.path, number)
                yield entry, [located(problem, self.path, number) for problem in problems]
            elif isinstance(item, RecordError):
                yield None, [item]
            else:
                yield _entry_of(item), []


def read_blocks(source: Source, count: int) -> Iterator[Block]:
    """Blocks of up to ``count`` entries; a source that cannot be opened is one block with its error."""
    try:
        if isinstance(source, JsonlSource):
            yield from _line_blocks(Path(source.path), count)
        else:
            opened = source.items() if isinstance(source, FormatSource) else source.open()
            yield from _item_blocks(_one_by_one(opened), count)
    except RecordError as error:
        yield Block((error,), None, 1, 0)


def weigh(source: Source) -> int | None:
    """What all blocks of a source weigh together; None where that is not known before the end."""
    if isinstance(source, JsonlSource):
        path = Path(source.path)
        return path.stat().st_size if path.is_file() else 0
    return None


def _line_blocks(path: Path, count: int) -> Iterator[Block]:
    """Lines of a file; blank lines at its very end are left out."""
    require_file(path)
    lines: list[bytes] = []
    first, size, blank = 1, 0, 0  # blank lines wait: they count only when something follows
    with path.open("rb") as file:
        for number, line in enumerate(file):
            line = line.removeprefix(BOM) if number == 0 else line
            if not line.strip():
                blank += 1
                continue
            lines += [b""] * blank + [line]
            size, blank = size + len(line), 0
            if len(lines) >= count or size >= MAX_BYTES:
                yield Block(tuple(lines), path, first, size)
                first, lines, size = first + len(lines), [], 0
    if lines:
        yield Block(tuple(lines), path, first, size)
    elif first == 1:
        raise RecordError("the file is empty; expected one JSON object a line", path=path)


def _item_blocks(items: Iterable[Record | RecordError], count: int) -> Iterator[Block]:
    kept: list[Item] = []
    for item in items:
        kept.append(item)
        if len(kept) == count:
            yield Block(tuple(kept), None, 1, count)
            kept = []
    if kept:
        yield Block(tuple(kept), None, 1, len(kept))


def _one_by_one(opened: Any) -> Iterator[Record | RecordError]:
    """Each record of an opened source (a sequence, or anything that yields them), or the error in its place.

    A generator ends at its first error, a sequence goes on.
    """
    if hasattr(opened, "__getitem__"):
        for index in range(len(opened)):
            try:
                yield opened[index]
            except QcvlError as error:
                yield _as_record_error(error)
        return
    records = iter(opened)
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except QcvlError as error:
            yield _as_record_error(error)


def _as_record_error(error: QcvlError) -> RecordError:
    return error if isinstance(error, RecordError) else RecordError(str(error))


def _entry_of(record: Record) -> Entry:
    objects: list[ObjectFields] = [
        (note.shape.kind, note.shape.points.ravel().tolist(), note.desc, note.image) for note in record.annotations
    ]
    said = Line(
        record.images,
        record.sizes,
        objects,
        record.annotated,
        record.summary,
        record.metadata,
        record.messages,
        record.videos,
    )
    return Entry(said, record.path, record.line, record)
