"""Pixels under a matrix: one OpenCV warp that follows the continuous-edge convention."""

import cv2
import numpy as np

from qcvl.augment.actions import Window
from qcvl.geometry.affine import pixel_center_matrix, translation_matrix


def warp(image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], visible: Window, fill: int) -> np.ndarray:
    """Picture uint8 ``[h, w, 3]`` of ``image`` [H, W, 3] moved by ``matrix`` [3, 3]; grey ``fill`` where nothing shows.

    ``matrix`` maps continuous-edge pixels (pixel ``i`` covers ``i`` to ``i + 1``), so a flip, a whole-pixel shift and a
    quarter turn move pixels without changing one value. Outside ``visible`` (new pixels) the canvas is ``fill``.
    """
    width, height = size_wh
    x1, y1, x2, y2 = (round(value) for value in visible)
    centred = pixel_center_matrix(translation_matrix(-x1, -y1) @ matrix)
    shown = _cut_out(image, centred, x2 - x1, y2 - y1)
    if shown is None:
        shown = cv2.warpAffine(
            image,
            centred[:2],
            (x2 - x1, y2 - y1),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(fill, fill, fill),
        )
    if shown.shape[:2] == (height, width):
        return shown
    canvas = np.full((height, width, image.shape[2]), fill, dtype=np.uint8)
    canvas[y1:y2, x1:x2] = shown
    return canvas


def _cut_out(image: np.ndarray, centred: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """A copy of the window that a whole-pixel shift shows of ``image``; None for another map or a window beyond it."""
    x, y = -centred[0, 2], -centred[1, 2]
    if not (np.array_equal(centred[:2, :2], np.eye(2)) and x == int(x) and y == int(y)):
        return None
    if x < 0 or y < 0 or x + width > image.shape[1] or y + height > image.shape[0]:
        return None
    return image[int(y) : int(y) + height, int(x) : int(x) + width].copy()
