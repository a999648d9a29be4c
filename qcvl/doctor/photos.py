"""Photos without and with their pixels: what the header says, damage, and fingerprints to find photos twice."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from qcvl.data.images import image_header, load_thumbnail, shorten
from qcvl.doctor.reading import Entry
from qcvl.errors import DataError
from qcvl.schema.types import URLS, ImageValue

GRID = 9  # grey means along each side: 8 x 8 differences to the right and 8 x 8 downwards are 128 bits
FLAT = 2.0  # grey levels of standard deviation below which a photo is one colour and has no fingerprint
Size = tuple[int, int]
Fault = tuple[str, str, str]  # field, code, message


@dataclass(frozen=True, slots=True)
class Photo:
    """What is known of one photo of a record: its size after EXIF orientation, file, bytes, and 128-bit fingerprint."""

    size: Size | None
    file: str | None
    bytes: int
    fingerprint: tuple[int, int] | None


def look_at_photos(entry: Entry, *, decode: bool) -> tuple[list[Photo], list[Fault]]:
    """Each photo of a record as far as known, and what is wrong with it; ``decode`` also reads its pixels."""
    photos, faults = [], []
    stated = entry.said.sizes or (None,) * len(entry.said.images)
    for index, (value, size) in enumerate(zip(entry.said.images, stated, strict=True)):
        field = f"images[{index}]"
        photo, turned, wrong = _look(value, entry.path.parent if entry.path else Path(), decode)
        if wrong:
            faults.append((field, *wrong))
        elif size is not None and photo.size is not None and tuple(size) != photo.size:
            faults.append(("width, height", *_wrong_size(field, size, photo.size, turned)))
        photos.append(photo)
    return photos, faults


def forget_photos() -> None:
    """Look at every file anew from here on: what an earlier check of this process saw may have changed."""
    _look_at_file.cache_clear()


def photo_of(file: str, *, decode: bool) -> tuple[Size | None, bool]:
    """``(width, height)`` of a file as far as it can be read, and whether EXIF turned it."""
    if file.startswith(URLS):
        return None, False
    photo, turned, _ = _look_at_file(file, decode)
    return photo.size, turned


def fingerprint(grey: np.ndarray) -> tuple[int, int] | None:
    """128 bits of uint8 ``[9, 9]`` as two numbers: whether it gets brighter to the right, and downwards.

    None for a photo of one colour, whose bits would be noise.
    """
    levels = grey.astype(np.int16)
    if levels.std() < FLAT:
        return None
    right, down = levels[:8, 1:] > levels[:8, :8], levels[1:, :8] > levels[:8, :8]
    first, second = (int.from_bytes(np.packbits(bits).tobytes(), "big") for bits in (right, down))
    return first, second


def _look(value: ImageValue, folder: Path, decode: bool) -> tuple[Photo, bool, tuple[str, str] | None]:
    """A photo, whether EXIF turned it, and code and message of what is wrong with it."""
    if not isinstance(value, str | Path):
        return _read(value, None, 0, decode)
    text = str(value)
    if text.startswith(("http://", "https://")):
        wrong = ("image-url", f"is a URL ({shorten(text)}); download the photos first and give their paths")
        return Photo(None, None, 0, None), False, wrong
    if text.startswith("data:"):
        return _read(text, None, 0, decode)
    return _look_at_file(os.path.join(folder, text), decode)


@lru_cache(maxsize=2**15)  # many records may be about one photo
def _look_at_file(file: str, decode: bool) -> tuple[Photo, bool, tuple[str, str] | None]:
    try:
        size = os.stat(file).st_size if os.path.isfile(file) else None
    except (OSError, ValueError):  # a name with a zero byte, or longer than any file's
        size = None
    if size is None:
        there = _is_folder(os.path.dirname(file) or ".")
        reason = "its folder exists, the file does not" if there else "its folder does not exist"
        shown = shorten(file)
        wrong = ("image-missing", f"({shown}) not found: {reason}; paths are relative to the JSONL's folder")
        return Photo(None, None, 0, None), False, wrong
    return _read(file, file, size, decode)


def _read(value: ImageValue, file: str | None, size: int, decode: bool) -> tuple[Photo, bool, tuple[str, str] | None]:
    try:
        sides, turned = image_header(value, "")
        mark = fingerprint(load_thumbnail(value, GRID, "")) if decode else None
    except DataError as error:
        return Photo(None, file, size, None), False, ("image-damaged", str(error).strip())
    return Photo(sides, file and os.path.abspath(file), size, mark), turned, None


def _wrong_size(field: str, stated: Size, real: Size, turned: bool) -> tuple[str, str]:
    said, seen = f"{stated[0]}x{stated[1]}", f"{real[0]}x{real[1]}"
    if turned and tuple(stated) == real[::-1]:
        advice = "if the objects were measured on the photo as stored, turn their coordinates too"
        return "image-turned", f"say {said}, {field} before its EXIF orientation turns it to {seen}; {advice}"
    return "image-size", f"say {said} but {field} is {seen} after EXIF orientation; correct the record"


def _is_folder(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except ValueError:
        return False
