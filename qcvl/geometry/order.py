"""The reading order of shapes: top to bottom, then left to right, by one point each."""

from collections.abc import Sequence
from typing import Literal

from qcvl.geometry.shapes import Shape

Order = Literal["reference", "center"]


def reference_point(shape: Shape) -> tuple[float, float]:
    """``(x, y)`` that stands for the shape: a box's top-left corner, else the first point as stored."""
    if shape.kind == "bbox_2d":
        return shape.bounds[:2]
    x, y = shape.points[0]
    return float(x), float(y)


def center_point(shape: Shape) -> tuple[float, float]:
    """``(x, y)`` of the middle of the shape's bounds."""
    x1, y1, x2, y2 = shape.bounds
    return (x1 + x2) / 2, (y1 + y2) / 2


def reading_order(shapes: Sequence[Shape], order: Order = "reference") -> list[int]:
    """Indices of the shapes sorted by ``(y, x)`` of their reference point or centre; ties keep the given order."""
    if order not in ("reference", "center"):
        raise ValueError(f"order is {order!r}; expected 'reference' or 'center'")
    point = reference_point if order == "reference" else center_point
    keys = [point(shape)[::-1] for shape in shapes]
    return sorted(range(len(keys)), key=keys.__getitem__)
