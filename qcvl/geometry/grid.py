"""The integer grid that coordinates are written on: the text side of a shape."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qcvl.geometry.norm import canonical_polygon
from qcvl.geometry.shapes import Points, Shape, as_points

EmitNorm = Literal["norm1000", "norm100", "none"]
_CELLS: dict[str, int] = {"norm1000": 1000, "norm100": 100}  # cells along each side; "none": one per pixel


def grid_limits(size_wh: tuple[int, int], emit_norm: EmitNorm) -> tuple[int, int]:
    """The largest grid coordinates ``(x, y)``: 1000 or 100 for the norms, the image size for ``none``.

    Raises:
        ValueError: for another ``emit_norm`` (``auto`` is resolved by the model family first) or an empty image.
    """
    width, height = size_wh
    if width <= 0 or height <= 0:
        raise ValueError(f"image size is {width} x {height}; expected both sides positive")
    if emit_norm == "none":
        return int(width), int(height)
    if emit_norm not in _CELLS:
        raise ValueError(f"emit_norm is {emit_norm!r}; expected 'norm1000', 'norm100' or 'none'")
    return _CELLS[emit_norm], _CELLS[emit_norm]


def to_grid(points_N2: Sequence | Points, size_wh: tuple[int, int], emit_norm: EmitNorm) -> np.ndarray:
    """Pixels ``[N, 2]`` as int64 grid points: ``floor(limit * x / width + 0.5)``, clamped to ``0..limit``.

    >>> to_grid([0, 0, 640, 480], (640, 480), "norm1000").tolist()
    [[0, 0], [1000, 1000]]
    """
    return _nearest(as_points(points_N2), size_wh, np.array(grid_limits(size_wh, emit_norm)))


def from_grid(points_N2: Sequence | np.ndarray, size_wh: tuple[int, int], emit_norm: EmitNorm) -> Points:
    """Grid points ``[N, 2]`` as float64 pixels, half a cell at most from the pixels they were made of."""
    return as_points(points_N2) * np.array(size_wh) / np.array(grid_limits(size_wh, emit_norm))


def settle_on_grid(
    shape: Shape, size_wh: tuple[int, int], emit_norm: EmitNorm, step: int = 1
) -> tuple[np.ndarray, bool]:
    """Int64 grid points ``[N, 2]`` of a shape that never collapse, and whether they would have (``degenerate``).

    With ``step`` (a divisor of the grid's limits) all coordinates are multiples of it: cells are ``step`` times larger.

    A box keeps ``x1 < x2`` and ``y1 < y2``, a line keeps two different points, and a polygon whose grid points lie on
    one line becomes a four-cornered strip one cell thick. The added cell is the one the shape's middle lies in.
    """
    limits = np.array(grid_limits(size_wh, emit_norm)) // step
    points, degenerate = _settle(shape, size_wh, limits)
    return points * step, degenerate


def _nearest(points: Points, size_wh: tuple[int, int], limits: np.ndarray) -> np.ndarray:
    scaled = limits * points / np.array(size_wh)
    return np.clip(np.floor(scaled + 0.5), 0, limits).astype(np.int64)


def _settle(shape: Shape, size_wh: tuple[int, int], limits: np.ndarray) -> tuple[np.ndarray, bool]:
    middle = limits * (shape.points.min(axis=0) + shape.points.max(axis=0)) / 2 / np.array(size_wh)
    grid = _nearest(shape.points, size_wh, limits)
    if shape.kind == "bbox_2d":
        return _settle_box(grid, middle, limits)
    if shape.kind == "line":
        collapsed = bool(np.all(grid == grid[0]))
        return (_one_cell_segment(shape, grid[0], middle, limits) if collapsed else grid), collapsed
    if not _on_one_line(grid):
        return grid, False
    return _strip(shape, grid, middle, limits), True


def _settle_box(grid: np.ndarray, middle: Points, limits: np.ndarray) -> tuple[np.ndarray, bool]:
    """Sorted corners ``[2, 2]`` of a box, each collapsed side opened to one cell."""
    low, high = grid.min(axis=0), grid.max(axis=0)
    flat = low == high
    corner = _cell_corner(low, middle, limits)
    return np.stack([np.where(flat, corner, low), np.where(flat, corner + 1, high)]), bool(flat.any())


def _one_cell_segment(shape: Shape, point: np.ndarray, middle: Points, limits: np.ndarray) -> np.ndarray:
    """Two grid points ``[2, 2]`` one cell apart, along the longer side of the shape's bounds."""
    axis = _long_axis(shape)
    start = point.copy()
    start[axis] = _cell_corner(point, middle, limits)[axis]
    end = start.copy()
    end[axis] += 1
    return np.stack([start, end])


def _strip(shape: Shape, grid: np.ndarray, middle: Points, limits: np.ndarray) -> np.ndarray:
    """Four grid corners ``[4, 2]`` of the strip, one cell thick, over grid points that lie on one line."""
    order = np.lexsort((grid[:, 1], grid[:, 0]))
    ends = grid[order[[0, -1]]]
    if np.array_equal(ends[0], ends[1]):
        ends = _one_cell_segment(shape, ends[0], middle, limits)
    across = 1 - int(np.argmax(np.ptp(ends, axis=0)))
    low, high = ends[:, across].min(), ends[:, across].max()
    step = np.zeros(2, dtype=np.int64)
    grows = high < limits[across] and (low == 0 or middle[across] >= (low + high) / 2)
    step[across] = 1 if grows else -1
    corners = np.clip(np.concatenate([ends, ends[::-1] + step]), 0, limits)  # a diagonal may fill the whole grid
    return canonical_polygon(corners).astype(np.int64)


def _cell_corner(point: np.ndarray, middle: Points, limits: np.ndarray) -> np.ndarray:
    """Lower corner ``[2]`` of the cell next to a grid point on the side of ``middle``, inside ``0..limits``."""
    return np.clip(point - (middle < point), 0, limits - 1)


def _long_axis(shape: Shape) -> int:
    """0 when the shape is at least as wide as high, else 1."""
    return int(np.argmax(np.ptp(shape.points, axis=0)))


def _on_one_line(grid: np.ndarray) -> bool:
    """True when all integer points ``[N, 2]`` lie on one line, exactly."""
    offsets = grid - grid[0]
    far = offsets[np.argmax((offsets**2).sum(axis=1))]
    return bool(np.all(offsets[:, 0] * far[1] == offsets[:, 1] * far[0]))
