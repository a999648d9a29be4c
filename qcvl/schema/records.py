"""One line of a JSONL file: its contract, its errors, and reading a whole file.

    {"images": ["a.jpg"], "width": 1920, "height": 1080, "summary": "…", "metadata": {…},
     "objects": [{"bbox_2d": [x1, y1, x2, y2], "desc": "…"}, …]}

Coordinates are pixels of the stored image after EXIF orientation with continuous edges. Only ``images`` is required,
and not even that of a record with ``messages``, which may be text alone (see ``schema.messages``) or about ``videos``
(see ``schema.videos``).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qcvl.errors import DataError, RecordError
from qcvl.schema.lines import Line, as_annotation, located, read_line
from qcvl.schema.messages import write_messages
from qcvl.schema.objects import write_shape
from qcvl.schema.types import URLS, Annotation, ImageValue, Message
from qcvl.schema.videos import Video, write_video

BOM = b"\xef\xbb\xbf"  # a byte order mark in UTF-8: no part of what a file says


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One validated line: image paths as written, annotations in pixels, and what else the line said.

    A record made in Python may hold bytes, arrays or PIL images in ``images``; only strings can be written as JSON.
    ``sizes`` holds ``(width, height)`` per image, or nothing when the line gives none. ``annotated`` is False when the
    line has no ``objects`` key at all: a photo nobody labelled, which is not the same as a photo without objects.
    ``messages`` is a conversation, beside which ``images`` may be empty, and the only one to show ``videos``.
    """

    images: tuple[ImageValue, ...]
    annotations: tuple[Annotation, ...] = ()
    annotated: bool = True
    sizes: tuple[tuple[int, int], ...] = ()
    summary: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    videos: tuple[Video, ...] = ()
    path: Path | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    @classmethod
    def from_json(cls, text: str | bytes, path: str | Path | None = None, line: int | None = None) -> "Record":
        """The record in one JSON line; ``path`` and ``line`` are where it stands, for errors and image paths.

        Raises:
            RecordError: the first thing that breaks the contract, as ``path:line: field message``.
        """
        said, problems = read_line(text)
        if said is None or problems:
            raise located(problems[0], path, line)
        return cls.of(said, path, line)

    @classmethod
    def of(cls, said: Line, path: str | Path | None = None, line: int | None = None) -> "Record":
        """The record of a line without problems; ``path`` and ``line`` are where it stands."""
        return cls(
            images=said.images,
            annotations=tuple(as_annotation(item) for item in said.objects),
            annotated=said.annotated,
            sizes=said.sizes,
            summary=said.summary,
            metadata=said.metadata,
            messages=said.messages,
            videos=said.videos,
            path=None if path is None else Path(path),
            line=line,
        )

    def to_json(self) -> str:
        """The JSON line this record is read from: ``Record.from_json(record.to_json()) == record``."""
        raw: dict[str, Any] = {"images": list(self.images)} if self.images else {}
        if self.sizes:
            widths, heights = ([size[axis] for size in self.sizes] for axis in (0, 1))
            one = len(self.images) == 1
            raw |= {"width": widths[0] if one else widths, "height": heights[0] if one else heights}
        if self.summary is not None:
            raw["summary"] = self.summary
        if self.metadata:
            raw["metadata"] = dict(self.metadata)
        if self.videos:
            raw["videos"] = [write_video(video) for video in self.videos]
        if self.messages:
            raw["messages"] = write_messages(self.messages)
        if self.annotated:
            raw["objects"] = [geometry_json(item, len(self.images)) for item in self.annotations]
        return json.dumps(raw, ensure_ascii=False)

    @property
    def where(self) -> str:
        """``file:line``, as errors name this record."""
        known = ":".join(str(part) for part in (self.path, self.line) if part is not None)
        named = self.images[0] if self.images and isinstance(self.images[0], str | Path) else "an image in memory"
        return known or (f"the record of {named}" if self.images else "a record without images")

    def image_path(self, image: int = 0) -> Path | str:
        """Where one image lies: relative to the JSONL's folder unless absolute; a data or http URL stays as it is."""
        value = self.images[image]
        if not isinstance(value, str | Path):
            raise DataError(f"{self.where}: images[{image}] is {type(value).__name__} in memory; expected a path")
        if isinstance(value, str) and value.startswith(URLS):
            return value
        return (self.path.parent if self.path else Path()) / value

    def video_files(self, index: int) -> tuple[Path, ...]:
        """Where the files of one video lie, found as those of images are."""
        folder = self.path.parent if self.path else Path()
        return tuple(folder / name for name in self.videos[index].files)


def geometry_json(annotation: Annotation, image_count: int = 1) -> dict[str, Any]:
    """One entry of ``objects`` in pixels; ``image`` is named when the record has several images."""
    numbers = [[int(v) if float(v).is_integer() else float(v) for v in point] for point in annotation.shape.points]
    image = {"image": annotation.image} if image_count > 1 else {}
    return {**image, **write_shape(annotation.shape.kind, numbers), "desc": annotation.desc}


def read_records(path: str | Path) -> list[Record]:
    """All records of a JSONL file, in file order.

    Raises:
        RecordError: the first problem of the file; ``qcvl.check`` finds all of them.
    """
    return [Record.from_json(text, path, number) for number, text in numbered_lines(path)]


def line_offsets(content: bytes) -> np.ndarray:
    """Byte offsets ``[N + 1]`` of the lines: line ``i`` is ``content[offsets[i]:offsets[i + 1]]``."""
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    tail = [] if content[-1:] in (b"", b"\n") else [len(content)]
    return np.concatenate([[0], ends, tail]).astype(np.int64)


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """``(line number from 1, bytes)`` of each line; blank lines at the very end are left out."""
    file = require_file(path)
    content = file.read_bytes().removeprefix(BOM).rstrip()
    if not content:
        raise RecordError("the file is empty; expected one JSON object a line", path=path)
    offsets = line_offsets(content)
    for number, (start, end) in enumerate(pairwise(offsets), 1):
        yield number, content[start:end]


def require_file(path: str | Path) -> Path:
    """The path of an existing file; else a RecordError that says what is there."""
    file = Path(path)
    if not file.is_file():
        raise RecordError(_missing(file), path=path)
    return file


def _missing(file: Path) -> str:
    if file.is_dir():
        found = sorted(entry.name for entry in file.glob("*.jsonl"))[:5]
        return f"is a folder; expected a JSONL file{', for instance ' + ', '.join(found) if found else ''}"
    if not file.parent.is_dir():
        return f"the folder {file.parent} does not exist; expected a JSONL file"
    near = get_close_matches(file.name, [entry.name for entry in file.parent.iterdir()], n=1)
    return f"the file does not exist{'; did you mean ' + near[0] + '?' if near else '; expected a JSONL file'}"
