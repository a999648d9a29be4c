"""A JSONL file as a sequence of records that reads a line when it is asked for.

Every line is validated once, when the file is first opened; where the lines lie is then kept on disk (see
``data.stored``), and opening the same file again takes milliseconds whatever its size.
"""

import hashlib
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from qcvl.data.stored import stored_array
from qcvl.errors import DataError, RecordError
from qcvl.log import get_logger
from qcvl.schema.records import BOM, Record

log = get_logger(__name__)

VERSION = 3  # of what the index says; another one makes every index anew
PARTS = ("objects", "summary", "messages", "photo")  # what a record may have or not; photo: exactly one image
INDEX = np.dtype([("start", "<i8"), *((name, "?") for name in PARTS)])
PROBE, PROBES = 4096, 16  # bytes and places of the file that its fingerprint is taken from
KEPT = 1024  # records at hand: where photos are shown many times, their lines need not be read as often
LARGE = 100 * 2**20  # bytes from which a first look at a file takes long enough to say so


class JsonlRecords(Sequence[Record]):
    """The records of ``rows`` (all) of a JSONL file, by index; a slice is again such a sequence.

    It holds the records read last, ``KEPT`` at most, and is pickled as a path: a worker process opens the file itself.

    Raises:
        RecordError: the first problem of the file, when it has not been validated as it is now.
    """

    def __init__(self, path: str | Path, rows: Sequence[int] | np.ndarray | None = None) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb", buffering=0)
        self._stamp = stamp_of(self._file.fileno())
        self._print = _fingerprint(self.path, self._file.fileno(), self._stamp)
        facts = {"version": VERSION, "file": self._print}
        self._index = stored_array("jsonl", facts, lambda: make_index(self.path))
        self._starts, self._whole = self._index["start"], rows is None
        self._rows = range(len(self._index) - 1) if rows is None else rows
        self._kept = lru_cache(maxsize=KEPT)(self._read)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "JsonlRecords": ...
    def __getitem__(self, index: int | slice) -> "Record | JsonlRecords":
        if isinstance(index, slice):
            return self.part(self._rows[index])
        if stamp_of(self._file.fileno()) != self._stamp:
            raise changed(self.path)
        return self._kept(int(self._rows[index]))

    def _read(self, row: int) -> Record:
        start, end = int(self._starts[row]), int(self._starts[row + 1])
        return Record.from_json(os.pread(self._file.fileno(), end - start, start), self.path, row + 1)

    def part(self, rows: Sequence[int] | np.ndarray) -> "JsonlRecords":
        """The records of some rows of the file, in that order."""
        other = object.__new__(JsonlRecords)
        other.__dict__.update(self.__dict__, _rows=rows, _whole=False)
        return other

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What tells these records from others: the file's path, size, time and contents, and the rows taken of it."""
        rows = None if self._whole else hashlib.sha256(np.asarray(self._rows, np.int64).tobytes()).hexdigest()
        return {**self._print, "rows": rows}

    def parts(self) -> np.ndarray:
        """``INDEX`` rows ``[records]``: what each record has."""
        return self._index[np.asarray(self._rows)]

    def lacking(self, sampling: str, *, fixed: bool) -> Iterator[Record]:
        """The records that may lack what samples are made of, by the rules of ``completeness``, in their order."""
        has = self.parts()
        talks = has["messages"] & ~has["objects"] & (not fixed)
        lacks = np.zeros(len(has), dtype=bool)
        if sampling in ("dense", "mixed"):
            lacks |= ~has["objects"] & ~talks
        if sampling in ("summary", "mixed"):
            lacks |= ~has["summary"] & ~talks
        if sampling == "chat":
            lacks |= ~has["messages"]
        for place in np.flatnonzero(lacks):
            yield self[int(place)]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "rows": None if self._whole else self._rows, "print": self._print}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["rows"])  # type: ignore[misc]
        if self._print != state["print"]:
            raise changed(self.path)


def make_index(path: Path) -> np.ndarray:
    """Validate every line of a file; ``INDEX`` rows ``[records + 1]``: where each starts, the last one where all end.

    Raises:
        RecordError: the first problem, with file, line and field; for an empty file too.
    """
    if path.stat().st_size > LARGE:
        log.warning("reading %s for the first time: every line is checked once", path)
    starts, parts = array("q"), bytearray()
    end = blank = 0  # blank: number of the first of some blank lines, which may only end a file
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            start, end_of_line = end, end + len(text)
            if number == 1 and text.startswith(BOM):
                start, text = start + len(BOM), text.removeprefix(BOM)
            end = end_of_line
            if not text.strip():
                blank = blank or number
                continue
            if blank:
                Record.from_json(b"", path, blank)  # raises
            record = Record.from_json(text, path, number)
            starts.append(start)
            one = len(record.images) == 1
            parts.extend((record.annotated, record.summary is not None, bool(record.messages), one))
            last = end
    if not starts:
        raise RecordError("the file is empty; expected one JSON object a line", path=path)
    index = np.zeros(len(starts) + 1, INDEX)
    index["start"] = [*starts, last]
    for place, name in enumerate(PARTS):
        index[name][:-1] = np.frombuffer(parts, dtype=bool)[place :: len(PARTS)]
    return index


def stamp_of(file: Path | int) -> tuple[int, int]:
    """Size and time of change (ns) of a file, by its path or its descriptor."""
    state = os.stat(file)
    return state.st_size, state.st_mtime_ns


def changed(path: Path) -> DataError:
    """The error of a file that is another one than when it was opened."""
    return DataError(f"{path} was changed while it was in use; start the run again")


def _fingerprint(path: Path, descriptor: int, stamp: tuple[int, int]) -> dict[str, Any]:
    """A file's identity without reading all of it: path, size, time of change, and a hash of some places."""
    places = np.linspace(0, max(stamp[0] - PROBE, 0), PROBES).astype(int)
    probes = b"".join(os.pread(descriptor, PROBE, int(place)) for place in dict.fromkeys(places.tolist()))
    return {
        "path": str(path.absolute()),
        "size": stamp[0],
        "mtime_ns": stamp[1],
        "sha256": hashlib.sha256(probes).hexdigest(),
    }
