"""Photos between two warps: the pixels as they are, and the map to the canvas that no warp has followed yet."""

from dataclasses import dataclass

import numpy as np

from qcvl.augment.actions import Reframe, Window
from qcvl.augment.view import frame_window
from qcvl.augment.warp import warp
from qcvl.geometry.affine import IDENTITY, apply_affine, keeps_boxes


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """Photos of one size ``[H, W, 3]`` and where they will show, once somebody asks for pixels.

    ``matrix`` [3, 3] leads from their pixels to the canvas of ``size`` ``(width, height)``, and ``visible`` is the part
    of the canvas they may fill; None where no barrier has come yet and the photos are the canvas.
    """

    photos: tuple[np.ndarray, ...]
    size: tuple[int, int]
    matrix: np.ndarray
    visible: Window | None = None

    @classmethod
    def of(cls, photos: list[np.ndarray]) -> "Canvas":
        """The canvas that untouched photos of one size are."""
        height, width = photos[0].shape[:2]
        return cls(photos=tuple(photos), size=(width, height), matrix=IDENTITY)

    def reframed(self, barrier: Reframe, moves: np.ndarray, fill: int) -> "Canvas":
        """The canvas after ``moves`` [3, 3] on this one and a barrier behind them.

        A crop, pad, flip or change of size keeps what is visible a rectangle: it joins the map that waits, so that all
        of them together are one warp. Before a turn of what was cut already, the pixels are made.
        """
        matrix, visible = barrier.matrix @ moves, barrier.visible(*self.size)
        before = self
        if self.visible is not None and keeps_boxes(matrix):
            x1, y1, x2, y2 = self.visible
            ends = apply_affine([[x1, y1], [x2, y2]], matrix)
            visible = _common(visible, (*ends.min(axis=0).tolist(), *ends.max(axis=0).tolist()))
            matrix = matrix @ self.matrix
        elif self.visible is not None:
            before = Canvas.of(self.painted(fill))
        return Canvas(photos=before.photos, size=(barrier.width, barrier.height), matrix=matrix, visible=visible)

    def shrunk(self, size_wh: tuple[int, int], fill: int) -> "Canvas":
        """The same canvas in a smaller size; itself for one that is larger on either side."""
        width, height = size_wh
        if width > self.size[0] or height > self.size[1] or size_wh == self.size:
            return self
        barrier = Reframe(window=frame_window(*self.size), width=width, height=height)
        return self.reframed(barrier, IDENTITY, fill)

    def painted(self, fill: int) -> list[np.ndarray]:
        """The pixels: one warp a photo, grey ``fill`` where none shows; untouched photos themselves."""
        if self.visible is None:
            return list(self.photos)
        return [warp(photo, self.matrix, self.size, self.visible, fill) for photo in self.photos]


def _common(a: Window, b: Window) -> Window:
    """What two windows share; empty (but never turned round) where that is nothing."""
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    return x1, y1, max(x1, min(a[2], b[2])), max(y1, min(a[3], b[3]))
