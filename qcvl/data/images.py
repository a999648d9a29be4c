"""Decode a photo the way a person sees it: EXIF orientation applied, 8-bit RGB, first frame only."""

import base64
import binascii
import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from qcvl.errors import DataError
from qcvl.schema.records import Record
from qcvl.schema.types import ImageValue

MAX_PIXELS = 178_956_970  # above twice its Image.MAX_IMAGE_PIXELS (a quarter of 1 GiB in RGB) Pillow sees an attack
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that swap width and height
# What Pillow raises for damaged files besides its own errors, found by handing it thousands of them.
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, RuntimeError, struct.error)


def load_image(value: ImageValue, where: str = "image") -> np.ndarray:
    """Return a photo as uint8 RGB ``[H, W, 3]`` after EXIF orientation.

    Args:
        value: a path, data URL, encoded bytes, RGB array or PIL image.
        where: what an error message starts with, as ``train.jsonl:7: images[0]``.

    Raises:
        DataError: for a missing, empty, truncated, oversized or unreadable image.
    """
    if isinstance(value, np.ndarray):
        return _checked_array(value, where)
    with _decoding(value, where) as image:
        return _to_rgb(image)


def image_size(value: ImageValue, where: str = "image") -> tuple[int, int]:
    """``(width, height)`` after EXIF orientation; an encoded photo is read only as far as its header.

    Raises:
        DataError: as ``load_image``, but for damage behind the header.
    """
    return image_header(value, where)[0]


def photo_sizes(record: Record, count: int | None = None) -> list[tuple[int, int]]:
    """``(width, height)`` of the first ``count`` photos of a record (None: all), as it or their headers say.

    Raises:
        DataError: as ``image_size``, named by the record's place.
    """
    shown = record.images[:count]
    if record.sizes:
        return list(record.sizes[: len(shown)])
    return [
        image_size(record.image_path(index) if isinstance(value, str) else value, f"{record.where}: images[{index}]")
        for index, value in enumerate(shown)
    ]


def image_header(value: ImageValue, where: str = "image") -> tuple[tuple[int, int], bool]:
    """``(width, height)`` after EXIF orientation, and whether that exchanged the stored sides; see ``image_size``."""
    if isinstance(value, np.ndarray):
        height, width = _checked_array(value, where).shape[:2]
        return (width, height), False
    with _decoding(value, where) as image:
        turned = _orientation(image) in TURNED
        # Of a TIFF, Pillow gives the sides as turned already in some releases and as stored in others.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
        return ((height, width) if turned else (width, height)), turned


def load_thumbnail(value: ImageValue, side: int, where: str = "image") -> np.ndarray:
    """Grey levels uint8 ``[side, side]`` of a whole photo after EXIF orientation, each the mean of its part.

    All of an encoded photo is read, so damage is found as by ``load_image``; a JPEG is decoded at an eighth of its
    sides where that leaves enough, which is several times as fast.
    """
    if isinstance(value, np.ndarray):
        rgb = _checked_array(value, where)
    else:
        with _decoding(value, where) as image:
            if image.format == "JPEG":
                image.draft("L", (8 * side, 8 * side))
            rgb = _to_rgb(image)
    return np.asarray(Image.fromarray(rgb).convert("L").resize((side, side), Image.Resampling.BOX))


def shorten(text: str, limit: int = 200) -> str:
    """The text, or its first characters where a data URL would fill the screen."""
    return text if len(text) <= limit else text[:40] + "…"


@contextmanager
def _decoding(value: ImageValue, where: str) -> Iterator[Image.Image]:
    """The opened photo; whatever Pillow raises for it, at once or while it decodes, becomes one DataError."""
    name = f"{where} ({shorten(str(value))})" if isinstance(value, str | Path) else where
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # given from half the limit on
            if isinstance(value, Image.Image):
                yield value
                return
            with Image.open(_open(value, name)) as image:
                yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image Pillow can read; convert it to JPEG or PNG") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} is larger than {MAX_PIXELS} pixels; scale it down first") from error
    except DAMAGE as error:
        raise DataError(f"{name} is damaged: {error}; copy it again or remove the record") from error


def _open(value: ImageValue, name: str) -> Path | io.BytesIO:
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if isinstance(value, str) and value.startswith("data:"):
        try:
            return io.BytesIO(base64.b64decode(value.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise DataError(f"{name} is a data URL whose base64 part cannot be decoded") from error
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise DataError(f"{name} is a URL; download the photos first and give their paths")
    path = Path(str(value))
    if not path.is_file():
        there = "its folder does not exist" if not path.parent.is_dir() else "the folder exists, the file does not"
        raise DataError(f"{name} not found: {there}; paths are relative to the JSONL's folder")
    return path


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; of a PNG, whose EXIF Pillow only gives after decoding it all, only where it has any."""
    if image.format == "PNG" and "exif" not in image.info and not _png_holds_exif(image):
        return None
    return image.getexif().get(ORIENTATION)


def _png_holds_exif(image: Image.Image) -> bool:
    """Whether a PNG has a chunk that may hold an orientation behind its pixels, which are skipped."""
    file = getattr(image, "fp", None)
    if file is None or "XML:com.adobe.xmp" in image.info or "Raw profile type exif" in image.info:
        return True
    place = file.tell()
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(size + 4, 1)
        return False
    finally:
        file.seek(place)


def _to_rgb(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":
        samples = np.asarray(image).astype(np.int64).clip(0, 65535)  # Pillow's own conversion would clip at 255
        return np.repeat((samples >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(canvas, layer).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _checked_array(value: np.ndarray, where: str) -> np.ndarray:
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        raise DataError(f"{where} is an array of {value.dtype} {value.shape}; expected uint8 RGB [H, W, 3]")
    return value
