"""The canonical order of a shape's points; it never changes a coordinate."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from qcvl.geometry.shapes import Points, Shape, as_points

# A signed area below this share of the squared extent is rounding: such a ring has no direction of its own.
FLAT_RATIO = 1e-12


def signed_area(points_N2: Sequence | Points) -> float:
    """Shoelace area of a ring ``[N, 2]`` in square pixels; positive when clockwise on screen (y down)."""
    return _signed_area(as_points(points_N2).tolist())


def canonical_polygon(points_N2: Sequence | Points) -> Points:
    """The ring ``[N, 2]`` clockwise on screen, starting at the vertex with the smallest x + y, then the smallest y.

    Every rotation and reversal of one ring gives the same result; where area and start leave a tie (a symmetric
    bow-tie, a flat or repeated point), the lexicographically smallest sequence wins.
    """
    points = as_points(points_N2)
    if len(points) == 0:
        return points
    ring = points.tolist()
    area, (width, height) = _signed_area(ring), (max(axis) - min(axis) for axis in zip(*ring, strict=True))
    if abs(area) <= FLAT_RATIO * max(width, height) ** 2:
        directions = [ring, ring[::-1]]
    else:
        directions = [ring if area > 0 else ring[::-1]]
    start = min((x + y, y) for x, y in ring)
    candidates = [way[i:] + way[:i] for way in directions for i, (x, y) in enumerate(way) if (x + y, y) == start]
    return np.array(min(candidates))


def ordered_like(points_N2: Sequence | Points, whole_M2: Sequence | Points) -> Points:
    """The ring ``[N, 2]`` in the direction of the ring ``whole``, from the vertex nearest to the first of ``whole``.

    So what a cut leaves of an outline goes on where the outline started; an outline that was not cut stays itself.
    """
    points, whole = as_points(points_N2), as_points(whole_M2)
    if points.shape == whole.shape and np.allclose(points, whole):
        return points
    if signed_area(points) * signed_area(whole) < 0:
        points = points[::-1]
    start = int(np.argmin(((points - whole[0]) ** 2).sum(axis=1)))
    return np.roll(points, -start, axis=0)


def canonical_line(points_N2: Sequence | Points) -> Points:
    """The polyline ``[N, 2]`` from its left-most endpoint (tie: smaller y; closed line: the smaller next point)."""
    points = as_points(points_N2)
    return points if points.tolist() <= points[::-1].tolist() else points[::-1].copy()


def canonical(shape: Shape) -> Shape:
    """The shape with its points in canonical order; a box becomes its top-left and bottom-right corner."""
    if shape.kind == "bbox_2d":
        return Shape("bbox_2d", np.stack([shape.points.min(axis=0), shape.points.max(axis=0)]))
    if shape.kind == "line":
        return Shape("line", canonical_line(shape.points))
    return Shape(shape.kind, canonical_polygon(shape.points))


def _signed_area(ring: list[list[float]]) -> float:
    """Shoelace area of a ring as nested lists: several times faster than numpy at the usual 4 to 20 vertices."""
    if len(ring) < 3:
        return 0.0
    x0, y0 = ring[0]
    doubled = 0.0
    for (xa, ya), (xb, yb) in pairwise(ring[1:]):
        doubled += (xa - x0) * (yb - y0) - (xb - x0) * (ya - y0)
    return doubled / 2
