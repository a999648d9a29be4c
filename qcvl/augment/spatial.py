"""Ops that move the photo or change its canvas: flips, rotation, zoom, expansion and padding."""

import math
import re
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Move, Probability, Reframe, Skip
from qcvl.augment.view import View, frame_window
from qcvl.errors import ConfigError
from qcvl.geometry.affine import flip_turn_matrix, hflip_matrix, rotation_matrix, scale_matrix, vflip_matrix
from qcvl.geometry.clip import TOLERANCE_PX
from qcvl.schema.settings import settings

HORIZONTAL_WORDS = ("左", "右", "left", "right")
VERTICAL_WORDS = ("上", "下", "top", "bottom", "upper", "lower", "above", "below")


def mentions(texts: Sequence[str], words: Sequence[str]) -> bool:
    """Whether any text holds any word: Latin ones count whole (``bright`` has no ``right``), Chinese ones anywhere."""
    patterns = [rf"(?<![a-z]){word}(?![a-z])" if word.isascii() else re.escape(word) for word in words]
    return re.search("|".join(patterns), "\n".join(texts), flags=re.IGNORECASE) is not None


@settings
class HFlip:
    """Mirror left and right with probability ``p``; refused where the text says left or right."""

    p: Probability

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """``x`` becomes ``width - x``."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if mentions(view.texts, HORIZONTAL_WORDS):
            return Skip("directional_text")
        return Move(hflip_matrix(view.width))


@settings
class VFlip:
    """Mirror top and bottom with probability ``p``; refused where the text says above or below."""

    p: Probability

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """``y`` becomes ``height - y``."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if mentions(view.texts, VERTICAL_WORDS):
            return Skip("directional_text")
        return Move(vflip_matrix(view.height))


@settings
class FlipTurn:
    """One of the eight flips and turns of the photo, all equally likely, with probability ``p`` (else none).

    Right for photos without an up, such as boards and tiles. The four that exchange the axes turn a photo of W x H
    into one of H x W. Refused where the text says left, right, above or below.
    """

    p: Probability

    def draw(self, view: View, rng: np.random.Generator) -> Move | Reframe | Skip:
        """The identity counts as a draw of its own, so a share 1/8 of the drawn photos stays as it is."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if mentions(view.texts, HORIZONTAL_WORDS + VERTICAL_WORDS):
            return Skip("directional_text")
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
        if self.min_scale > self.max_scale:
            raise ConfigError(f"Scale: min_scale {self.min_scale} is above max_scale {self.max_scale}; swap them")

    def draw(self, view: View, rng: np.random.Generator) -> Move | Skip:
        """One factor, uniform, for both axes."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return Move(scale_matrix(rng.uniform(self.min_scale, self.max_scale), center=view.center))


@settings
class ExpandToFit:
    """The canvas becomes the smallest that holds the whole moved photo, so that a rotation cuts nothing off."""

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The bounding box of the moved corners, its sides rounded up to whole pixels."""
        (x1, y1), (x2, y2) = view.corners().min(axis=0), view.corners().max(axis=0)
        if np.allclose([x1, y1, x2, y2], [0, 0, view.width, view.height], rtol=0, atol=TOLERANCE_PX):
            return Skip("already_fits")
        width, height = (math.ceil(side - TOLERANCE_PX) for side in (x2 - x1, y2 - y1))
        return Reframe(window=(x1, y1, x1 + width, y1 + height), width=width, height=height, reveal=True)


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
