"""A value of another tool's file that knows where it stands, so that a reader need not say it again for its errors.

Entry.of_json(path)["images"][3]["width"].whole()
# instances.json: images[3].width is the string '640'; expected a whole number
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from qcvl.errors import RecordError
from qcvl.schema.objects import LARGEST_COORDINATE, describe


@dataclass(frozen=True, slots=True)
class Entry:
    """A decoded value, the file (and line) it came from, and its key within the entry above it."""

    value: Any
    path: Path
    line: int | None = None
    parent: "Entry | None" = None
    key: str | int | None = None

    @classmethod
    def of_json(cls, path: Path) -> "Entry":
        """A whole JSON file; raises RecordError when it is missing, not UTF-8 or not valid JSON (NaN is not)."""
        return cls(_decode(read_text(path), path, None), path)

    @property
    def field(self) -> str | None:
        """The way to this value from the top of the file or line: ``images[3].width``."""
        if self.parent is None:
            return None if self.key is None else str(self.key)
        above = self.parent.field or ""
        if isinstance(self.key, int):
            return f"{above}[{self.key}]"
        return f"{above}.{self.key}" if above else str(self.key)

    @property
    def where(self) -> str:
        """``file:line: field``, as errors name this value."""
        return str(RecordError("", path=self.path, line=self.line, field=self.field)).strip()

    def error(self, message: str) -> RecordError:
        """An error about this value; ``message`` goes on after its name: ``is …; expected …``."""
        return RecordError(message, path=self.path, line=self.line, field=self.field)

    def __getitem__(self, key: str | int) -> "Entry":
        """The value under a key that must be there."""
        if isinstance(key, int):
            return Entry(self.items()[key], self.path, self.line, self, key)
        found = self.get(key)
        if found is None:
            raise Entry(None, self.path, self.line, self, key).error("is missing; the format needs it")
        return found

    def get(self, key: str) -> "Entry | None":
        """The value under a key, or None where it is absent or null."""
        if not isinstance(self.value, dict):
            raise self.error(f"is {describe(self.value)}; expected an object with the key {key}")
        value = self.value.get(key)
        return None if value is None else Entry(value, self.path, self.line, self, key)

    def __iter__(self) -> Iterator["Entry"]:
        """The entries of a list."""
        for index, value in enumerate(self.items()):
            yield Entry(value, self.path, self.line, self, index)

    def items(self) -> list[Any]:
        """The plain values of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"is {describe(self.value)}; expected a list")
        return self.value

    def marked(self, key: str) -> bool:
        """Whether the value under a key is there and says yes."""
        found = self.get(key)
        return found is not None and bool(found.value)

    def mapping(self) -> dict[str, Any]:
        """An object's keys and values."""
        if not isinstance(self.value, dict):
            raise self.error(f"is {describe(self.value)}; expected an object")
        return self.value

    def text(self) -> str:
        """A string that is not blank."""
        if not isinstance(self.value, str):
            raise self.error(f"is {describe(self.value)}; expected text")
        if not self.value.strip():
            raise self.error("is empty; expected text")
        return self.value

    def number(self) -> float:
        """A finite number, or the text of one."""
        value = self.value
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise self.error(f"is {describe(self.value)}; expected a number") from None
        if type(value) not in (int, float) or abs(value) > LARGEST_COORDINATE or math.isnan(value):
            raise self.error(f"is {describe(self.value)}; expected a finite number")
        return value

    def whole(self, least: int = 1) -> int:
        """A whole number from ``least`` on, written as a number or as its text; 640.0 counts."""
        value = self.number()
        if value != int(value) or value < least:
            raise self.error(f"is {describe(self.value)}; expected a whole number from {least} on")
        return int(value)

    def numbers(self, count: int | None = None) -> list[float]:
        """A list of finite numbers, of ``count`` where one is given."""
        found = self.value
        if not isinstance(found, list) or not all(map(_is_coordinate, found)):  # otherwise the usual, quick way
            found = [entry.number() for entry in self]
        if count is not None and len(found) != count:
            raise self.error(f"has {len(found)} numbers; expected {count}")
        return found

    def pairs(self) -> list[list[float]]:
        """A list of ``[x, y]`` pairs, or of flat numbers ``x1, y1, x2, y2, …``."""
        if isinstance(self.value, list) and self.value and all(isinstance(pair, list) for pair in self.value):
            return [pair.numbers(2) for pair in self]
        numbers = self.numbers()
        if len(numbers) % 2:
            raise self.error(f"has {len(numbers)} numbers; expected x, y pairs")
        return [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]

    def fields(self, separator: str | None = None) -> "Entry":
        """The fields of a line of text as a list (``separator`` None: blanks)."""
        parts = [part.strip() for part in self.text().split(separator)]
        return Entry(parts, self.path, self.line, self.parent, self.key)


def read_lines(path: Path) -> Iterator[Entry]:
    """The lines of a text file that are not blank, by their numbers; a byte order mark is no part of the first."""
    for number, line in enumerate(read_text(path).replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield Entry(line, path, number)


def read_json_lines(path: Path) -> Iterator[Entry]:
    """The JSON values of a file that has one a line; blank lines are left out."""
    for line in read_lines(path):
        yield Entry(_decode(line.value, path, line.line), path, line.line)


def read_text(path: Path) -> str:
    """A UTF-8 file without its byte order mark; raises RecordError when it is missing or something else."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", path=path) from None
    except OSError as error:
        raise RecordError(f"cannot be read ({error.strerror}); give an existing file", path=path) from None


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST_COORDINATE <= value <= LARGEST_COORDINATE  # NaN is not


def _decode(text: str, path: Path, line: int | None) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        place = f"column {error.colno}" if line else f"line {error.lineno}, column {error.colno}"
        found = f"is not valid JSON ({error.msg} at {place})"
        raise RecordError(f"{found}; NaN and comments are none, for instance", path=path, line=line) from None
