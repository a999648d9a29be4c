"""Where the labels of a picture go: at their objects, inside the picture, off each other and off other objects."""

from collections.abc import Sequence

import numpy as np

from qcvl.geometry.shapes import Points
from qcvl.viz.fonts import Typeface
from qcvl.viz.text import badge_size

# Covering another label makes both unreadable; covering an object only hides some of it.
LABEL_WEIGHT, OBJECT_WEIGHT = 4.0, 1.0

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


def place_labels(
    outlines: Sequence[Points], texts: Sequence[str], size: int, canvas_shape: Sequence[int], typeface: Typeface
) -> list[tuple[int, int]]:
    """Top left corner ``(x, y)`` of each label, chosen one after the other where it covers least.

    Args:
        outlines: vertices ``[N, 2]`` of each object, in px of the canvas.
        texts: its label; an empty one takes no room.
        size: em height in px.
        canvas_shape: ``(height, width, …)`` of the canvas.
        typeface: gives the widths.
    """
    bounds: list[Box] = [(*outline.min(axis=0), *outline.max(axis=0)) for outline in outlines]
    placed: list[Box] = []
    corners = []
    for index, (outline, text) in enumerate(zip(outlines, texts, strict=True)):
        width, height = badge_size(text, size, typeface) if text else (0, 0)
        others = bounds[:index] + bounds[index + 1 :]
        candidates = [_inside(xy, (width, height), canvas_shape) for xy in _positions(outline, width, height)]
        costs = [_cost((x, y, x + width, y + height), placed, others) for x, y in candidates]
        x, y = candidates[int(np.argmin(costs))]  # the first of equals, so the habitual place wins
        placed.append((x, y, x + width, y + height))
        corners.append((x, y))
    return corners


def _positions(outline: Points, width: int, height: int) -> list[tuple[float, float]]:
    """Candidate corners, best first: over the top vertex, under the lowest, beside the outer ones, inside."""
    first_top = outline[np.lexsort((outline[:, 0], outline[:, 1]))[0]]
    first_low = outline[np.lexsort((outline[:, 0], -outline[:, 1]))[0]]
    right, left = outline[outline[:, 0].argmax()], outline[outline[:, 0].argmin()]
    return [
        (first_top[0], first_top[1] - height),
        (first_low[0], first_low[1]),
        (right[0], right[1]),
        (left[0] - width, left[1]),
        (right[0] - width, right[1] - height),
        (right[0], right[1] - height),
        (first_top[0], first_top[1]),
        (first_low[0] - width, first_low[1] - height),
    ]


def _inside(xy: tuple[float, float], label_wh: tuple[int, int], canvas_shape: Sequence[int]) -> tuple[int, int]:
    """The corner moved so that the whole label lies in the picture (its left end, when it is wider)."""
    (x, y), (width, height) = xy, label_wh
    return max(0, min(round(x), canvas_shape[1] - width)), max(0, min(round(y), canvas_shape[0] - height))


def _cost(label: Box, placed: Sequence[Box], others: Sequence[Box]) -> float:
    """Area in px² the label would take from labels and from other objects, weighted."""
    return LABEL_WEIGHT * sum(_common(label, box) for box in placed) + OBJECT_WEIGHT * sum(
        _common(label, box) for box in others
    )


def _common(a: Box, b: Box) -> float:
    """Area in px² two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
