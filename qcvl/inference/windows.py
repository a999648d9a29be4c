"""Square windows that cover a photo, and the eight views of a square: its flips and turns."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qcvl.data.dataset import FILL
from qcvl.geometry.affine import flip_turn, flip_turn_matrix, inverse_flip_turn, translation_matrix


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
    return np.pad(window, beside, constant_values=FILL) if window.shape[:2] != (size, size) else window


class Look(NamedTuple):
    """One question about a photo: the window at ``corner`` in one view; ``matrix`` takes its points to the photo.

    ``view`` numbers the flips and turns of ``geometry.affine.flip_turn``: as it is, mirrored, upside down, half a turn,
    then the same four mirrored at the diagonal. Any first half of them is balanced.
    """

    corner: tuple[int, int]
    view: int
    matrix: np.ndarray

    def pixels(self, images: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, ...]:
        """What is seen of each of the aligned photos, uint8 ``[size, size, 3]``."""
        return tuple(flip_turn(cut(image, self.corner, size), self.view) for image in images)


def looks(width: int, height: int, size: int, overlap: int, views: int) -> list[Look]:
    """Every window of a photo in the first ``views`` views, window by window."""
    back = {view: flip_turn_matrix(inverse_flip_turn(view), size, size) for view in range(views)}
    return [
        Look(corner, view, translation_matrix(*corner) @ matrix)
        for corner in windows(width, height, size, overlap)
        for view, matrix in back.items()
    ]
