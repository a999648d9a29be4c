"""Ops that move the photo or change its canvas: flips, rotation, zoom, expansion and padding."""

import math
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Move, Probability, Reframe, Skip, require_ascending
from qcvl.augment.view import View, frame_window
from qcvl.augment.words import WordPairs, mentions, swap_words
from qcvl.errors import ConfigError
from qcvl.geometry.affine import (
    Matrix,
    flip_turn_matrix,
    hflip_matrix,
    rotation_matrix,
    scale_matrix,
    shear_matrix,
    translation_matrix,
    vflip_matrix,
)
from qcvl.geometry.clip import TOLERANCE_PX
from qcvl.schema.settings import settings

DIRECTIONAL_TEXT = "directional_text"  # the reason of a flip or turn that would make a text wrong
ShearDegrees = Annotated[float, Field(ge=0, le=40)]  # two shears of 45 degrees together would flatten the photo


@settings
class HFlip:
    """Mirror left and right with probability ``p``.

    Where a text says one of the words of ``word_pairs`` (left, right), ``directional_text`` swaps each for the other of
    its pair, in the descs and the summary, or refuses the flip.
    """

    p: Probability
    directional_text: Literal["swap", "refuse"]
    word_pairs: WordPairs

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """``x`` becomes ``width - x``."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return _mirrored(view, hflip_matrix(view.width), self.directional_text, self.word_pairs)


@settings
class VFlip:
    """Mirror top and bottom with probability ``p``; words of ``word_pairs`` (above, below) are treated as by HFlip."""

    p: Probability
    directional_text: Literal["swap", "refuse"]
    word_pairs: WordPairs

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """``y`` becomes ``height - y``."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return _mirrored(view, vflip_matrix(view.height), self.directional_text, self.word_pairs)


def _mirrored(view: View, matrix: Matrix, directional_text: Literal["swap", "refuse"], pairs: WordPairs) -> Move | Skip:
    if not mentions(view.texts, pairs):
        return Move(matrix)
    if directional_text == "refuse":
        return Skip(DIRECTIONAL_TEXT)
    return Move(matrix, rewrite=partial(swap_words, pairs=pairs))


@settings
class FlipTurn:
    """One of the eight flips and turns of the photo, all equally likely, with probability ``p`` (else none).

    Right for photos without an up, such as boards and tiles. The four that exchange the axes turn a photo of W x H
    into one of H x W. Refused where a text says a word of ``word_pairs``: left becomes above in some, below in others.
    """

    p: Probability
    word_pairs: WordPairs

    def draw(self, view: View, rng: np.random.Generator) -> Move | Reframe | Skip:
        """The identity counts as a draw of its own, so a share 1/8 of the drawn photos stays as it is."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if mentions(view.texts, self.word_pairs):
            return Skip(DIRECTIONAL_TEXT)
        index = int(rng.integers(8))
        matrix = flip_turn_matrix(index, view.width, view.height)
        if index < 4 or view.width == view.height:
            return Move(matrix)
        width, height = view.height, view.width
        window = frame_window(width, height)
        return Reframe(window=window, width=width, height=height, reveal=True, before=matrix)


@settings
class Rotate:
    """Turn about the centre, with probability ``p``, by up to ``max_rotation_degrees`` either way."""

    p: Probability
    max_rotation_degrees: Annotated[float, Field(ge=0, le=180)]

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """An angle uniform in ``±max_rotation_degrees``."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        degrees = rng.uniform(-self.max_rotation_degrees, self.max_rotation_degrees)
        return Move(rotation_matrix(degrees, view.center))


@settings
class Scale:
    """Zoom about the centre by ``min_scale`` to ``max_scale``, with probability ``p``, inside the same canvas."""

    p: Probability
    min_scale: Annotated[float, Field(gt=0)]
    max_scale: Annotated[float, Field(gt=0)]

    def __post_init__(self) -> None:
        require_ascending(self, "scale")

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """One factor, uniform, for both axes."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return Move(scale_matrix(rng.uniform(self.min_scale, self.max_scale), center=view.center))


@settings
class Shear:
    """Lean about the centre, with probability ``p``, by up to so many degrees either way.

    ``max_x_degrees`` is for upright lines, whose ``x`` changes, ``max_y_degrees`` for level ones.
    """

    p: Probability
    max_x_degrees: ShearDegrees
    max_y_degrees: ShearDegrees

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """Both angles uniform, independent of each other."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        x, y = (rng.uniform(-limit, limit) for limit in (self.max_x_degrees, self.max_y_degrees))
        return Move(shear_matrix(x, y, view.center))


@settings
class Translate:
    """Shift inside the same canvas, with probability ``p``, by up to the given shares of its width and height."""

    p: Probability
    max_x_share: Probability
    max_y_share: Probability

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """Both ways uniform and rounded to whole pixels, so that a shift alone interpolates no value."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        limits = (self.max_x_share * view.width, self.max_y_share * view.height)
        dx, dy = (round(rng.uniform(-limit, limit)) for limit in limits)
        return Move(translation_matrix(dx, dy))


@settings
class ExpandToFitAffine:
    """The canvas becomes the smallest that holds the whole moved photo, so that a rotation cuts nothing off.

    Its sides are multiples of ``multiple``; where it would have more than ``max_pixels``, the photo is scaled down
    until it fits.
    """

    multiple: Annotated[int, Field(ge=1)]
    max_pixels: Annotated[int, Field(ge=1)]

    def __post_init__(self) -> None:
        if self.max_pixels < self.multiple**2:
            raise ConfigError(
                f"ExpandToFitAffine: max_pixels {self.max_pixels} holds no canvas of {self.multiple}x{self.multiple}, "
                "the smallest that multiple allows; raise it"
            )

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The bounding box of the moved corners, filled up on the right and at the bottom."""
        (x1, y1), (x2, y2) = view.corners().min(axis=0), view.corners().max(axis=0)
        (width, height), scale = self._canvas(x2 - x1, y2 - y1)
        window = (float(x1), float(y1), float(x1 + width / scale), float(y1 + height / scale))
        still = np.allclose(window, frame_window(view.width, view.height), rtol=0, atol=TOLERANCE_PX)
        if still and (width, height) == (view.width, view.height):
            return Skip("already_fits")
        return Reframe(window=window, width=width, height=height, reveal=True)

    def _canvas(self, width: float, height: float) -> tuple[tuple[int, int], float]:
        """Canvas ``(width, height)`` for a photo of ``width`` x ``height`` and the scale at which it fits there."""
        across, down = (math.ceil((side - TOLERANCE_PX) / self.multiple) for side in (width, height))
        cells = self.max_pixels // self.multiple**2
        scale = 1.0
        if across * down > cells:
            ideal = math.sqrt(self.max_pixels / (width * height))
            across = min(max(math.floor(width * ideal / self.multiple), 1), cells)
            down = min(max(math.floor(height * ideal / self.multiple), 1), cells // across)
            scale = min(across * self.multiple / width, down * self.multiple / height)
        return (across * self.multiple, down * self.multiple), scale


@settings
class ResizeByScale:
    """Resize by ``min_scale`` to ``max_scale``, with probability ``p``, to multiples of ``align_multiple`` pixels."""

    p: Probability
    min_scale: Annotated[float, Field(gt=0)]
    max_scale: Annotated[float, Field(gt=0)]
    align_multiple: Annotated[int, Field(ge=1)]

    def __post_init__(self) -> None:
        require_ascending(self, "scale")

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """One factor, uniform; each side is rounded to the nearest multiple, which may change the aspect a little."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        scale, step = rng.uniform(self.min_scale, self.max_scale), self.align_multiple
        width, height = (max(round(side * scale / step), 1) * step for side in (view.width, view.height))
        if (width, height) == (view.width, view.height):
            return Skip("same_size")
        return Reframe(window=frame_window(view.width, view.height), width=width, height=height)


@settings
class PadToMultiple:
    """Fill on the right and at the bottom until both sides are multiples of ``multiple``; no coordinate changes."""

    multiple: Annotated[int, Field(ge=1)]

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The canvas' sides rounded up to the multiple."""
        width, height = (math.ceil(side / self.multiple) * self.multiple for side in (view.width, view.height))
        if (width, height) == (view.width, view.height):
            return Skip("already_multiple")
        return Reframe(window=(0.0, 0.0, width, height), width=width, height=height)
