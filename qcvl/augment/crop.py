"""Ops that keep a window of the photo."""

from typing import Annotated

import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Probability, Reframe, Skip, Window
from qcvl.augment.view import View
from qcvl.errors import ConfigError
from qcvl.schema.settings import settings

TRIES = 10  # windows drawn before giving up; torchvision's RandomResizedCrop also tries 10


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
