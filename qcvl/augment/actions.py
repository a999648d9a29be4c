"""What an op may answer: move the photo, reframe it, paste into it, recolour it, or skip it and say why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from qcvl.errors import ConfigError
from qcvl.geometry.affine import IDENTITY, transform_shape, translation_matrix
from qcvl.geometry.shapes import Shape

Window = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels, continuous edges
Probability = Annotated[float, Field(ge=0, le=1)]

NOT_DRAWN = "not_drawn"  # the reason of an op whose probability said no


@dataclass(frozen=True, slots=True)
class Skip:
    """The op leaves this photo as it is; ``reason`` is counted as ``<op>/<reason>``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Every point moves by an affine ``matrix`` [3, 3] inside the same canvas; consecutive moves become one warp.

    ``rewrite`` maps each text about the photo to what is true of the moved one: ``left`` becomes ``right``.
    """

    matrix: np.ndarray
    rewrite: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reframe:
    """A barrier: ``window`` of the present canvas becomes the new canvas of ``width`` x ``height`` pixels.

    A window inside the canvas crops, one beyond it pads with the fill, another size than the window's resizes. With
    ``reveal``, what earlier moves pushed over the canvas' edge shows again instead of the fill. ``min_coverage`` and
    ``completeness_threshold`` replace the pipeline's own for this barrier. ``before`` [3, 3] moves the present canvas
    first (a quarter turn of a canvas that is no square); ``window`` is then in moved pixels and must be used with
    ``reveal``.
    """

    window: Window
    width: int
    height: int
    reveal: bool = False
    min_coverage: float | None = None
    completeness_threshold: float | None = None
    before: np.ndarray = field(default_factory=lambda: IDENTITY)

    @property
    def matrix(self) -> np.ndarray:
        """``[3, 3]`` from the present canvas to the new one."""
        x1, y1, x2, y2 = self.window
        sx, sy = self.width / (x2 - x1), self.height / (y2 - y1)
        return np.array([[sx, 0, -sx * x1], [0, sy, -sy * y1], [0, 0, 1]], dtype=np.float64) @ self.before

    def visible(self, width: int, height: int) -> Window:
        """The part of the new canvas, in its own pixels, where a canvas of ``width`` x ``height`` still shows."""
        if self.reveal:
            return 0.0, 0.0, float(self.width), float(self.height)
        x1, y1, x2, y2 = self.window
        left, right = _span(x1, x2, width, self.width)
        top, bottom = _span(y1, y2, height, self.height)
        return left, top, right, bottom


def _span(start: float, end: float, old: int, new: int) -> tuple[float, float]:
    """Where an old side of ``old`` pixels shows on one of ``new`` pixels, on which ``start`` to ``end`` are spread."""
    scale = new / (end - start)
    return min(max(-start * scale, 0.0), float(new)), min(max((old - start) * scale, 0.0), float(new))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paste:
    """The pixels of one object appear a second time, and so does the object; waiting moves are carried out first.

    ``index`` is the object's place among the sample's annotations, ``part`` its outline in pixels of the present canvas
    (all inside), ``shift`` ``(dx, dy)`` in whole pixels leads to the copy. The copy's edges fade over ``blend_px``.
    """

    index: int
    part: Shape
    shift: tuple[int, int]
    blend_px: float

    @property
    def landed(self) -> Shape:
        """The outline of the copy."""
        return transform_shape(self.part, translation_matrix(*self.shift))


@dataclass(frozen=True, slots=True)
class Recolor:
    """``paint`` maps uint8 RGB ``[H, W, 3]`` to the same shape; it runs after all geometry, on the final pixels.

    ``pointwise`` says that a pixel's new value does not depend on its neighbours (colours, curves; not blur, noise or
    JPEG). Only then may it run on the smaller picture that the model sees; otherwise pixels keep the photo's own size.
    """

    paint: Callable[[np.ndarray], np.ndarray]
    pointwise: bool = False


Action = Skip | Move | Reframe | Paste | Recolor


def require_ascending(op: Any, name: str) -> None:
    """Raise ConfigError where an op's ``min_<name>`` is above its ``max_<name>``."""
    low, high = getattr(op, f"min_{name}"), getattr(op, f"max_{name}")
    if low > high:
        raise ConfigError(f"{type(op).__name__}: min_{name} {low} is above max_{name} {high}; swap them")
