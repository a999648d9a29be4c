"""Blocks of text around pictures: wrapped headings, and legends whose lines begin with a coloured number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.viz.fonts import Color, Typeface, can_write, one_line

PAPER: Color = (250, 250, 248)
INK: Color = (32, 33, 36)
FAINT: Color = (112, 117, 122)
LINE_HEIGHT = 1.5  # of the em height; a badge with its padding fits between two baselines
UNWRITABLE = "(no font for this text; see the .txt)"


@dataclass(frozen=True, slots=True)
class TextLine:
    """One entry of a block: an optional coloured badge, the text, and a faint remark at the end of its last line."""

    text: str
    badge: str = ""
    badge_color: Color = INK
    remark: str = ""
    bold: bool = False
    color: Color = INK


def text_block(
    lines: Sequence[TextLine], width: int, size: int, typeface: Typeface, *, max_rows: int = 3
) -> np.ndarray:
    """The entries below each other on paper colour, uint8 ``[H, width, 3]``; long ones wrap to ``max_rows`` rows."""
    row = round(size * LINE_HEIGHT)
    badges = [badge_size(line.badge, size, typeface)[0] for line in lines if line.badge]
    indent = max(badges) + round(size / 2) if badges else 0
    wrapped = [wrap(_full_text(line, typeface), width - indent, size, typeface, line.bold, max_rows) for line in lines]
    canvas = np.full((row * sum(map(len, wrapped)), width, 3), PAPER, np.uint8)
    y = round(size * 1.1)  # baseline of the first row: its capitals then stand in the middle of the row
    for line, rows in zip(lines, wrapped, strict=True):
        if line.badge:
            write_badge(canvas, line.badge, (0, y - round(0.95 * size)), size, line.badge_color, typeface)
        for text in rows:
            _write_row(canvas, text, line, (indent, y), size, typeface)
            y += row
    return canvas


def wrap(text: str, width: int, size: int, typeface: Typeface, bold: bool = False, max_rows: int = 3) -> list[str]:
    """Rows of ``text`` that fit ``width`` px: broken at spaces where there are, else anywhere; cut off with ``…``."""
    rows: list[str] = []
    rest = text
    while rest and len(rows) < max_rows:
        end = _fitting(rest, width, size, typeface, bold)
        if end < len(rest):
            space = rest.rfind(" ", 1, end + 1)
            end = space if space > 0 else end
        rows.append(rest[:end].strip())
        rest = rest[end:].strip()
    if rest:
        rows[-1] = shorten(f"{rows[-1]} {rest}", width, size, typeface, bold)
    return rows or [""]


def shorten(text: str, width: int, size: int, typeface: Typeface, bold: bool = False) -> str:
    """``text``, cut to fit ``width`` px with ``…`` for what is left out."""
    if typeface.width(text, size, bold=bold) <= width:
        return text
    end = _fitting(text, width - typeface.width("…", size, bold=bold), size, typeface, bold)
    return text[:end].rstrip() + "…"


def badge_size(text: str, size: int, typeface: Typeface) -> tuple[int, int]:
    """``(width, height)`` in px of the badge around ``text``."""
    return typeface.width(text, size, bold=True) + round(0.7 * size), round(1.3 * size)


def write_badge(
    canvas: np.ndarray, text: str, xy: tuple[int, int], size: int, color: Color, typeface: Typeface
) -> None:
    """Draw in place a filled label with ``text`` in black or white, whichever reads better; ``xy`` is its top left."""
    (width, height), (x, y) = badge_size(text, size, typeface), xy
    canvas[max(y, 0) : y + height, max(x, 0) : x + width] = color
    typeface.write(canvas, text, (x + round(0.35 * size), y + size), size, readable_on(color), bold=True)


def readable_on(color: Color) -> Color:
    """Black or white, whichever has more contrast on ``color`` (luma of ITU-R BT.601)."""
    red, green, blue = color
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def writable(text: str, typeface: Typeface) -> str:
    """``text`` on one line, or a note that no font here can write it."""
    text = one_line(text)
    return text if can_write(text, typeface) else UNWRITABLE


def _full_text(line: TextLine, typeface: Typeface) -> str:
    text = writable(line.text, typeface)
    return f"{text}  {line.remark}" if line.remark else text


def _write_row(
    canvas: np.ndarray, text: str, line: TextLine, xy: tuple[int, int], size: int, typeface: Typeface
) -> None:
    """One row; a remark that ended up whole at its end is written faint."""
    head = text.removesuffix(line.remark) if line.remark else text
    typeface.write(canvas, head, xy, size, line.color, bold=line.bold)
    if head != text:
        x = xy[0] + typeface.width(head, size, bold=line.bold)
        typeface.write(canvas, line.remark, (x, xy[1]), size, FAINT)


def _fitting(text: str, width: int, size: int, typeface: Typeface, bold: bool) -> int:
    """How many leading characters fit ``width`` px, at least 1; found by halving, since widths only grow."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if typeface.width(text[:middle], size, bold=bold) <= width else (low, middle - 1)
    return low
