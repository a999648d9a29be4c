"""Pictures beside and below each other, and on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from qcvl.viz.draw import resize
from qcvl.viz.text import PAPER

MARGIN_PX = 12
COLUMNS = 4
THUMBNAIL_PX = 480  # width of a picture on a contact sheet: four fill a wide screen


def grid(images: Sequence[np.ndarray], columns: int, *, margin: int = MARGIN_PX) -> np.ndarray:
    """Pictures on one sheet, uint8 ``[H, W, 3]``: row by row, columns as wide as their widest picture, on paper colour.

    Args:
        images: uint8 RGB pictures ``[h, w, 3]`` of any sizes, at least one.
        columns: pictures in a row.
        margin: px between pictures and around the sheet.

    Raises:
        ValueError: for no picture or no column.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs pictures and columns; found {len(images)} and {columns}")
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.shape[0] for image in row) for row in rows]
    widths = [max(image.shape[1] for image in images[column::columns]) for column in range(len(rows[0]))]
    lefts = np.cumsum([margin, *(width + margin for width in widths)])
    tops = np.cumsum([margin, *(height + margin for height in heights)])
    sheet = np.full((tops[-1], lefts[-1], 3), PAPER, np.uint8)
    for top, row in zip(tops, rows, strict=False):
        for left, image in zip(lefts, row, strict=False):
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def contact_sheet(pictures: Sequence[np.ndarray], *, columns: int = COLUMNS, width: int = THUMBNAIL_PX) -> np.ndarray:
    """All pictures in rows of ``columns``, each at most ``width`` px wide, uint8 ``[H, W, 3]``."""
    small = [resize(picture, min(1.0, width / picture.shape[1])) for picture in pictures]
    return grid(small, min(columns, len(small)))


def save_png(path: str | Path, image: np.ndarray) -> Path:
    """Write uint8 RGB ``[H, W, 3]`` as PNG, making the folder, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")
    return path
