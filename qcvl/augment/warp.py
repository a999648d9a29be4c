"""Pixels under a matrix: one antialiased OpenCV warp that follows the continuous-edge convention."""

import math

import cv2
import numpy as np

from qcvl.augment.actions import Window
from qcvl.geometry.affine import apply_affine, pixel_center_matrix, scale_matrix, translation_matrix
from qcvl.geometry.clip import TOLERANCE_PX

ROUNDING = 1e-6  # a turn's scale is 1 up to this
MOST_SAMPLES = 4  # along each axis of a new pixel; a photo that shrinks further is first reduced by whole pixels


def warp(image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], visible: Window, fill: int) -> np.ndarray:
    """Picture uint8 ``[h, w, 3]`` of ``image`` [H, W, 3] moved by ``matrix`` [3, 3]; grey ``fill`` where nothing shows.

    ``matrix`` maps continuous-edge pixels (pixel ``i`` covers ``i`` to ``i + 1``), so a flip, a whole-pixel shift and a
    quarter turn move pixels without changing one value. Outside ``visible`` (new pixels) the canvas is ``fill``. Where
    the photo shrinks, a new pixel is a mean over the area it covers.
    """
    width, height = size_wh
    x1, y1, x2, y2 = (round(value) for value in visible)
    if (x1, y1, x2, y2) == (0, 0, width, height):
        return _shown(image, matrix, size_wh, fill)
    canvas = np.full((height, width, image.shape[2]), fill, dtype=np.uint8)
    if x2 > x1 and y2 > y1:
        canvas[y1:y2, x1:x2] = _shown(image, translation_matrix(-x1, -y1) @ matrix, (x2 - x1, y2 - y1), fill)
    return canvas


def _shown(image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], fill: int) -> np.ndarray:
    """The picture of ``image`` under ``matrix``: a copy where pixels only change places, else filtered samples."""
    cut = _cut_out(image, matrix, *size_wh)
    if cut is not None:
        return cut
    shrink = 1 / float(np.linalg.svd(matrix[:2, :2], compute_uv=False)[-1])  # old pixels along a new one, at most
    if (blocks := math.ceil(shrink / MOST_SAMPLES - ROUNDING)) > 1:
        image, matrix = _reduced(image, matrix, size_wh, blocks)
        shrink /= blocks
    # As many samples in a new pixel as there are old ones under it, so that none is passed over; then their mean.
    samples = max(1, math.ceil(shrink - ROUNDING))
    finer = (samples * size_wh[0], samples * size_wh[1])
    sampled = _sampled(image, scale_matrix(samples) @ matrix, finer, fill)
    return sampled if samples == 1 else cv2.resize(sampled, size_wh, interpolation=cv2.INTER_AREA)


def _reduced(
    image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], blocks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means over ``blocks`` x ``blocks`` pixels of the part of ``image`` that shows, and the matrix from there."""
    height, width = image.shape[:2]
    corners = apply_affine(_corners(*size_wh), np.linalg.inv(matrix))
    first = np.clip(np.floor(corners.min(axis=0)) - 2 * blocks, 0, (width - 1, height - 1)).astype(int)
    last = np.clip(np.ceil(corners.max(axis=0)) + 2 * blocks, first + 1, (width, height)).astype(int)
    part = image[first[1] : last[1], first[0] : last[0]]
    right, bottom = ((last - first + blocks - 1) // blocks * blocks - (last - first)).tolist()
    if right or bottom:  # a block at the photo's edge is filled up with its last pixels
        part = cv2.copyMakeBorder(part, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    size = (part.shape[1] // blocks, part.shape[0] // blocks)
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    x, y = first.tolist()
    return small, matrix @ translation_matrix(x, y) @ scale_matrix(blocks)


def _sampled(image: np.ndarray, matrix: np.ndarray, size_wh: tuple[int, int], fill: int) -> np.ndarray:
    """One interpolated sample a pixel; the photo's edge is grey ``fill`` unless the whole picture lies inside it."""
    seen = apply_affine(_corners(*size_wh), np.linalg.inv(matrix))
    limit = (image.shape[1] + TOLERANCE_PX, image.shape[0] + TOLERANCE_PX)
    inside = bool((seen >= -TOLERANCE_PX).all() and (seen <= limit).all())
    return cv2.warpAffine(
        image,
        pixel_center_matrix(matrix)[:2],
        size_wh,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT,
        borderValue=(fill, fill, fill),
    )


def _corners(width: int, height: int) -> np.ndarray:
    return np.array([[0.0, 0.0], [width, 0], [width, height], [0, height]])


def _cut_out(image: np.ndarray, matrix: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """A copy of the window that a flip, turn or whole-pixel shift shows of ``image`` [H, W, 3]; else None.

    None for any other map, and for a window that reaches beyond the picture. In plain numbers: this is most of the time
    that a small window of a photo takes.
    """
    (a, b, right), (c, d, down), _ = matrix.tolist()
    if a == d == 0:
        turned, along_x, along_y = image.swapaxes(0, 1), b, c
    elif b == c == 0:
        turned, along_x, along_y = image, a, d
    else:
        return None
    if abs(along_x) != 1 or abs(along_y) != 1:
        return None
    # A window starts where the map takes edge 0; of a mirrored axis, it ends there.
    x = -right if along_x > 0 else turned.shape[1] - right
    y = -down if along_y > 0 else turned.shape[0] - down
    if not (x.is_integer() and y.is_integer()):
        return None
    if x < 0 or y < 0 or x + width > turned.shape[1] or y + height > turned.shape[0]:
        return None
    turned = turned[:: int(along_y), :: int(along_x)]
    return turned[int(y) : int(y) + height, int(x) : int(x) + width].copy()
