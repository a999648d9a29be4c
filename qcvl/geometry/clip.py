"""Shapes cut to the frame ``[0, width] x [0, height]``: what lies inside stays as it is, bit for bit."""

from collections.abc import Sequence

import numpy as np
import shapely

from qcvl.geometry.norm import canonical_polygon
from qcvl.geometry.region import region, rings
from qcvl.geometry.shapes import Points, Shape, as_points

# Chains of float64 affine maps err by about 1e-11 px on any photo; a millionth of a pixel is far above that and far
# below a grid cell, so a shape that reaches over the border by less has not left the frame.
TOLERANCE_PX = 1e-6


def is_inside(points_N2: Points, width: float, height: float) -> bool:
    """True when every point ``[N, 2]`` lies in the closed frame, up to TOLERANCE_PX."""
    limit = np.array([width, height], dtype=np.float64) + TOLERANCE_PX
    return bool(np.all(points_N2 >= -TOLERANCE_PX) and np.all(points_N2 <= limit))


def clip_polygon(points_N2: Sequence | Points, width: float, height: float) -> Points:
    """The largest piece ``[M, 2]`` of a ring inside the frame, canonical; ``[0, 2]`` when none is.

    A ring inside the frame comes back unchanged, also when it has no area or crosses itself.
    """
    parts = clip_polygon_parts(points_N2, width, height)
    return parts[0] if parts else np.empty((0, 2))


def clip_polygon_parts(points_N2: Sequence | Points, width: float, height: float) -> list[Points]:
    """All pieces of a ring inside the frame, largest first: a concave ring may fall apart.

    Pieces are canonical rings ``[M, 2]`` without collinear vertices; a hole, which only a self-crossing ring can
    have, is filled. A ring inside the frame is its own single piece, unchanged.
    """
    points = as_points(points_N2)
    if is_inside(points, width, height):
        return [_clamped(points, width, height)] if len(points) else []
    whole = region(_snapped(points, width, height))
    visible = shapely.intersection(whole, shapely.box(0, 0, width, height))
    pieces = [
        _clamped(_snapped(ring, width, height), width, height)
        for part in rings(visible)
        for ring in rings(shapely.simplify(shapely.polygons(part), TOLERANCE_PX))
    ]
    return [canonical_polygon(piece) for piece in pieces if np.ptp(piece, axis=0).min() > TOLERANCE_PX]


def clip_polyline(points_N2: Sequence | Points, width: float, height: float) -> list[Points]:
    """The visible parts of a polyline, each ``[M, 2]``, in its own direction and without any segment along the border.

    Only a segment of the line that itself runs on the border is kept there. A line inside the frame is its own
    single part, unchanged.
    """
    points = as_points(points_N2)
    if is_inside(points, width, height):
        return [_clamped(points, width, height)] if len(points) else []
    points = _snapped(points, width, height)
    parts: list[list[np.ndarray]] = []
    open_end = False  # whether the last part ends at the point where the next segment starts
    for start, end, (enter, leave) in zip(points[:-1], points[1:], _visible_spans(points, width, height), strict=True):
        if enter >= leave:
            open_end = False
            continue
        if not open_end:
            parts.append([start + enter * (end - start)])
        parts[-1].append(end if leave == 1 else start + leave * (end - start))
        open_end = leave == 1
    lines = [_clamped(_snapped(np.array(part), width, height), width, height) for part in parts]
    return [line for line in lines if np.ptp(line, axis=0).max() > TOLERANCE_PX]


def min_area_quad(points_N2: Sequence | Points) -> Points:
    """The rectangle ``[4, 2]`` of smallest area around all points, at any angle, canonical.

    One side lies on an edge of the convex hull, so trying every edge is exact. Points on one line give a flat
    quad, a single point gives it four times.
    """
    points = as_points(points_N2)
    if len(points) == 0:
        raise ValueError("min_area_quad needs at least one point, found none")
    origin = points[0]
    hull = shapely.get_coordinates(shapely.convex_hull(shapely.multipoints(points - origin)))
    edges = np.diff(hull, axis=0)
    edges = edges[np.hypot(*edges.T) > 0]
    along = edges / np.hypot(*edges.T)[:, None] if len(edges) else np.array([[1.0, 0.0]])
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T  # [hull points, edges]
    best = int(np.argmin(np.ptp(u, axis=0) * np.ptp(v, axis=0)))
    u1, u2, v1, v2 = u[:, best].min(), u[:, best].max(), v[:, best].min(), v[:, best].max()
    corners = np.array([[u1, v1], [u2, v1], [u2, v2], [u1, v2]])
    return canonical_polygon(corners @ np.stack([along[best], across[best]]) + origin)


def clip_shape(shape: Shape, width: float, height: float) -> list[Shape]:
    """The visible shapes of one shape: none, one, or several where a polygon or a line falls apart.

    A box gives the intersection box. A quad stays one object: cut to four vertices it is that quad, to three a poly,
    to more (or to several pieces) the min-area quad of what is visible, its corners clamped to the frame. A shape
    without area (or length) is kept when all of it is inside and gone otherwise.
    """
    if is_inside(shape.points, width, height):
        inside = _clamped(shape.points, width, height)
        return [shape if inside is shape.points else Shape(shape.kind, inside)]
    if shape.kind == "bbox_2d":
        x1, y1, x2, y2 = shape.bounds
        corners = _clamped(_snapped(np.array([[x1, y1], [x2, y2]]), width, height), width, height)
        return [Shape("bbox_2d", corners)] if np.ptp(corners, axis=0).min() > 0 else []
    if shape.kind == "line":
        return [Shape("line", part) for part in clip_polyline(shape.points, width, height)]
    pieces = clip_polygon_parts(shape.points, width, height)
    if shape.kind == "poly" or not pieces:
        return [Shape("poly", piece) for piece in pieces]
    return [_quad_of(pieces, width, height)]


def _quad_of(pieces: list[Points], width: float, height: float) -> Shape:
    """The one shape that stands for the visible pieces of a quad."""
    if len(pieces) == 1 and len(pieces[0]) <= 4:
        return Shape("quad" if len(pieces[0]) == 4 else "poly", pieces[0])
    quad = _clamped(min_area_quad(np.concatenate(pieces)), width, height)
    return Shape("quad", canonical_polygon(quad))


def _snapped(points: Points, width: float, height: float) -> Points:
    """Points ``[N, 2]`` with every coordinate within TOLERANCE_PX of a border put exactly on it."""
    limit = np.array([width, height], dtype=np.float64)
    points = np.where(np.abs(points - limit) < TOLERANCE_PX, limit, points)
    return np.where(np.abs(points) < TOLERANCE_PX, 0.0, points)


def _clamped(points: Points, width: float, height: float) -> Points:
    """Points ``[N, 2]`` moved into the closed frame; the array itself when all of them are there."""
    moved = np.clip(points, 0.0, (width, height))
    return points if np.array_equal(moved, points) else moved


def _visible_spans(points: Points, width: float, height: float) -> np.ndarray:
    """Parameters ``[N - 1, 2]`` where each segment enters and leaves the frame (Liang-Barsky), where enter < leave."""
    start, step = points[:-1], np.diff(points, axis=0)
    limit = np.array([width, height], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = (0.0 - start) / step, (limit - start) / step
    parallel = step == 0
    within = (start >= 0) & (start <= limit)
    enter = np.where(parallel, np.where(within, 0.0, np.inf), np.minimum(to_low, to_high)).max(axis=1)
    leave = np.where(parallel, 1.0, np.maximum(to_low, to_high)).min(axis=1)
    return np.stack([np.maximum(enter, 0.0), np.minimum(leave, 1.0)], axis=1)
