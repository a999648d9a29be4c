"""Samples in the files of other tools, each with where it stands; and files written for them.

JSON lists (also nested ones, as packed data have), one JSON object a line, Parquet and Arrow are read alike. Of a
folder, the files are read whose names start with the split: ``train.jsonl``, ``validation-00000-of-00002.parquet``.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from PIL import Image, UnidentifiedImageError

from qcvl.data.turns import Gallery, listed
from qcvl.errors import DataError, RecordError
from qcvl.schema.objects import describe
from qcvl.schema.records import BOM, Record
from qcvl.schema.types import URLS
from qcvl.schema.videos import Video, read_video

TABLES = (".parquet", ".arrow")
SUFFIXES = (".json", ".jsonl", *TABLES)


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a file: its fields (those that are null left out), and where it stands.

    ``entry`` is its place in a JSON list or a table, as ``[3]``, and empty for a line of its own.
    """

    fields: Mapping[str, Any]
    file: Path
    line: int | None
    entry: str

    def located(self, problem: RecordError) -> RecordError:
        """The same problem with where it is: ``demo.json: [3].conversations[0].from is …``."""
        field = ".".join(filter(None, (self.entry, problem.field))) or None
        return RecordError(problem.problem, path=self.file, line=self.line, field=field)


def records_of(path: Path, split: str, read: Callable[[Row], Record]) -> Iterator[Record | RecordError]:
    """What ``read`` makes of each sample of a file or folder; its refusals, in their places, name file, line and field.

    Raises:
        DataError: for a file that is missing or cannot be read.
    """
    for row in read_rows(path, split):
        try:
            yield read_row(row, read)
        except RecordError as problem:
            yield problem


def read_row(row: Row, read: Callable[[Row], Record]) -> Record:
    """What ``read`` makes of one sample; its refusal names file, line and field."""
    try:
        record = read(row)
    except RecordError as problem:
        raise row.located(problem) from None
    return replace(record, path=row.file, line=row.line)


def line_row(text: bytes, file: Path, line: int) -> Row:
    """The one sample on a line; raises RecordError for a line that holds something else."""
    value = _parsed(text, file, line)
    if not isinstance(value, dict):
        raise RecordError(f"is {describe(value)}; expected one sample", path=file, line=line)
    return next(_entries(value, file, line))


def read_rows(path: Path, split: str) -> Iterator[Row]:
    """The samples of a file, or of a folder's files of one split, in order."""
    for file in _files(path, split):
        if file.suffix in TABLES:
            yield from _table_rows(file)
        elif _is_lines(file):
            yield from _line_rows(file)
        else:
            yield from _entries(_parsed(file.read_bytes().removeprefix(BOM), file, None), file, None)


def image_value(value: object, base: Path, field: str) -> str:
    """An image as a reader names it: a URL as it is, an absolute path.

    Args:
        value: a path relative to ``base`` or absolute, a ``file://``, data or http URL, encoded bytes (which become a
            data URL), or ``{"bytes": …, "path": …}`` as Hugging Face data sets have it.
        base: the folder that relative paths start from.
        field: names the value in errors.
    """
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return _data_url(value, field)
    if not isinstance(value, str) or not value.strip():
        found = "an empty string" if isinstance(value, str) else describe(value)
        raise RecordError(f"is {found}; expected an image: a path, a URL, or its bytes", field=field)
    if value.startswith(URLS):
        return value
    return _absolute(value, base)


def _absolute(value: str, base: Path) -> str:
    return os.path.abspath(base / (unquote(urlsplit(value).path) if value.startswith("file://") else value))


def video_value(value: object, base: Path, field: str) -> Video:
    """A video as a reader names it, by absolute paths.

    Args:
        value: a path relative to ``base`` or absolute or a ``file://`` URL, a list of these for frames in order, or
            ``{"video": …}`` with options (see ``schema.videos``); ``{"path": …}`` as Hugging Face data sets have it.
        base: the folder that relative paths start from.
        field: names the value in errors.
    """
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("path")
    video = read_video(value, field)
    if isinstance(video.source, str):
        return replace(video, source=_absolute(video.source, base))
    return replace(video, source=tuple(_absolute(path, base) for path in video.source))


def gallery_of(fields: Mapping[str, Any], base: Path) -> Gallery:
    """The images and videos that a sample lists; paths start from ``base``."""
    return Gallery.of(
        [image_value(value, base, name) for name, value in listed(fields, "image")],
        [video_value(value, base, name) for name, value in listed(fields, "video")],
    )


def remaining(fields: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """A record's metadata: the sample's own ``metadata``, and every field a conversation has no place for."""
    own = fields.get("metadata", {})
    rest = {key: value for key, value in fields.items() if key not in used and key != "metadata"}
    metadata = {**own, **rest} if isinstance(own, dict) else {"metadata": own, **rest}
    for key, value in metadata.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            message = f"holds {type(value).__name__}, which JSON has no word for; drop the column or write it as text"
            raise RecordError(message, field=key) from None
    return metadata


def write_rows(output: Path, rows: Iterable[Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> None:
    """Write samples (or packs of them) as one JSON list, or one a line where the name of the file says ``.jsonl``."""
    before, between, after = ("", "\n", "\n") if ".jsonl" in output.suffixes else ("[\n", ",\n", "\n]\n")
    with output.open("w", encoding="utf-8") as file:
        file.write(before)
        for number, row in enumerate(rows):
            file.write((between if number else "") + json.dumps(row, ensure_ascii=False))
        file.write(after)


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path}: expected a file of samples ({', '.join(SUFFIXES)})")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path} not found; expected a file of samples ({', '.join(SUFFIXES)}) or a folder of them")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.name.startswith(split))
    if not found:
        raise DataError(f"{path} holds no {split}* file of samples ({', '.join(SUFFIXES)}); name the file itself")
    return found


def _is_lines(file: Path) -> bool:
    """Whether a file has one JSON value a line; tools also name such files ``.json``."""
    if file.suffix == ".jsonl":
        return True
    with file.open("rb") as lines:
        first = next((text for line in lines if (text := line.removeprefix(BOM).strip())), b"")
    try:
        return first.startswith(b"{") and isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:  # the first line of an object that goes on below
        return False


def _line_rows(file: Path) -> Iterator[Row]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            text = line.removeprefix(BOM) if number == 1 else line
            if text.strip():
                yield from _entries(_parsed(text, file, number), file, number)


def _parsed(text: bytes, file: Path, line: int | None) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        found = f"is not valid JSON ({error.msg} at column {error.colno})"
        where = line or error.lineno
        raise RecordError(f"{found}; expected a list of samples, or one a line", path=file, line=where) from None


def _entries(value: object, file: Path, line: int | None, entry: str = "") -> Iterator[Row]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _entries(item, file, line, f"{entry}[{index}]")
    elif isinstance(value, dict):
        yield Row({key: item for key, item in value.items() if item is not None}, file, line, entry)
    else:
        raise RecordError(f"is {describe(value)}; expected a sample", path=file, line=line, field=entry or None)


def _table_rows(file: Path) -> Iterator[Row]:
    try:
        import pyarrow as pa
        from pyarrow import ipc, parquet
    except ImportError:
        raise DataError(f"{file}: {file.suffix} files need pyarrow; pip install 'qcvl[arrow]'") from None
    try:
        if file.suffix == ".parquet":
            batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        else:  # data sets on disk are streams, files saved by hand may have a footer
            source = pa.memory_map(str(file))
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            opened = ipc.open_file(source) if is_file else ipc.open_stream(source)
            batches = (opened.get_batch(i) for i in range(opened.num_record_batches)) if is_file else iter(opened)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield Row(without_null(row), file, None, f"[{index}]")
    except pa.ArrowException as error:
        raise DataError(f"{file} cannot be read as {file.suffix[1:]}: {error}; write it again") from error


def without_null(value: Any) -> Any:
    """The value without null fields, which a table has wherever another row has something."""
    if isinstance(value, dict):
        return {key: without_null(item) for key, item in value.items() if item is not None}
    return [without_null(item) for item in value] if isinstance(value, list) else value


def _data_url(content: bytes, field: str) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind = image.get_format_mimetype()
    except UnidentifiedImageError:
        raise RecordError(f"holds {len(content)} bytes that are no image Pillow can read", field=field) from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
