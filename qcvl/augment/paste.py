"""Copies of objects within their own photo."""

import math
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Paste, Probability, Skip, Window
from qcvl.augment.view import Tracked, View, frame_window
from qcvl.geometry.clip import TOLERANCE_PX, is_inside
from qcvl.geometry.overlap import coverage
from qcvl.geometry.shapes import Shape
from qcvl.schema.settings import settings

TRIES = 10  # places drawn before giving up
SUBPIXEL_BITS = 4  # cv2 takes coordinates in 1/16 px


@settings
class CopyPaste:
    """Show one box or quad a second time at a free place of its photo, with probability ``p``; the desc comes along.

    Only objects that are whole, in the frame and without others on them are copied, in dense samples alone. The bounds
    of the copy cover at most ``max_overlap`` of any other object's area or line's length, so no IoU is above it
    either. The copy's edges fade into the photo over ``blend_px`` pixels.
    """

    p: Probability
    max_overlap: Probability
    blend_px: Annotated[float, Field(ge=0)]

    def draw(self, view: View, rng: np.random.Generator) -> Paste | Skip:
        """An object, evenly among those that can be copied, and the first of ten places that is free."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        shuffled = (view.objects[i] for i in rng.permutation(len(view.objects)))
        source = next((tracked for tracked in shuffled if self._can_be_copied(tracked, view)), None)
        if source is None:
            return Skip("no_object")
        (part,) = view.parts_of(source)
        x1, y1, x2, y2 = part.bounds
        taken = _shapes_beside(source, view)
        for _ in range(TRIES):
            dx, dy = (_shift(*span, rng) for span in ((x1, x2, view.width), (y1, y2, view.height)))
            if self._is_free((x1 + dx, y1 + dy, x2 + dx, y2 + dy), [part, *taken]):
                return Paste(index=source.index, part=part, shift=(dx, dy), blend_px=self.blend_px)
        return Skip("no_place")

    def _can_be_copied(self, tracked: Tracked, view: View) -> bool:
        if tracked.annotation.shape.kind not in ("bbox_2d", "quad") or len(tracked.parts) != 1 or tracked.share < 1:
            return False
        (part,) = view.parts_of(tracked)
        x1, y1, x2, y2 = part.bounds
        fits = is_inside(part.points, *frame_window(view.width, view.height)[2:]) and min(x2 - x1, y2 - y1) >= 1
        return fits and self._is_free(part.bounds, _shapes_beside(tracked, view))

    def _is_free(self, window: Window, shapes: list[Shape]) -> bool:
        return all(_apart(shape.bounds, window) or coverage(shape, window) <= self.max_overlap for shape in shapes)


def _shift(low: float, high: float, limit: int, rng: np.random.Generator) -> int:
    """Whole pixels by which ``low`` to ``high`` can move and stay inside ``0..limit``."""
    return int(rng.integers(math.ceil(-low - TOLERANCE_PX), math.floor(limit - high + TOLERANCE_PX) + 1))


def _apart(a: Window, b: Window) -> bool:
    return a[2] < b[0] or a[0] > b[2] or a[3] < b[1] or a[1] > b[3]


def _shapes_beside(source: Tracked, view: View) -> list[Shape]:
    """What else is in the photo of an object, in present pixels."""
    image = source.annotation.image
    others = [tracked for tracked in view.objects if tracked is not source and tracked.annotation.image == image]
    return [part for tracked in others for part in view.parts_of(tracked)]


def paste(photo: np.ndarray, action: Paste) -> np.ndarray:
    """A copy of the photo, uint8 ``[H, W, 3]``, in which the part shows once more."""
    low, high = action.part.points.min(axis=0), action.part.points.max(axis=0)
    x1, y1 = np.floor(low + TOLERANCE_PX).astype(int).tolist()
    x2, y2 = np.ceil(high - TOLERANCE_PX).astype(int).tolist()
    dx, dy = action.shift
    alpha = _opacity(action.part.outline - (x1, y1), (x2 - x1, y2 - y1), action.blend_px)[..., None]
    pasted = photo.copy()
    ground = pasted[y1 + dy : y2 + dy, x1 + dx : x2 + dx]
    ground[:] = np.round(alpha * photo[y1:y2, x1:x2] + (1 - alpha) * ground)
    return pasted


def _opacity(outline: np.ndarray, size_wh: tuple[int, int], blend_px: float) -> np.ndarray:
    """Float ``[h, w]``: 1 inside an outline ``[N, 2]``, falling to 0 over its outermost ``blend_px`` pixels."""
    width, height = size_wh
    mask = np.zeros((height + 2, width + 2), np.uint8)  # a border of nothing, from which the distances count
    corners = np.round((outline + 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)  # in px centres of the larger mask
    cv2.fillPoly(mask, [corners.reshape(-1, 1, 2)], 1, cv2.LINE_8, SUBPIXEL_BITS)
    mask[[0, -1]], mask[:, [0, -1]] = 0, 0
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.clip(depth / max(blend_px, 1.0), 0.0, 1.0)
