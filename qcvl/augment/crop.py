"""Ops that keep a window of the photo."""

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Probability, Reframe, Skip, Window
from qcvl.augment.view import View
from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

TRIES = 10  # windows drawn before giving up; torchvision's RandomResizedCrop also tries 10


@settings
class SampleCrop:
    """A square window of ``size`` px of a photo at its native resolution: what a sample of a large photo shows.

    A share ``aimed_share`` of the windows has the centre of an object, drawn evenly, anywhere inside, so that cut
    objects are as frequent as a tile's; a share ``empty_share`` is looked for where no object shows (the last of ten
    windows is taken where all of them show some); the others, and all of a photo without objects, lie anywhere. An
    object stays when at least ``min_coverage`` of it is visible, cut to the window. A photo smaller than the window is
    padded with the pipeline's fill on the right and at the bottom, as tiles are.
    """

    size: Annotated[int, Field(gt=0)]
    aimed_share: Probability
    empty_share: Probability
    min_coverage: Probability

    def __post_init__(self) -> None:
        total = self.aimed_share + self.empty_share
        if total > 1:
            raise ConfigError(f"SampleCrop: aimed_share + empty_share is {total:g}; expected at most 1")

    def draw(self, view: View, rng: np.random.Generator) -> Reframe:
        """A window at whole pixels."""
        bounds = view.bounds
        lows, highs = bounds[:, :2], bounds[:, 2:]
        kind = rng.random() if len(bounds) else 1.0
        if kind < self.aimed_share:
            index = int(rng.integers(len(bounds)))
            x, y = self._around((lows[index] + highs[index]) / 2, view, rng)
        else:
            x, y = self._anywhere(view, rng)
            if kind < self.aimed_share + self.empty_share:
                for _ in range(TRIES - 1):
                    if not ((lows < (x + self.size, y + self.size)) & (highs > (x, y))).all(axis=1).any():
                        break
                    x, y = self._anywhere(view, rng)
        window = (float(x), float(y), float(x + self.size), float(y + self.size))
        return Reframe(window=window, width=self.size, height=self.size, min_coverage=self.min_coverage)

    def _around(self, center: np.ndarray, view: View, rng: np.random.Generator) -> tuple[int, int]:
        x, y = (
            min(max(math.floor(middle - rng.uniform(0, self.size)), 0), max(side - self.size, 0))
            for middle, side in zip(center.tolist(), (view.width, view.height), strict=True)
        )
        return x, y

    def _anywhere(self, view: View, rng: np.random.Generator) -> tuple[int, int]:
        x, y = (int(rng.integers(max(side - self.size, 0) + 1)) for side in (view.width, view.height))
        return x, y


@settings
class RandomCrop:
    """Keep a random window of the photo's own aspect, its sides ``min_scale`` to ``max_scale`` of the photo's.

    An object stays when at least ``min_coverage`` of the original is left. The window holds at least ``min_objects``
    such objects (all of them, where the photo has fewer); when ten windows fail, the photo is not cropped.
    """

    p: Probability
    min_scale: Annotated[float, Field(gt=0, le=1)]
    max_scale: Annotated[float, Field(gt=0, le=1)]
    min_coverage: Probability
    min_objects: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        if self.min_scale > self.max_scale:
            raise ConfigError(f"RandomCrop: min_scale {self.min_scale} is above max_scale {self.max_scale}; swap them")

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The first window, at whole pixels, that holds enough objects."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        wanted = min(self.min_objects, len(view.objects))
        for _ in range(TRIES):
            window = self._window(view, rng)
            if sum(share >= self.min_coverage for share in view.coverages_in(window)) >= wanted:
                x1, y1, x2, y2 = window
                return Reframe(window=window, width=int(x2 - x1), height=int(y2 - y1), min_coverage=self.min_coverage)
        return Skip("min_objects")

    def _window(self, view: View, rng: np.random.Generator) -> Window:
        scale = rng.uniform(self.min_scale, self.max_scale)
        width, height = (max(1, round(side * scale)) for side in (view.width, view.height))
        left, top = (int(rng.integers(0, room + 1)) for room in (view.width - width, view.height - height))
        return float(left), float(top), float(left + width), float(top + height)
