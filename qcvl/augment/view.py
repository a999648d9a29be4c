"""Where the photo and its objects are while ops run; the exact visible parts, in pixels with continuous edges."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, compress
from typing import Literal

import numpy as np

from qcvl.augment.actions import Paste, Reframe, Window
from qcvl.geometry.affine import IDENTITY, apply_affine, transform_shape, translation_matrix
from qcvl.geometry.clip import TOLERANCE_PX, clip_shape, min_area_quad
from qcvl.geometry.norm import canonical, ordered_like, signed_area
from qcvl.geometry.overlap import coverage
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Task

NOWHERE = np.full((1, 2), -1e9)  # a point beyond every photo


def frame_window(width: int, height: int) -> Window:
    """``(0, 0, width, height)``: the whole canvas."""
    return 0.0, 0.0, float(width), float(height)


def _cut(shape: Shape, window: Window) -> list[Shape]:
    """The exact parts of ``shape`` inside ``window``; a shape inside stays as it is."""
    x1, y1, x2, y2 = window
    at_origin = transform_shape(shape, translation_matrix(-x1, -y1))
    return [transform_shape(part, translation_matrix(x1, y1)) for part in clip_shape(at_origin, x2 - x1, y2 - y1)]


def _extent(shape: Shape) -> float:
    """Length of a polyline in pixels, area of any other shape in square pixels."""
    if shape.kind == "line":
        return float(np.linalg.norm(np.diff(shape.points, axis=0), axis=1).sum())
    return abs(signed_area(shape.outline))


def _exact(shape: Shape) -> Shape:
    """A quad as a polygon, so that cutting it twice does not fit a quad around a fitted quad."""
    return Shape("poly", shape.points) if shape.kind == "quad" else shape


def _is_empty(window: Window) -> bool:
    x1, y1, x2, y2 = window
    return x2 <= x1 or y2 <= y1


def _place(points: np.ndarray, window: Window) -> Literal["inside", "outside", "cut"]:
    """Where points ``[N, 2]`` lie: all in the closed window, all beyond one of its sides, or neither is certain."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    x1, y1, x2, y2 = window
    if left >= x1 and top >= y1 and right <= x2 and bottom <= y2:
        return "inside"
    return "outside" if right < x1 or bottom < y1 or left > x2 or top > y2 else "cut"


def _coverage(parts: Sequence[Shape], window: Window) -> float:
    """Share of all ``parts`` together that lies in ``window``, by length or area."""
    if len(parts) == 1:
        return coverage(parts[0], window)
    total = sum(map(_extent, parts))
    return sum(_extent(part) * coverage(part, window) for part in parts) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Tracked:
    """One object on its way: its exact visible parts and the share of the original that they still are.

    ``whole`` is, where the order of its points carries meaning, the shape as it would lie now had nothing cut it.
    ``index`` is its place among the sample's annotations; a box, quad or polygon has at most as many parts as the frame
    cuts it into, a polyline one for each visible stretch.
    """

    index: int
    annotation: Annotation
    parts: tuple[Shape, ...]
    share: float
    whole: Shape | None = None

    @classmethod
    def start(cls, index: int, annotation: Annotation, frame: Window, *, ordered: bool = False) -> "Tracked":
        """The object as recorded, cut to the photo's own frame; ``ordered`` where its points keep their order."""
        whole = _exact(annotation.shape)
        kept = whole if ordered else None
        if _place(whole.points, frame) == "inside":
            return cls(index, annotation, (whole,), 1.0, kept)
        return cls(index, annotation, tuple(_cut(whole, frame)), coverage(whole, frame), kept)

    def described(self, desc: str) -> "Tracked":
        """The same object under another desc."""
        return self if desc == self.annotation.desc else replace(self, annotation=replace(self.annotation, desc=desc))

    def carried(self, matrix: np.ndarray, visible: Window) -> "Tracked":
        """The object after ``matrix`` [3, 3], cut to ``visible``; shares multiply from step to step."""
        if _is_empty(visible):
            return replace(self, parts=(), share=0.0)
        moved, whole = self._moved(matrix), self.whole and transform_shape(self.whole, matrix)
        points = [part.points for part in moved]
        place = _place(points[0] if len(points) == 1 else np.concatenate(points), visible) if points else "outside"
        if place != "cut":  # most objects of a large photo lie wholly outside a small window: no geometry for them
            inside = place == "inside"
            return replace(self, parts=tuple(moved) if inside else (), share=self.share if inside else 0.0, whole=whole)
        parts = tuple(chain.from_iterable(_cut(part, visible) for part in moved))
        return replace(self, parts=parts, share=self.share * _coverage(moved, visible), whole=whole)

    def share_in(self, matrix: np.ndarray, visible: Window) -> float:
        """The share that ``carried`` would leave, without the work of cutting."""
        return 0.0 if _is_empty(visible) else self.share * _coverage(self._moved(matrix), visible)

    def _moved(self, matrix: np.ndarray) -> list[Shape]:
        return [_exact(transform_shape(part, matrix)) for part in self.parts]

    def shapes(self, width: int, height: int) -> list[Shape]:
        """The visible parts as shapes of the record's kinds, inside a canvas of ``width`` x ``height``.

        They are canonical, unless the object has an order to keep.

        A box or quad stays one object: four corners are a quad, three a polygon, and any other outline (or several)
        gives the min-area quad around it, its corners clamped to the canvas, as ``clip_shape`` does.
        """
        if self.annotation.shape.kind in ("poly", "line") or self.parts[0].kind == "bbox_2d":
            return [self._in_order(part) for part in self.parts]
        corners = np.concatenate([part.points for part in self.parts])
        if len(self.parts) == 1 and len(corners) <= 4:
            return [self._in_order(Shape("quad" if len(corners) == 4 else "poly", corners))]
        return [self._in_order(Shape("quad", np.clip(min_area_quad(corners), 0.0, (width, height))))]

    def _in_order(self, shape: Shape) -> Shape:
        """A visible part with its points in canonical order, or in that of the whole object."""
        if self.whole is None or shape.kind == "bbox_2d":
            return canonical(shape)
        if shape.kind == "line":  # cutting keeps its direction
            return shape
        return Shape(shape.kind, ordered_like(shape.points, self.whole.outline))


@dataclass(frozen=True, kw_only=True)
class View:
    """What an op may look at: the canvas, the moves waiting for the next barrier, the objects and the texts.

    ``objects`` are in pixels of the last barrier's canvas; ``moves`` [3, 3] leads from there to the present.
    ``images`` are the numbers of these photos, all of one size, in the sample; ``shares_summary`` says that the summary
    is also about others, which go another way.
    """

    width: int
    height: int
    task: Task
    summary: str | None
    objects: tuple[Tracked, ...]
    moves: np.ndarray
    images: tuple[int, ...] = (0,)
    shares_summary: bool = False
    touched: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The descs of these photos' objects and the sample's summary, if it has one."""
        descs = tuple(tracked.annotation.desc for tracked in self.objects)
        return (*descs, self.summary) if self.summary else descs

    @property
    def center(self) -> tuple[float, float]:
        """``(x, y)`` of the canvas' centre, in pixels."""
        return self.width / 2, self.height / 2

    @property
    def is_still(self) -> bool:
        """Whether no move waits for the next barrier."""
        return bool((self.moves == IDENTITY).all())

    def corners(self) -> np.ndarray:
        """``[4, 2]``: where the waiting moves have taken the canvas' corners (clockwise from its top left)."""
        width, height = self.width, self.height
        return apply_affine(np.array([[0.0, 0.0], [width, 0], [width, height], [0, height]]), self.moves)

    @cached_property
    def bounds(self) -> np.ndarray:
        """Float64 ``[N, 4]``: ``(x1, y1, x2, y2)`` around each object's parts, in pixels of the last canvas."""
        return _bounds(self.objects)

    def shapes(self) -> list[Shape]:
        """Every visible part in present pixels, not yet cut to the canvas."""
        return [part for tracked in self.objects for part in self.parts_of(tracked)]

    def parts_of(self, tracked: Tracked) -> list[Shape]:
        """The visible parts of one object in present pixels, not yet cut to the canvas."""
        return [transform_shape(part, self.moves) for part in tracked.parts]

    def coverages_in(self, window: Window) -> list[float]:
        """Share of each original object that would show if ``window`` of the present canvas were kept."""
        left, top, right, bottom = window
        visible = (max(left, 0.0), max(top, 0.0), min(right, float(self.width)), min(bottom, float(self.height)))
        near = _reach(self.bounds, self.moves, visible)
        pairs = zip(self.objects, near.tolist(), strict=True)
        return [tracked.share_in(self.moves, visible) if close else 0.0 for tracked, close in pairs]

    def moved(self, matrix: np.ndarray) -> "View":
        """The view with one more move waiting."""
        return replace(self, moves=matrix @ self.moves)

    def rewritten(self, rewrite: Callable[[str], str]) -> "View":
        """The view with every text rewritten."""
        objects = tuple(tracked.described(rewrite(tracked.annotation.desc)) for tracked in self.objects)
        return replace(self, objects=objects, summary=self.summary and rewrite(self.summary))

    def pasted(self, paste: Paste) -> "View":
        """The still view with the copy of one object as its last."""
        source = next(tracked for tracked in self.objects if tracked.index == paste.index)
        copy = replace(source, parts=(paste.landed,), whole=source.whole and paste.landed)
        return replace(self, objects=(*self.objects, copy), touched=True)

    def reframed(
        self, reframe: Reframe, min_coverage: float, rename: Callable[[str, float], str] | None = None
    ) -> "View":
        """The view after a barrier: objects carried and cut, those cut below ``min_coverage`` gone, no move waiting.

        ``rename`` gives each object that the barrier cut, and left, its desc from the old one and the share.
        """
        matrix, visible = reframe.matrix @ self.moves, reframe.visible(self.width, self.height)
        near = _reach(self.bounds, matrix, visible)
        carried = [(tracked, tracked.carried(matrix, visible)) for tracked in compress(self.objects, near)]
        kept = tuple(
            after.described(rename(after.annotation.desc, after.share)) if rename and _is_cut(before, after) else after
            for before, after in carried
            if _survives(before, after, min_coverage)
        )
        return replace(self, width=reframe.width, height=reframe.height, objects=kept, moves=IDENTITY, touched=True)


def _bounds(objects: Sequence[Tracked]) -> np.ndarray:
    """Float64 ``[N, 4]`` around all parts of each object; far from any photo for one without parts."""
    if not objects:
        return np.zeros((0, 4))
    rows = [[part.points for part in tracked.parts] or [NOWHERE] for tracked in objects]
    starts = [0, *accumulate(sum(map(len, row)) for row in rows)][:-1]
    points = np.concatenate(list(chain.from_iterable(rows)))
    return np.hstack([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)])


def _reach(bounds: np.ndarray, matrix: np.ndarray, window: Window) -> np.ndarray:
    """Bool ``[N]``: False for bounds ``[N, 4]`` that, moved by ``matrix``, lie beyond ``window``; exact for no other.

    Most objects of a large photo are nowhere near a small window; for them this one product is all there is to do.
    """
    low, high = bounds[:, :2], bounds[:, 2:]
    centers = (low + high) / 2 @ matrix[:2, :2].T + matrix[:2, 2]
    halves = (high - low) / 2 @ np.abs(matrix[:2, :2]).T + TOLERANCE_PX
    return ((centers - halves <= window[2:]) & (centers + halves >= window[:2])).all(axis=1)


def _is_cut(before: Tracked, after: Tracked) -> bool:
    return after.share < before.share - 1e-9


def _survives(before: Tracked, after: Tracked, min_coverage: float) -> bool:
    # A barrier judges its own cut, not that of an earlier crop.
    return bool(after.parts) and not (_is_cut(before, after) and after.share < min_coverage)


def _started(listed: Sequence[tuple[int, Annotation]], frame: Window, *, ordered: bool) -> tuple[Tracked, ...]:
    """The objects as recorded, cut to the photo's own frame; one look at all points finds that none needs a cut."""
    if not listed:
        return ()
    if _place(np.concatenate([note.shape.points for _, note in listed]), frame) == "inside":
        exact = ((index, note, _exact(note.shape)) for index, note in listed)
        return tuple(Tracked(index, note, (shape,), 1.0, shape if ordered else None) for index, note, shape in exact)
    return tuple(Tracked.start(index, note, frame, ordered=ordered) for index, note in listed)


def view_of(
    listed: Iterable[tuple[int, Annotation]],
    size_wh: tuple[int, int],
    task: Task,
    summary: str | None = None,
    *,
    keep_vertex_order: bool = False,
) -> View:
    """The view of untouched photos of one size, from ``(index, annotation)`` pairs."""
    width, height = size_wh
    frame = frame_window(width, height)
    objects = _started(list(listed), frame, ordered=keep_vertex_order)
    return View(width=width, height=height, task=task, summary=summary, objects=objects, moves=IDENTITY)
