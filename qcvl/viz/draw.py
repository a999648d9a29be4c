"""Annotations on a photo: outlines with sub-pixel corners, and labels that keep out of each other's way."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from qcvl.geometry.shapes import Points
from qcvl.schema.types import Annotation
from qcvl.viz.fonts import Color, Typeface, can_write, default_typeface, one_line
from qcvl.viz.labels import place_labels
from qcvl.viz.text import shorten, write_badge

# Paul Tol's "bright" and "vibrant" colours: told apart by readers with any colour vision.
PALETTE: tuple[Color, ...] = (
    (0, 119, 187),
    (238, 119, 51),
    (0, 153, 136),
    (204, 51, 17),
    (170, 51, 119),
    (51, 187, 238),
    (204, 187, 68),
    (34, 136, 51),
    (238, 51, 119),
    (102, 102, 238),
)
SEAM: Color = (0, 0, 0)  # a dark seam on both sides keeps an outline visible on a ground of its own colour
SEAM_OPACITY = 0.55
SUBPIXEL_BITS = 4  # cv2 takes coordinates in 1/16 px
FAR_PX = 30_000.0  # a wild answer's coordinates end here, outside any picture: cv2 counts in 32 bits
Pattern = Literal["solid", "dashed", "dotted"]
STROKES: dict[Pattern, tuple[float, float]] = {"dashed": (9.0, 6.0), "dotted": (1.0, 6.0)}  # px on, off at thickness 2
MAX_LABEL_SHARE = 0.6  # of the picture's width, for one label
FONT_SHARE, FONT_PX = 1 / 26, (12, 26)  # em height as a share of the shorter side, and its bounds


@dataclass(frozen=True, slots=True)
class Style:
    """How one object is drawn."""

    color: Color
    pattern: Pattern = "solid"


def desc_styles(descs: Sequence[str]) -> list[Style]:
    """One style per desc: its own colour within the picture, as far as ten go, and mostly the same in all pictures.

    A desc's hash names its colour; where two descs of the picture want one colour, the later in the alphabet moves on.
    """
    taken: dict[int, str] = {}
    for desc in sorted(set(descs)):
        first = zlib.crc32(desc.encode()) % len(PALETTE)
        slots = [(first + step) % len(PALETTE) for step in range(len(PALETTE))]
        taken[next((slot for slot in slots if slot not in taken), len(taken))] = desc
    colors = {desc: PALETTE[slot % len(PALETTE)] for slot, desc in taken.items()}
    return [Style(colors[desc]) for desc in descs]


def draw_annotations(
    image: np.ndarray,
    annotations: Sequence[Annotation],
    *,
    labels: Sequence[str] | None = None,
    styles: Sequence[Style] | None = None,
    scale: float = 1.0,
    typeface: Typeface | None = None,
) -> np.ndarray:
    """A copy of the photo with its objects drawn, uint8 ``[round(H * scale), round(W * scale), 3]``.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        annotations: objects of this photo, in its pixels (continuous edges).
        labels: one text per object, empty for none; the descs when not given. A text no font here can write becomes
            the object's number, counted from 1.
        styles: one style per object; a colour per desc when not given.
        scale: enlargement, so that lines and labels stay readable on small photos.
        typeface: writes the labels; the machine's best when not given.
    """
    typeface = typeface or default_typeface()
    labels = [a.desc for a in annotations] if labels is None else labels
    styles = desc_styles([a.desc for a in annotations]) if styles is None else styles
    canvas = resize(image, scale)
    # Edge coordinate x is the left border of pixel x, whose centre cv2 calls x: half a pixel less.
    outlines = [np.clip(a.shape.outline * scale - 0.5, -FAR_PX, FAR_PX) for a in annotations]
    short = min(canvas.shape[:2])
    thickness = max(2, round(short / 240))
    closed = [a.shape.kind != "line" for a in annotations]
    canvas = _stroke_all(canvas, outlines, closed, styles, thickness)
    size = int(np.clip(round(short * FONT_SHARE), *FONT_PX))
    texts = [_label_text(text, number, size, canvas, typeface) for number, text in enumerate(labels, start=1)]
    corners = place_labels(outlines, texts, size, canvas.shape, typeface)
    for corner, text, style in zip(corners, texts, styles, strict=True):
        if text:
            write_badge(canvas, text, corner, size, style.color, typeface)
    return canvas


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """A scaled copy of uint8 ``[H, W, 3]``: cubic when it grows, area means when it shrinks."""
    if scale == 1.0:
        return image.copy()
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)


def _label_text(text: str, number: int, size: int, canvas: np.ndarray, typeface: Typeface) -> str:
    text = one_line(text)
    text = text if can_write(text, typeface) else str(number)
    return shorten(text, round(canvas.shape[1] * MAX_LABEL_SHARE), size, typeface, bold=True)


def _stroke_all(
    canvas: np.ndarray, outlines: Sequence[Points], closed: Sequence[bool], styles: Sequence[Style], thickness: int
) -> np.ndarray:
    """The picture with all outlines ``[N, 2]``, anti-aliased, over half-transparent dark seams."""
    paths = []
    for outline, is_closed, style in zip(outlines, closed, styles, strict=True):
        ring = np.vstack([outline, outline[:1]]) if is_closed else outline
        parts = [ring]
        if style.pattern != "solid":
            parts = _dashes(ring, *(length * thickness / 2 for length in STROKES[style.pattern]))
        paths.append([np.round(part * 2**SUBPIXEL_BITS).astype(np.int32).reshape(-1, 1, 2) for part in parts])
    seams = canvas.copy()
    for path in paths:
        cv2.polylines(seams, path, False, SEAM, thickness + 2, cv2.LINE_AA, SUBPIXEL_BITS)
    canvas = cv2.addWeighted(canvas, 1 - SEAM_OPACITY, seams, SEAM_OPACITY, 0)
    for path, style in zip(paths, styles, strict=True):
        cv2.polylines(canvas, path, False, style.color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _dashes(points: Points, dash: float, gap: float) -> list[Points]:
    """The dashes ``[M, 2]`` of a polyline ``[N, 2]``; corners inside a dash are kept."""
    lengths = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    parts = []
    for start in np.arange(0.0, max(along[-1], 1e-9), dash + gap):
        end = min(start + dash, along[-1])
        at = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        parts.append(np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=1))
    return parts
