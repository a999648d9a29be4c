"""What lies over each merged visual token: an object's class and four of its points. No torch."""

from collections.abc import Sequence

import numpy as np
import shapely

from qcvl.geometry.norm import canonical
from qcvl.geometry.shapes import Points, Shape

NO_OBJECT = 0
CONTROL_POINTS = 4
# The farthest a straight row of cells can lie from the line through it is half a cell; a tenth more keeps a line that
# runs just between two rows, or bends there, from losing cells to rounding.
LINE_REACH_CELLS = 0.6


def grounding_targets(
    shapes: Sequence[Shape], class_ids: Sequence[int], size_wh: tuple[int, int], grid_hw_merged: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Classes int64 ``[cells]`` (0 = no object) and control points float32 ``[cells, 8]`` (shares of width, height).

    Cells run row by row over ``grid_hw_merged``, as merged visual tokens do. A cell belongs to the smallest shape that
    covers its centre (the later one of two equal sizes); a line covers the centres within .6 cell of it. ``class_ids``
    count from 1. Points of cells without an object are 0.

    Example:
        >>> box = Shape("bbox_2d", [0, 0, 32, 64])
        >>> grounding_targets([box], [3], (64, 64), (2, 2))[0]
        array([3, 0, 3, 0])

    Raises:
        ValueError: when a class id is below 1 or their count differs from that of the shapes.
    """
    if len(class_ids) != len(shapes) or any(class_id < 1 for class_id in class_ids):
        raise ValueError(f"class_ids {list(class_ids)} for {len(shapes)} shapes; expected one id from 1 up for each")
    (width, height), (rows, columns) = size_wh, grid_hw_merged
    classes = np.full(rows * columns, NO_OBJECT, dtype=np.int64)
    points = np.zeros((rows * columns, 2 * CONTROL_POINTS), dtype=np.float32)
    centres_yx = np.indices((rows, columns)).reshape(2, -1) + 0.5
    cells = np.array([columns / width, rows / height])  # cells in a pixel
    regions = [_region(shape, cells) for shape in shapes]
    for index in sorted(range(len(shapes)), key=lambda i: -shapely.area(regions[i])):  # smaller ones paint over
        covered = shapely.intersects_xy(regions[index], centres_yx[1], centres_yx[0])
        classes[covered] = class_ids[index]
        points[covered] = np.clip(control_points(shapes[index]) / (width, height), 0, 1).ravel()
    return classes, points


def control_points(shape: Shape) -> Points:
    """Four points ``[4, 2]`` in pixels that describe a shape of any kind.

    A box gives its corners clockwise from the top left, a quad its canonical vertices, a polygon four points evenly
    spaced along its outline from the canonical first vertex, a line four evenly spaced from end to end.
    """
    shape = canonical(shape)
    if shape.kind in ("bbox_2d", "quad"):
        return shape.outline
    if shape.kind == "line":
        return _along(shape.points, np.linspace(0, 1, CONTROL_POINTS))
    ring = np.vstack([shape.points, shape.points[:1]])
    return _along(ring, np.arange(CONTROL_POINTS) / CONTROL_POINTS)


def _region(shape: Shape, cells_per_pixel: np.ndarray) -> shapely.Geometry:
    """The part of the grid, in cells, whose token centres the shape covers."""
    points = (shape.points if shape.kind == "line" else shape.outline) * cells_per_pixel
    if shape.kind == "line":
        return shapely.buffer(shapely.LineString(points), LINE_REACH_CELLS)
    return shapely.make_valid(shapely.Polygon(points))


def _along(points_N2: Points, shares: np.ndarray) -> Points:
    """Points at ``shares`` of the length of a polyline."""
    steps = np.hypot(*np.diff(points_N2, axis=0).T)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    return np.stack([np.interp(shares * length[-1], length, axis) for axis in points_N2.T], axis=1)
