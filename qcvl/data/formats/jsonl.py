"""Our own JSONL (see ``qcvl.schema.records``): read to find the photos elsewhere or to write another format."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qcvl.data.reading import Item, Notice, Split, each, file_name, located, renamed
from qcvl.schema.records import Record, numbered_lines


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The lines of a file; relative names of photos are below ``root``, else below the file's own folder."""

    def read(line: tuple[int, bytes]) -> Iterator[Record]:
        number, text = line
        yield located(Record.from_json(text, path, number), root)

    yield from each(numbered_lines(path), read)


def write(records: Sequence[Record], output: Path) -> list[Notice]:
    """Write one line a record; there is nothing a line cannot hold."""

    def name(file: Any) -> str:
        return file_name(file, output.parent)

    written = (
        replace(record, images=tuple(map(name, record.images)), videos=renamed(record.videos, name))
        for record in records
    )
    output.write_text("".join(record.to_json() + "\n" for record in written), encoding="utf-8")
    return []
