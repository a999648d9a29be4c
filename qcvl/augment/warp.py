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
    """A copy of the window that a flip, turn or whole-pixel shift shows of ``image`` [H, W, 3]; else None.

    None for any other map, and for a window that reaches beyond the picture.
    """
    linear = centred[:2, :2]
    signs = linear.sum(axis=1)
    swaps = linear[0, 0] == 0
    if not (np.array_equal(np.abs(linear), np.eye(2)[::-1] if swaps else np.eye(2))):
        return None
    turned = image.swapaxes(0, 1) if swaps else image
    turned = turned[:: int(signs[1]), :: int(signs[0])]
    mirrored = np.where(signs < 0, (turned.shape[1] - 1, turned.shape[0] - 1), 0)
    x, y = (mirrored - centred[:2, 2]).tolist()
    if not (x.is_integer() and y.is_integer()):
        return None
    if x < 0 or y < 0 or x + width > turned.shape[1] or y + height > turned.shape[0]:
        return None
    return turned[int(y) : int(y) + height, int(x) : int(x) + width].copy()
