"""Ops that change colours and move nothing, through albumentations, seeded anew for every photo."""

import os
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from qcvl.augment.actions import NOT_DRAWN, Probability, Recolor, Skip
from qcvl.augment.view import View
from qcvl.schema.settings import settings

Range = tuple[float, float]


def load_albumentations() -> ModuleType:
    """Import albumentations, which takes seconds: only where colours are drawn, and before worker processes fork."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer release
    import albumentations

    return albumentations


def _paint(image: np.ndarray, *, transform: str, arguments: dict[str, Any], seed: int) -> np.ndarray:
    """uint8 ``[H, W, 3]`` after one albumentations transform whose every draw comes from ``seed``."""
    # Built for each photo (0.1 ms): a shared transform would carry its random state from one photo to the next.
    painter = getattr(load_albumentations(), transform)(**arguments, p=1.0)
    painter.set_random_seed(seed)
    return painter(image=image)["image"]


def _recolor(rng: np.random.Generator, transform: str, *, pointwise: bool = False, **arguments: Any) -> Recolor:
    seed = int(rng.integers(2**32))
    return Recolor(partial(_paint, transform=transform, arguments=arguments, seed=seed), pointwise)


@settings
class ColorJitter:
    """Brightness, contrast and saturation by a factor each and hue by a shift, in random order, with probability ``p``.

    Each range is ``(low, high)``; 1 changes nothing for the factors. Hue is in turns of the colour wheel, -0.5 to 0.5.
    """

    p: Probability
    brightness: Range
    contrast: Range
    saturation: Range
    hue: Range

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' ColorJitter with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        ranges = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        return _recolor(rng, "ColorJitter", pointwise=True, **ranges, hue=self.hue)


@settings
class Gamma:
    """Brightness curve ``value ** g`` with probability ``p``, ``g`` from ``gamma`` ``(low, high)``; 1 is linear."""

    p: Probability
    gamma: Range

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' RandomGamma (which counts in percent) with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        low, high = self.gamma
        return _recolor(rng, "RandomGamma", pointwise=True, gamma_limit=(100 * low, 100 * high))
