"""Square windows that cover a photo, and the eight views of a square: its flips and turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qcvl.geometry.affine import hflip_matrix, translation_matrix, vflip_matrix

PADDING_GREY = 128  # what lies beside a photo smaller than a window: no edge is stronger than half the range


def offsets(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of ``size`` px start along a side of ``length`` px, evenly spaced: 0 first, ``length - size`` last.

    As few as possible while neighbours share ``overlap`` px; a side no longer than a window has one, at 0.

    >>> offsets(640, 128, 42)
    [0, 85, 170, 256, 341, 426, 512]
    """
    rest = length - size
    if rest <= 0:
        return [0]
    steps = -(-rest // (size - overlap))
    return [step * rest // steps for step in range(steps + 1)]


def windows(width: int, height: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Top left corners ``(x, y)`` of all windows of a photo, row by row."""
    columns = offsets(width, size, overlap)
    return [(x, y) for y in offsets(height, size, overlap) for x in columns]


def cut(image: np.ndarray, corner: tuple[int, int], size: int) -> np.ndarray:
    """The window ``[size, size, 3]`` at ``corner``, without a copy; outside the photo it is grey."""
    x, y = corner
    window = image[y : y + size, x : x + size]
    beside = [(0, size - window.shape[0]), (0, size - window.shape[1]), (0, 0)]
    return np.pad(window, beside, constant_values=PADDING_GREY) if window.shape[:2] != (size, size) else window


@dataclass(frozen=True, slots=True)
class View:
    """A flip or turn of a square: rows and columns swapped first, then mirrored left-right, then upside down."""

    swap: bool
    mirror: bool
    upend: bool

    def see(self, pixels: np.ndarray) -> np.ndarray:
        """The view of square pixels ``[S, S, 3]``, without a copy."""
        pixels = pixels.swapaxes(0, 1) if self.swap else pixels
        return pixels[:: -1 if self.upend else 1, :: -1 if self.mirror else 1]

    def back(self, size: int) -> np.ndarray:
        """The ``[3, 3]`` matrix that takes points of the view back to the square of ``size`` px, exactly.

        Each of the three parts undoes itself, so they are applied in the opposite order.
        """
        matrix = np.eye(3)
        if self.upend:
            matrix = vflip_matrix(size) @ matrix
        if self.mirror:
            matrix = hflip_matrix(size) @ matrix
        return np.eye(3)[[1, 0, 2]] @ matrix if self.swap else matrix


# As it is, mirrored, upside down, half a turn; then the same four of the transposed square. Any first half is balanced.
VIEWS = tuple(
    View(swap, mirror, upend) for swap in (False, True) for upend in (False, True) for mirror in (False, True)
)


class Look(NamedTuple):
    """One question about a photo: the window at ``corner`` in one view; ``matrix`` takes its points to the photo."""

    corner: tuple[int, int]
    view: View
    matrix: np.ndarray

    def pixels(self, images: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, ...]:
        """What is seen of each of the aligned photos, uint8 ``[size, size, 3]``."""
        return tuple(self.view.see(cut(image, self.corner, size)) for image in images)


def looks(width: int, height: int, size: int, overlap: int, views: int) -> list[Look]:
    """Every window of a photo in the first ``views`` views, window by window."""
    back = {view: view.back(size) for view in VIEWS[:views]}
    return [
        Look(corner, view, translation_matrix(*corner) @ matrix)
        for corner in windows(width, height, size, overlap)
        for view, matrix in back.items()
    ]
