"""One shape: its kind and its points, in pixels with continuous edges (x right, y down)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["bbox_2d", "quad", "poly", "line"]
KINDS: tuple[Kind, ...] = ("bbox_2d", "quad", "poly", "line")
Points = np.ndarray  # float64 [N, 2]


def as_points(values: Sequence | np.ndarray) -> Points:
    """Float64 ``[N, 2]`` from flat numbers ``[x1, y1, x2, y2, …]`` or from pairs ``[[x1, y1], …]``.

    Raises:
        ValueError: for an odd count of numbers or pairs that are not pairs.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1 and array.size % 2 == 0:
        return array.reshape(-1, 2)
    if array.ndim == 2 and array.shape[1] == 2:
        return array
    raise ValueError(f"expected x, y pairs, found an array of shape {array.shape}")


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A box (two corner points), quad (four vertices), polygon (three or more) or polyline (two or more points)."""

    kind: Kind
    points: Points

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", as_points(self.points))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.kind == other.kind and np.array_equal(self.points, other.points)

    def __hash__(self) -> int:
        return hash((self.kind, self.points.tobytes()))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(x1, y1, x2, y2)`` of the smallest axis-aligned box around all points."""
        xs, ys = zip(*self.points.tolist(), strict=True)  # at the usual 2 to 20 points faster than numpy
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def outline(self) -> Points:
        """The vertices to draw, ``[N, 2]``: a box gives its four corners clockwise from the top left."""
        if self.kind != "bbox_2d":
            return self.points
        x1, y1, x2, y2 = self.bounds
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def as_shape(value: "Shape | Sequence | np.ndarray") -> Shape:
    """The Shape itself, or a box from two points (flat ``[x1, y1, x2, y2]``) and a polygon from three or more.

    A polyline has to come as ``Shape("line", …)``: its bare points cannot be told from a box or a polygon.

    Raises:
        ValueError: for fewer than two points, or numbers that are not x, y pairs.
    """
    if isinstance(value, Shape):
        return value
    points = as_points(value)
    if len(points) < 2:
        raise ValueError(f"expected a box of 2 points or a polygon of 3 or more, found {len(points)} point(s)")
    return Shape("bbox_2d" if len(points) == 2 else "poly", points)
