"""3x3 affine matrices over continuous pixel coordinates, and shapes carried through them.

Matrices act on column vectors ``(x, y, 1)``; ``second @ first`` applies ``first`` first.
"""

import math
from collections.abc import Sequence

import numpy as np

from qcvl.geometry.shapes import Points, Shape, as_points

Matrix = np.ndarray  # float64 [3, 3], last row (0, 0, 1)

# Relative size below which an entry of the linear part is rounding: chained quarter turns leave about 1e-16.
AXIS_TOLERANCE = 1e-9
IDENTITY = np.eye(3)
IDENTITY.setflags(write=False)


def apply_affine(points_N2: Sequence | Points, matrix: Matrix) -> Points:
    """Points ``[N, 2]`` mapped by a ``[3, 3]`` affine matrix.

    >>> apply_affine([[10, 20], [30, 40]], hflip_matrix(100)).tolist()
    [[90.0, 20.0], [70.0, 40.0]]
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    return as_points(points_N2) @ matrix[:2, :2].T + matrix[:2, 2]


def hflip_matrix(width: float) -> Matrix:
    """The ``[3, 3]`` mirror ``x -> width - x``."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def vflip_matrix(height: float) -> Matrix:
    """The ``[3, 3]`` mirror ``y -> height - y``."""
    return np.array([[1.0, 0.0, 0.0], [0.0, -1.0, height], [0.0, 0.0, 1.0]])


def translation_matrix(dx: float, dy: float) -> Matrix:
    """The ``[3, 3]`` shift by ``(dx, dy)`` pixels."""
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def rotation_matrix(degrees: float, center_xy: tuple[float, float]) -> Matrix:
    """The ``[3, 3]`` turn about ``center_xy``; positive degrees are clockwise on screen, quarter turns are exact."""
    quarter, rest = divmod(degrees, 90.0)
    if rest == 0.0:
        cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(quarter) % 4]
    else:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _about(center_xy, np.array([[cos, -sin], [sin, cos]]))


def scale_matrix(sx: float, sy: float | None = None, center: tuple[float, float] = (0.0, 0.0)) -> Matrix:
    """The ``[3, 3]`` scaling by ``sx`` and ``sy`` (``sx`` again when not given) that keeps ``center`` in place."""
    return _about(center, np.diag([sx, sx if sy is None else sy]))


def shear_matrix(x_degrees: float, y_degrees: float, center_xy: tuple[float, float]) -> Matrix:
    """The ``[3, 3]`` shear about ``center_xy``: upright lines lean by ``x_degrees``, level ones by ``y_degrees``."""
    return _about(
        center_xy, np.array([[1.0, math.tan(math.radians(x_degrees))], [math.tan(math.radians(y_degrees)), 1.0]])
    )


def flip_turn_matrix(index: int, width: float, height: float) -> Matrix:
    """The ``[3, 3]`` map of a ``width`` x ``height`` canvas under one of its eight flips and turns, exact.

    0 to 3 keep the canvas' size: identity, left-right, top-bottom, half turn. 4 to 7 are the same followed by the
    mirror at the diagonal (``x`` and ``y`` change places), which gives a canvas of ``height`` x ``width``: the diagonal
    mirror, a quarter turn anticlockwise, one clockwise, and the mirror at the other diagonal.

    >>> apply_affine([[10, 20]], flip_turn_matrix(6, 100, 50)).tolist()
    [[30.0, 10.0]]
    """
    matrix = np.eye(3)
    if index & 1:
        matrix = hflip_matrix(width) @ matrix
    if index & 2:
        matrix = vflip_matrix(height) @ matrix
    diagonal = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return diagonal @ matrix if index & 4 else matrix


def flip_turn(pixels: np.ndarray, index: int) -> np.ndarray:
    """Pixels ``[H, W, ...]`` under the same flip or turn as ``flip_turn_matrix``, without a copy."""
    pixels = pixels[:: -1 if index & 2 else 1, :: -1 if index & 1 else 1]
    return pixels.swapaxes(0, 1) if index & 4 else pixels


def inverse_flip_turn(index: int) -> int:
    """The flip or turn that undoes another one: the quarter turns undo each other, the others themselves."""
    return {5: 6, 6: 5}.get(index, index)


def pixel_center_matrix(matrix: Matrix) -> Matrix:
    """The same map in OpenCV's coordinates, where pixel centres are integers, for ``cv2.warpAffine(…, result[:2])``."""
    return translation_matrix(-0.5, -0.5) @ matrix @ translation_matrix(0.5, 0.5)


def transform_shape(shape: Shape, matrix: Matrix) -> Shape:
    """The shape mapped by a ``[3, 3]`` matrix: vertex order is kept, the identity returns the shape itself.

    A box stays a box under flips, scalings, shifts and quarter turns; otherwise its four corners become a quad.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    if (matrix == IDENTITY).all():
        return shape
    if shape.kind != "bbox_2d":
        return Shape(shape.kind, apply_affine(shape.points, matrix))
    corners = apply_affine(shape.outline, matrix)
    if keeps_boxes(matrix):
        return Shape("bbox_2d", np.stack([corners.min(axis=0), corners.max(axis=0)]))
    return Shape("quad", corners)


def keeps_boxes(matrix: Matrix) -> bool:
    """True when the linear part of a ``[3, 3]`` matrix maps the axes onto the axes, up to rounding."""
    (a, b), (c, d) = np.asarray(matrix, dtype=np.float64)[:2, :2].tolist()
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    return min(straight, crossed) <= AXIS_TOLERANCE * max(straight, crossed)


def _about(center_xy: tuple[float, float], linear: np.ndarray) -> Matrix:
    """``[3, 3]`` matrix of a ``[2, 2]`` linear map that keeps ``center_xy`` in place."""
    center = np.asarray(center_xy, dtype=np.float64)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = center - linear @ center
    return matrix
