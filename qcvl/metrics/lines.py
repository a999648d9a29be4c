"""How near two polylines are: buffered IoU against a radius, and Chamfer distance in pixels."""

import math
from collections.abc import Sequence

import numpy as np
import shapely

from qcvl.geometry.overlap import buffered_line_iou_matrix
from qcvl.geometry.shapes import Shape

# A line has no area: both lines are widened to bands of this radius, as a share of the image diagonal, before their
# IoU is taken. Two parallel lines one radius apart then overlap by 1/3, the lowest threshold reported.
LINE_RADIUS = 0.02

# Points at which a line's distance to the other is read. The distance is 1-Lipschitz along the line, so the mean is
# exact to length / (4 * samples): 1 px for a line as long as a full-HD diagonal, and far less where it is straight.
CHAMFER_SAMPLES = 512


def line_radius(size_wh: tuple[float, float]) -> float:
    """Radius in px of the bands two lines of an image ``(width, height)`` are compared by: 2 % of its diagonal."""
    return LINE_RADIUS * math.hypot(*size_wh)


def line_overlaps(a: Sequence[Shape], b: Sequence[Shape], size_wh: tuple[float, float]) -> np.ndarray:
    """Buffered IoU ``[A, B]`` of lines of an image ``(width, height)``: of the bands of :func:`line_radius` px."""
    return buffered_line_iou_matrix(a, b, line_radius(size_wh))


def chamfer_distance(a: Shape, b: Shape) -> float:
    """Mean distance in px from a point of one line to the nearest point of the other, averaged over both directions."""
    first, second = shapely.linestrings(a.points), shapely.linestrings(b.points)
    return (_mean_distance(first, second) + _mean_distance(second, first)) / 2


def _mean_distance(line: shapely.LineString, other: shapely.LineString) -> float:
    """Mean over ``CHAMFER_SAMPLES`` equal pieces of ``line`` of the distance from a piece's middle to ``other``."""
    middles = (np.arange(CHAMFER_SAMPLES) + 0.5) / CHAMFER_SAMPLES
    points = shapely.line_interpolate_point(line, middles, normalized=True)
    return float(shapely.distance(points, other).mean())
