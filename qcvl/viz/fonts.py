"""Typefaces that can write descs, Chinese ones too, without shipping a font.

OpenCV 5 carries Rubik and WenQuanYi Micro Hei inside its library, so the base install draws Chinese. An older OpenCV
falls back to Pillow with a font of the machine, and texts that font lacks are not drawn at all: pictures then show
object numbers, and the text that goes beside each picture holds the words.
"""

from abc import ABC, abstractmethod
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from qcvl.log import get_logger

_LOG = get_logger(__name__)

Color = tuple[int, int, int]  # red, green, blue, 0..255

# Where Linux, macOS and Windows keep fonts.
FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)

# Fonts with Chinese first, then a common one with accents and signs such as ×.
FONT_NAMES = (
    "NotoSansCJK-Regular*",
    "NotoSansCJKsc-Regular*",
    "NotoSansSC*",
    "SourceHanSans*",
    "wqy-*",
    "DroidSansFallback*",
    "PingFang*",
    "STHeiti*",
    "msyh*",
    "simhei*",
    "DejaVuSans.ttf",
)

UNASSIGNED = "\U0010ffff"  # no font has a glyph for it, so it looks as a missing character looks
CHINESE_PROBE = "螺"
BOLD, REGULAR = 650, 400  # OpenType weights
_PROBE_PX = 24  # size at which a character is compared with the missing one


class Typeface(ABC):
    """Writes one line of text on an RGB array; sizes are em heights in px, positions the left end of the baseline."""

    @abstractmethod
    def width(self, text: str, size: int, *, bold: bool = False) -> int:
        """Width in px of ``text``."""

    @abstractmethod
    def write(
        self, canvas: np.ndarray, text: str, xy: tuple[int, int], size: int, color: Color, *, bold: bool = False
    ) -> None:
        """Draw ``text`` in place on uint8 ``[H, W, 3]``, anti-aliased; what lies outside is cut off."""


class OpenCvTypeface(Typeface):
    """The fonts inside OpenCV 5: Rubik, and WenQuanYi Micro Hei for what Rubik lacks."""

    def __init__(self) -> None:
        self._face = cv2.FontFace("sans")

    def __repr__(self) -> str:
        return "OpenCV's own"

    def width(self, text: str, size: int, *, bold: bool = False) -> int:
        """Width in px of ``text``, trailing spaces included."""
        canvas = np.zeros((1, 1, 3), np.uint8)
        (end, _), _ = cv2.putText(canvas, text, (0, 0), (0, 0, 0), self._face, size, BOLD if bold else REGULAR)
        return int(end)

    def write(
        self, canvas: np.ndarray, text: str, xy: tuple[int, int], size: int, color: Color, *, bold: bool = False
    ) -> None:
        """Draw ``text`` in place on uint8 ``[H, W, 3]``."""
        cv2.putText(canvas, text, xy, color, self._face, size, BOLD if bold else REGULAR)


class PillowTypeface(Typeface):
    """One font file of the machine through FreeType, or Pillow's own Latin font for ``path=None``."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def __repr__(self) -> str:
        return str(self.path or "Pillow's own")

    def width(self, text: str, size: int, *, bold: bool = False) -> int:
        """Width in px of ``text``; a single file has no bold."""
        return round(_pillow_font(self.path, size).getlength(text))

    def write(
        self, canvas: np.ndarray, text: str, xy: tuple[int, int], size: int, color: Color, *, bold: bool = False
    ) -> None:
        """Draw ``text`` in place on uint8 ``[H, W, 3]``."""
        picture = Image.fromarray(canvas)
        ImageDraw.Draw(picture).text(xy, text, font=_pillow_font(self.path, size), fill=color, anchor="ls")
        canvas[:] = np.asarray(picture)


@cache
def default_typeface() -> Typeface:
    """The first typeface of this machine that writes Chinese: OpenCV's own, a system font; else the last one tried."""
    if hasattr(cv2, "FontFace") and _has_glyph(CHINESE_PROBE, OpenCvTypeface()):
        return OpenCvTypeface()
    return PillowTypeface(find_font())


def find_font(folders: tuple[str, ...] = FONT_FOLDERS) -> Path | None:
    """The first file in ``folders`` that a name of ``FONT_NAMES`` fits, in the order of the names; else ``None``."""
    files = sorted(file for folder in folders for file in Path(folder).expanduser().rglob("*.[to]t[fc]"))
    matching = (file for name in FONT_NAMES for file in files if file.match(name))
    return next(matching, None)


def can_write(text: str, typeface: Typeface) -> bool:
    """True when the typeface has a glyph for every character of ``text``; says so once in the log when it has not."""
    # OpenCV draws "?" for what it lacks, so "?" itself looks missing.
    complete = all(_has_glyph(character, typeface) for character in set(text) - set(" ?"))
    if not complete:
        _warn_of_missing_glyphs(typeface)
    return complete


def one_line(text: str) -> str:
    """``text`` on one line: white space and characters that cannot be printed become single spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@cache
def _warn_of_missing_glyphs(typeface: Typeface) -> None:
    """Cached, so that it speaks once per typeface."""
    _LOG.warning(
        "The font at hand cannot write some texts (%s): pictures show object numbers instead, and the .txt beside each "
        "has the words. For Chinese install opencv-python-headless>=5, or the system package fonts-noto-cjk.",
        typeface,
    )


@lru_cache(maxsize=65536)
def _has_glyph(character: str, typeface: Typeface) -> bool:
    return not np.array_equal(_probe(character, typeface), _probe(UNASSIGNED, typeface))


def _probe(character: str, typeface: Typeface) -> np.ndarray:
    canvas = np.zeros((2 * _PROBE_PX, 3 * _PROBE_PX, 3), np.uint8)
    typeface.write(canvas, character, (_PROBE_PX // 2, round(1.5 * _PROBE_PX)), _PROBE_PX, (255, 255, 255))
    return canvas


@lru_cache(maxsize=64)
def _pillow_font(path: Path | None, size: int) -> FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(str(path), size)
