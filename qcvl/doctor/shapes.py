"""Shapes of many records at once, as arrays: outside the frame, collapsed, crossed, listed twice, out of order.

All rules are those of training: the frame has continuous edges, the grid is 0-1000, the order is by (y, x) of the
reference point. Array functions find the few candidates; each of these is then judged exactly, shape by shape.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import shapely

from qcvl.geometry.clip import TOLERANCE_PX, clip_shape
from qcvl.geometry.grid import settle_on_grid
from qcvl.geometry.overlap import iou
from qcvl.geometry.shapes import KINDS, Points, Shape
from qcvl.schema.lines import ObjectFields

BOX, QUAD, POLY, LINE = (KINDS.index(kind) for kind in ("bbox_2d", "quad", "poly", "line"))
CELLS = 1000  # of the norm1000 grid
SAME_IOU = 0.95  # from here on two objects of one desc in one image are one object listed twice
BOUNDS_IOU = 0.8  # of their bounds, below which their exact overlap is not computed
Size = tuple[int, int]
Fault = tuple[int, int, str, str]  # record, object (both numbers in the block and the record), code, message


@dataclass(frozen=True, eq=False)
class Shapes:
    """All ``M`` objects of several records.

    ``points`` float64 ``[P, 2]`` are their vertices one after another, those of object ``m`` from ``starts[m]`` on;
    ``kinds``, ``counts``, ``owners`` (the record), ``places`` (the object's number in it), ``images`` and ``descs``
    (equal numbers for equal texts) are int64 ``[M]``; ``frames`` float64 ``[M, 2]`` is NaN where the size is unknown.
    """

    points: Points
    starts: np.ndarray
    counts: np.ndarray
    kinds: np.ndarray
    owners: np.ndarray
    places: np.ndarray
    images: np.ndarray
    descs: np.ndarray
    frames: np.ndarray

    @classmethod
    def of(cls, records: Sequence[Sequence[ObjectFields]], sizes: Sequence[Sequence[Size | None]]) -> "Shapes":
        """The objects of records; ``sizes`` are ``(width, height)`` of each one's images where they are known."""
        rows = list(chain.from_iterable(records))
        kinds, numbers, descs, images = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
        known = {desc: number for number, desc in enumerate(dict.fromkeys(descs))}
        counts = _whole(map(len, numbers)) // 2
        per_record = _whole(map(len, records))
        owners = np.repeat(np.arange(len(per_record)), per_record)
        frames = np.array([size or _UNKNOWN for own in sizes for size in own], dtype=np.float64).reshape(-1, 2)
        per_sizes = _whole(map(len, sizes))
        return cls(
            points=np.array(list(chain.from_iterable(numbers)), dtype=np.float64).reshape(-1, 2),
            starts=np.cumsum(counts) - counts,
            counts=counts,
            kinds=_whole(map(_NUMBERS.__getitem__, kinds)),
            owners=owners,
            places=np.arange(len(rows)) - (np.cumsum(per_record) - per_record)[owners],
            images=_whole(images),
            descs=_whole(map(known.__getitem__, descs)),
            frames=frames[(np.cumsum(per_sizes) - per_sizes)[owners] + _whole(images)],
        )

    def __len__(self) -> int:
        return len(self.kinds)

    @cached_property
    def low(self) -> Points:
        """Top left corners ``[M, 2]`` of the bounds."""
        return np.minimum.reduceat(self.points, self.starts)

    @cached_property
    def high(self) -> Points:
        """Bottom right corners ``[M, 2]`` of the bounds."""
        return np.maximum.reduceat(self.points, self.starts)

    @cached_property
    def following(self) -> np.ndarray:
        """The index ``[P]`` of each vertex's next one; the last one's is the first of its shape."""
        following = np.arange(1, len(self.points) + 1)
        following[self.starts + self.counts - 1] = self.starts
        return following

    def shape(self, index: int) -> Shape:
        """One object's shape."""
        start = self.starts[index]
        return Shape(KINDS[self.kinds[index]], self.points[start : start + self.counts[index]])

    def areas(self, points: Points) -> np.ndarray:
        """Twice the signed area ``[M]`` each ring of ``points`` encloses (without meaning for boxes and lines)."""
        following = points[self.following]
        return np.add.reduceat(points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1], self.starts)


def _whole(numbers: Iterable[int]) -> np.ndarray:
    return np.fromiter(numbers, dtype=np.int64)


_UNKNOWN = (np.nan, np.nan)
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


def look_at_shapes(shapes: Shapes) -> Iterator[Fault]:
    """Everything odd about the shapes of some records, by kind of fault."""
    if not len(shapes):
        return
    yield from _outside(shapes)
    yield from _collapsed(shapes)
    yield from _crossed(shapes)
    yield from _repeated(shapes)
    yield from _disordered(shapes)


def turning(quads_K42: np.ndarray) -> np.ndarray:
    """0 for each convex quad ``[K, 4, 2]`` (a straight corner counts as convex), 1 for a dented, 2 for a crossed one.

    Around a convex quad all corners turn one way, around a dented one three do, and around a bow tie two.
    """
    edges = np.roll(quads_K42, -1, axis=1) - quads_K42
    following = np.roll(edges, -1, axis=1)
    turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
    left, right = (turns > 0).sum(axis=1), (turns < 0).sum(axis=1)
    return np.where((left == 0) | (right == 0), 0, np.where(left == right, 2, 1))


def _fault(shapes: Shapes, index: int, code: str, message: str) -> Fault:
    return int(shapes.owners[index]), int(shapes.places[index]), code, message


def _outside(shapes: Shapes) -> Iterator[Fault]:
    leaves = (shapes.low < -TOLERANCE_PX) | (shapes.high > shapes.frames + TOLERANCE_PX)
    for index in np.flatnonzero(leaves.any(axis=1) & ~np.isnan(shapes.frames[:, 0])).tolist():
        width, height = map(int, shapes.frames[index])
        shape = shapes.shape(index)
        x1, y1, x2, y2 = shape.bounds
        frame = f"the {width} x {height} image (it spans {x1:g}, {y1:g} to {x2:g}, {y2:g})"
        if clip_shape(shape, width, height):
            yield _fault(shapes, index, "shape-cut", f"reaches outside {frame}; training clips it")
        else:
            message = f"lies outside {frame}; expected pixels after EXIF orientation"
            yield _fault(shapes, index, "shape-outside", message)


def _collapsed(shapes: Shapes) -> Iterator[Fault]:
    framed = ((shapes.low <= shapes.frames) & (shapes.high >= 0)).all(axis=1)  # the frame is known and they meet
    frames = np.where(np.isnan(shapes.frames), 1.0, shapes.frames)
    grid = np.clip(np.floor(CELLS * shapes.points / np.repeat(frames, shapes.counts, axis=0) + 0.5), 0, CELLS)
    flat = np.minimum.reduceat(grid, shapes.starts) == np.maximum.reduceat(grid, shapes.starts)
    ring = (shapes.kinds == QUAD) | (shapes.kinds == POLY)
    suspect = flat.any(axis=1) | (ring & (shapes.areas(grid) == 0))  # points on one line enclose no area
    for index in np.flatnonzero(suspect & framed).tolist():
        width, height = map(int, shapes.frames[index])
        if settle_on_grid(shapes.shape(index), (width, height), "norm1000")[1]:
            spans = " x ".join(f"{side:g}" for side in shapes.high[index] - shapes.low[index])
            message = f"spans {spans} px and collapses to one cell of the 0-1000 grid; training widens it to a cell"
            yield _fault(shapes, index, "shape-degenerate", message)


def _crossed(shapes: Shapes) -> Iterator[Fault]:
    quads = np.flatnonzero(shapes.kinds == QUAD)
    bends = turning(shapes.points[shapes.starts[quads][:, None] + np.arange(4)])
    kept = "training keeps it as it is"
    for index, bend in zip(quads.tolist(), bends.tolist(), strict=True):
        if bend == 2:
            message = f"is not convex, its sides cross; expected corners in their order around the object ({kept})"
            yield _fault(shapes, index, "quad-crossed", message)
        elif bend:
            message = f"is not convex; expected corners in their order around the object ({kept})"
            yield _fault(shapes, index, "quad-dented", message)
    polygons = np.flatnonzero(shapes.kinds == POLY)
    if len(polygons):
        which = np.repeat(np.arange(len(polygons)), shapes.counts[polygons])
        own = np.isin(np.repeat(np.arange(len(shapes)), shapes.counts), polygons)
        simple = shapely.is_simple(shapely.linearrings(shapes.points[own], indices=which))
        for index in polygons[~simple].tolist():
            message = f"crosses or touches itself; expected vertices in their order around the object ({kept})"
            yield _fault(shapes, index, "poly-crossed", message)


def _repeated(shapes: Shapes) -> Iterator[Fault]:
    """Pairs of one record, image and desc whose bounds nearly agree, each judged exactly."""
    order = np.lexsort((shapes.low[:, 0], shapes.descs, shapes.kinds, shapes.images, shapes.owners))
    keys = np.stack([shapes.owners, shapes.images, shapes.kinds, shapes.descs])[:, order]
    low, high = shapes.low[order], shapes.high[order]
    said = np.zeros(len(order), dtype=bool)
    for step in range(1, len(order)):
        near = (keys[:, :-step] == keys[:, step:]).all(axis=0)
        slack = (1 - BOUNDS_IOU) / BOUNDS_IOU * (high[:-step, 0] - low[:-step, 0])
        near &= low[step:, 0] - low[:-step, 0] <= slack  # sorted by x1: no farther neighbour can be nearer
        if not near.any():
            return
        near &= ~said[np.maximum(order[:-step], order[step:])] & (_bounds_iou(low, high, step) >= BOUNDS_IOU)
        for place in np.flatnonzero(near).tolist():
            first, second = sorted((int(order[place]), int(order[place + step])))
            if not said[second] and (how := _sameness(shapes.shape(first), shapes.shape(second))):
                said[second] = True
                message = f"has the desc of objects[{shapes.places[first]}] and {how}; expected each object once"
                yield _fault(shapes, second, "object-duplicate", message)


def _bounds_iou(low: Points, high: Points, step: int) -> np.ndarray:
    """IoU of each bounds and those ``step`` rows on; 1 where both are one line or point."""
    sides = np.minimum(high[:-step], high[step:]) - np.maximum(low[:-step], low[step:])
    common = sides.clip(0).prod(axis=1)
    areas = (high - low).prod(axis=1)
    whole = areas[:-step] + areas[step:] - common
    same = (low[:-step] == low[step:]).all(axis=1) & (high[:-step] == high[step:]).all(axis=1)
    return np.where(same, 1.0, np.divide(common, whole, out=np.zeros_like(common), where=whole > 0))


def _sameness(first: Shape, second: Shape) -> str | None:
    """How the second of two shapes of one kind repeats the first; None when it does not."""
    if np.array_equal(first.points, second.points) or np.array_equal(first.points, second.points[::-1]):
        return "is the same shape"
    if first.kind == "line":
        return None
    overlap = iou(first, second)
    return f"overlaps it by IoU {overlap:.3f}" if overlap > SAME_IOU else None


def _disordered(shapes: Shapes) -> Iterator[Fault]:
    """The first object of each record that stands behind one that comes later in reading order."""
    x, y = _references(shapes)
    same = shapes.owners[1:] == shapes.owners[:-1]
    later_image = shapes.images[1:] < shapes.images[:-1]
    one_image = shapes.images[1:] == shapes.images[:-1]
    higher = (y[1:] < y[:-1]) | ((y[1:] == y[:-1]) & (x[1:] < x[:-1]))
    wrong = np.flatnonzero(same & (later_image | (one_image & higher))) + 1
    _, firsts = np.unique(shapes.owners[wrong], return_index=True)
    for index in wrong[firsts].tolist():
        message = f"comes before objects[{shapes.places[index] - 1}] from top to bottom; training sorts the objects"
        yield _fault(shapes, index, "order", message)


def _references(shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """Reference points, x and y ``[M]``: a box's top left, a ring's vertex of least x + y, a line's left end."""
    sums = shapes.points.sum(axis=1)
    least = np.repeat(np.minimum.reduceat(sums, shapes.starts), shapes.counts)
    x, y = (np.where(sums == least, axis, np.inf) for axis in shapes.points.T)
    y_first = np.minimum.reduceat(y, shapes.starts)
    x_first = np.minimum.reduceat(np.where(y == np.repeat(y_first, shapes.counts), x, np.inf), shapes.starts)
    start, end = shapes.points[shapes.starts], shapes.points[shapes.starts + shapes.counts - 1]
    swapped = (end[:, 0] < start[:, 0]) | ((end[:, 0] == start[:, 0]) & (end[:, 1] < start[:, 1]))
    left = np.where(swapped[:, None], end, start)
    ring = (shapes.kinds == QUAD) | (shapes.kinds == POLY)
    corner = np.where((shapes.kinds == BOX)[:, None], shapes.low, left)
    return np.where(ring, x_first, corner[:, 0]), np.where(ring, y_first, corner[:, 1])
