"""Shards: files of records that are read from any place on, whatever lies before it.

A JSONL file is read from a byte on and a Parquet file from a row on, so that a reader who was stopped goes on at once.
Lines hold the record contract, or messages as ``data.formats.messages`` has them; so do rows, whose images may also be
bytes. Errors name a row of a table as a line, counted from 1.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import orjson

from qcvl.data.foreign import Row, image_value, line_row, read_row, without_null
from qcvl.data.formats.messages import record_of
from qcvl.data.jsonl import changed, stamp_of
from qcvl.data.reading import located
from qcvl.data.stream_source import Form
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import BOM, Record

Stamp = tuple[int, int]  # bytes, and time of change in ns
T = TypeVar("T")
OPEN_FOOTERS = 64  # Parquet files whose list of row groups is at hand


class Place(NamedTuple):
    """Where a record lies in its shard: ``size`` bytes (or rows) from ``start`` on, on line ``line``, from 1."""

    start: int
    size: int
    line: int


@dataclass(frozen=True)
class JsonlShard:
    """A file of one record a line; blank lines may only end it. ``end`` is where those that are used end (bytes)."""

    path: Path
    stamp: Stamp
    form: Form
    root: Path | None
    end: int | None = None

    def places(self, start: int = 0, line: int = 1) -> Iterator[Place]:
        """Where the records from byte ``start`` on lie, which is the start of line ``line``; nothing is parsed."""
        blank: list[Place] = []  # they wait: they count, as bad lines, only when something follows
        with self._opened() as file:
            file.seek(start)
            for text in file:
                if self.end is not None and start >= self.end:
                    return
                place = Place(start, len(text), line)
                start, line = start + len(text), line + 1
                if text.removeprefix(BOM).strip():
                    yield from (*blank, place)
                    blank = []
                else:
                    blank.append(place)

    def record(self, place: Place) -> Record:
        """The record at one place; raises RecordError with file, line and field."""
        with self._opened() as file:
            text = os.pread(file.fileno(), place.size, place.start)
        text = text.removeprefix(BOM) if place.start == 0 else text
        if self.form == "messages":
            row = line_row(text, self.path, place.line)
            return read_row(row, lambda row: record_of(row, self.root or self.path.parent))
        record = Record.from_json(text, self.path, place.line)
        return record if self.root is None else located(record, self.root)

    def _opened(self) -> BinaryIO:
        file = self.path.open("rb")
        if stamp_of(file.fileno()) != self.stamp:
            file.close()
            raise changed(self.path)
        return file


class RowGroups:
    """The row groups of Parquet files that were read last: as many as ``rows`` rows in a line can lie in."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._kept: OrderedDict[tuple[Path, int], Any] = OrderedDict()

    def get(self, path: Path, number: int) -> Any:
        """Row group ``number`` of a file, an Arrow table."""
        key = (path, number)
        if key not in self._kept:
            self._kept[key] = _parquet(path, lambda file: file.read_row_group(number, use_threads=False))
            while sum(len(table) for table in list(self._kept.values())[2:]) >= self.rows:  # a block has two ends
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["rows"])  # type: ignore[misc]


@dataclass(frozen=True)
class TableShard:
    """A Parquet file of one record a row. ``end`` is where those that are used end (rows)."""

    path: Path
    stamp: Stamp
    form: Form
    root: Path | None
    groups: RowGroups = field(compare=False)
    end: int | None = None

    def places(self, start: int = 0, line: int = 1) -> Iterator[Place]:
        """Where the records from row ``start`` on lie; only the file's footer is read."""
        rows = int(self._starts()[-1])
        for row in range(start, rows if self.end is None else min(rows, self.end)):
            yield Place(row, 1, row + 1)

    def record(self, place: Place) -> Record:
        """The record at one place; raises RecordError with file, row and field."""
        starts = self._starts()
        group = int(np.searchsorted(starts, place.start, side="right")) - 1
        (raw,) = self.groups.get(self.path, group).slice(place.start - int(starts[group]), 1).to_pylist()
        row = Row(without_null(raw), self.path, place.line, "")
        base = self.root or self.path.parent
        if self.form == "messages":
            return read_row(row, lambda row: record_of(row, base))
        return read_row(row, lambda row: _contract_record(row.fields, base))

    def _starts(self) -> np.ndarray:
        """Int64 ``[row groups + 1]``: the first row of each, and how many rows there are."""
        if stamp_of(self.path) != self.stamp:
            raise changed(self.path)
        return _group_starts(self.path, self.stamp)


Shard = JsonlShard | TableShard


def open_shards(path: str, form: Form, root: Path | None, rows: int) -> list[Shard]:
    """The shards that a path means, by name: a file, those that fit a pattern, or the .jsonl and .parquet of a folder.

    Args:
        path: ``train.jsonl``, ``shards/*.jsonl`` or ``shards``.
        form: what a line or row holds.
        root: the folder of the photos; None: relative paths are below the shard's own.
        rows: how many rows of Parquet files are kept at hand.

    Raises:
        RecordError: where there is no such file, or one that is neither JSONL nor Parquet.
    """
    groups = RowGroups(rows)
    return [_shard(file, form, root, groups) for file in _files(path)]


def _files(path: str) -> list[Path]:
    here = Path(path)
    if here.is_dir():
        found = sorted(file for file in here.iterdir() if file.suffix in (".jsonl", ".parquet"))
    elif here.is_file() or not has_magic(path):
        found = [here] if here.is_file() else []
    else:
        found = sorted(Path(name) for name in glob(path, recursive=True) if Path(name).is_file())
    if not found:
        wanted = "a .jsonl or .parquet file, a folder of them, or a pattern (shards/*.jsonl)"
        raise RecordError(f"no shard was found; expected {wanted}", path=path)
    return found


def _shard(path: Path, form: Form, root: Path | None, groups: RowGroups) -> Shard:
    if path.suffix == ".parquet":
        return TableShard(path, stamp_of(path), form, root, groups)
    if path.suffix == ".jsonl":
        return JsonlShard(path, stamp_of(path), form, root)
    advice = "unpack it: a packed file cannot be read from its middle" if path.suffix == ".gz" else "name others"
    raise RecordError(f"is no shard of a stream, which are .jsonl and .parquet files; {advice}", path=path)


def _parquet(path: Path, read: Callable[[Any], T]) -> T:
    """What ``read`` gets of an open Parquet file."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{path}: .parquet files need pyarrow; pip install 'qcvl[arrow]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            return read(file)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}; write it again") from error


@lru_cache(maxsize=OPEN_FOOTERS)
def _group_starts(path: Path, stamp: Stamp) -> np.ndarray:
    """Int64 ``[row groups + 1]`` of a file as it was at ``stamp``."""
    data = _parquet(path, lambda file: file.metadata)
    sizes = [data.row_group(number).num_rows for number in range(data.num_row_groups)]
    return np.cumsum([0, *sizes], dtype=np.int64)


def _contract_record(fields: Mapping[str, Any], base: Path) -> Record:
    """A row in the record contract, whose images may be bytes or ``{"bytes", "path"}`` too."""
    images = fields.get("images")
    if isinstance(images, list):
        named = [image_value(value, base, f"images[{index}]") for index, value in enumerate(images)]
        fields = {**fields, "images": named}
    try:
        text = orjson.dumps(fields)
    except TypeError as error:
        raise RecordError(f"holds what JSON has no word for ({error}); drop the column or write it as text") from None
    return Record.from_json(text)
