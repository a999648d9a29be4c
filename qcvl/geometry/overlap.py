"""Shares and overlaps of shapes: coverage by a window, exact polygon IoU, buffered IoU of lines."""

from collections.abc import Sequence

import numpy as np
import shapely

from qcvl.geometry.clip import clip_polyline, is_inside
from qcvl.geometry.region import region
from qcvl.geometry.shapes import Points, Shape, as_points, as_shape

ShapeLike = Shape | Sequence | np.ndarray  # a Shape, flat numbers (4: a box) or points [N, 2]

QUARTER_CIRCLE_SEGMENTS = 16  # round caps and joins; the buffered area is then within 0.2 % of the true one


def coverage(shape: ShapeLike, window_xyxy: Sequence[float] | np.ndarray) -> float:
    """Share 0..1 of a shape's area (a line's length) inside the window ``[x1, y1, x2, y2]``.

    A shape without area (or length) counts 1 when all its points lie in the closed window, else 0.

    >>> coverage([0, 0, 100, 0, 100, 100, 0, 100], [50, 0, 150, 100])
    0.5
    """
    shape = as_shape(shape)
    x1, y1, x2, y2 = as_shape(np.asarray(window_xyxy, dtype=np.float64).reshape(-1)).bounds
    points = shape.points - (x1, y1)
    if is_inside(points, x2 - x1, y2 - y1):
        return 1.0
    if shape.kind == "line":
        return _share(sum(map(_length, clip_polyline(points, x2 - x1, y2 - y1))), _length(points))
    if shape.kind == "bbox_2d":
        left, top, right, bottom = shape.bounds
        sides = max(min(right, x2) - max(left, x1), 0.0), max(min(bottom, y2) - max(top, y1), 0.0)
        return _share(sides[0] * sides[1], (right - left) * (bottom - top))
    whole = region(shape.outline)
    return _share(shapely.area(shapely.intersection(whole, shapely.box(x1, y1, x2, y2))), shapely.area(whole))


def iou(a: ShapeLike, b: ShapeLike) -> float:
    """Exact intersection over union of two areas, 0..1; shapes without area (also lines) overlap nothing.

    >>> round(iou([0, 0, 100, 100], [50, 0, 150, 100]), 12)
    0.333333333333
    """
    return float(iou_matrix([a], [b])[0, 0])


def iou_matrix(a: Sequence[ShapeLike], b: Sequence[ShapeLike]) -> np.ndarray:
    """Exact IoU of every pair, float64 ``[A, B]``; only pairs whose bounds overlap are intersected."""
    return _pairwise_iou([_area_of(as_shape(shape)) for shape in a], [_area_of(as_shape(shape)) for shape in b])


def buffered_line_iou(a: ShapeLike, b: ShapeLike, radius: float) -> float:
    """IoU of two polylines widened by ``radius`` pixels to each side, with round ends; bare points are a polyline."""
    return float(buffered_line_iou_matrix([a], [b], radius)[0, 0])


def buffered_line_iou_matrix(a: Sequence[ShapeLike], b: Sequence[ShapeLike], radius: float) -> np.ndarray:
    """Buffered IoU of every pair of polylines, float64 ``[A, B]``.

    Raises:
        ValueError: for a radius that is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}; expected a positive number of pixels")
    return _pairwise_iou([_buffered(line, radius) for line in a], [_buffered(line, radius) for line in b])


def self_overlaps(shapes: Sequence[Shape], line_radius: float) -> tuple[np.ndarray, np.ndarray]:
    """IoU and intersection over the smaller area of every two shapes, each float64 ``[N, N]``.

    Lines are widened by ``line_radius`` pixels to each side. Boxes alone need no polygons, which is ten times as fast.
    """
    if all(shape.kind == "bbox_2d" for shape in shapes):
        low, high = (np.array([shape.points for shape in shapes]).reshape(-1, 2, 2)[:, corner] for corner in (0, 1))
        sides = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
        common, areas = sides.clip(0).prod(axis=-1), (high - low).prod(axis=-1)
    else:
        regions = [_buffered(shape, line_radius) if shape.kind == "line" else _area_of(shape) for shape in shapes]
        common, areas = _common_areas(regions, regions), shapely.area(np.array(regions, dtype=object))
    smaller = np.minimum(areas[:, None], areas[None])
    return _ratio(common, areas[:, None] + areas[None] - common), _ratio(common, smaller)


def _pairwise_iou(a: list[shapely.Geometry], b: list[shapely.Geometry]) -> np.ndarray:
    """IoU ``[A, B]`` of two lists of areas."""
    common = _common_areas(a, b)
    if not common.size:
        return common
    area_a, area_b = shapely.area(np.array(a, dtype=object)), shapely.area(np.array(b, dtype=object))
    return _ratio(common, area_a[:, None] + area_b[None] - common)


def _common_areas(a: list[shapely.Geometry], b: list[shapely.Geometry]) -> np.ndarray:
    """Area ``[A, B]`` of the intersection of every pair; only pairs whose bounds overlap are intersected."""
    result = np.zeros((len(a), len(b)))
    if a and b:
        first, second = np.array(a, dtype=object), np.array(b, dtype=object)
        rows, cols = shapely.STRtree(second).query(first)
        result[rows, cols] = shapely.area(shapely.intersection(first[rows], second[cols]))
    return result


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole`` within 0..1; 0 where there is no part."""
    return np.clip(np.divide(part, whole, out=np.zeros_like(part), where=part > 0), 0.0, 1.0)


def _area_of(shape: Shape) -> shapely.Geometry:
    """The area a shape encloses; empty for a line."""
    return shapely.Polygon() if shape.kind == "line" else region(shape.outline)


def _buffered(line: ShapeLike, radius: float) -> shapely.Geometry:
    """The area within ``radius`` pixels of a polyline; a polyline of one repeated point gives a disc.

    A line that ends where it began is widened segment by segment: GEOS takes it for a ring, and loses parts of one that
    is smaller than the radius.
    """
    points = line.points if isinstance(line, Shape) else as_points(line)
    if np.all(points == points[0]):
        spine = shapely.points(points[0])
    elif np.all(points[0] == points[-1]):
        segments = np.stack([points[:-1], points[1:]], axis=1)
        spine = shapely.multilinestrings(segments[(segments[:, 0] != segments[:, 1]).any(axis=1)])
    else:
        spine = shapely.linestrings(points)
    return shapely.buffer(spine, radius, quad_segs=QUARTER_CIRCLE_SEGMENTS)


def _length(points: Points) -> float:
    """Length in pixels of a polyline ``[N, 2]``."""
    return float(np.hypot(*np.diff(points, axis=0).T).sum())


def _share(part: float, whole: float) -> float:
    """``part / whole`` within 0..1; 0 when the whole is nothing."""
    return float(min(max(part / whole, 0.0), 1.0)) if whole > 0 else 0.0
