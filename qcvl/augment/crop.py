"""Ops that keep a window of the photo."""

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Probability, Reframe, Skip, Window, require_ascending
from qcvl.augment.view import View, frame_window
from qcvl.errors import ConfigError
from qcvl.schema.descs import has_token
from qcvl.schema.settings import settings

Share = Annotated[float, Field(gt=0, le=1)]  # of the photo's sides
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
    """Keep a random window, its sides ``min_scale`` to ``max_scale`` of the photo's.

    Its aspect is that of the photo times ``min_aspect`` to ``max_aspect`` (1: as the photo). An object stays when at
    least ``min_coverage`` of the original is left; it counts as whole (see ``Compose.relabel``) from
    ``completeness_threshold`` on. The window holds at least ``min_objects`` objects that stay (all of them, where the
    photo has fewer); when ten windows fail, the photo is not cropped. With ``skip_if_line`` a photo with a polyline is
    never cropped, so that no cable is cut in two.
    """

    p: Probability
    min_scale: Share
    max_scale: Share
    min_aspect: Annotated[float, Field(gt=0)]
    max_aspect: Annotated[float, Field(gt=0)]
    min_coverage: Probability
    completeness_threshold: Probability
    min_objects: Annotated[int, Field(ge=0)]
    skip_if_line: bool

    def __post_init__(self) -> None:
        require_ascending(self, "scale")
        require_ascending(self, "aspect")

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The first window, at whole pixels, that holds enough objects."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if self.skip_if_line and any(tracked.annotation.shape.kind == "line" for tracked in view.objects):
            return Skip("has_line")
        wanted = min(self.min_objects, len(view.objects))
        for _ in range(TRIES):
            window = self._window(view, rng)
            if sum(share >= self.min_coverage for share in view.coverages_in(window)) >= wanted:
                return _kept(window, self.min_coverage, self.completeness_threshold)
        return Skip("min_objects")

    def _window(self, view: View, rng: np.random.Generator) -> Window:
        scale = rng.uniform(self.min_scale, self.max_scale)
        stretch = math.exp(rng.uniform(math.log(self.min_aspect), math.log(self.max_aspect)) / 2)
        width, height = _whole(view.width * scale * stretch, view.height * scale / stretch, view)
        left, top = (int(rng.integers(0, room + 1)) for room in (view.width - width, view.height - height))
        return float(left), float(top), float(left + width), float(top + height)


@settings
class RoiCrop:
    """Keep a window around an object, drawn evenly among those whose desc holds one of ``classes`` as a whole token.

    With no classes any object will do. The window's sides are ``min_scale`` to ``max_scale`` times the object's and at
    least ``min_size_px``, as far as the photo reaches; the object lies anywhere inside. What else is cut is judged as
    by RandomCrop.
    """

    p: Probability
    classes: list[str]
    min_scale: Annotated[float, Field(ge=1)]
    max_scale: Annotated[float, Field(ge=1)]
    min_size_px: Annotated[int, Field(ge=1)]
    min_coverage: Probability
    completeness_threshold: Probability

    def __post_init__(self) -> None:
        require_ascending(self, "scale")

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """A window at whole pixels that holds all that shows of the object."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        shares = view.coverages_in(frame_window(view.width, view.height))
        chosen = [
            tracked
            for tracked, share in zip(view.objects, shares, strict=True)
            if share > 0 and (not self.classes or has_token(tracked.annotation.desc, self.classes))
        ]
        if not chosen:
            return Skip("no_object")
        tracked = chosen[int(rng.integers(len(chosen)))]
        points = np.concatenate([part.points for part in view.parts_of(tracked)])
        low, high = (np.clip(edge, 0, (view.width, view.height)) for edge in (points.min(axis=0), points.max(axis=0)))
        least = np.maximum(np.ceil(high) - np.floor(low), self.min_size_px)
        sides = np.maximum((high - low) * rng.uniform(self.min_scale, self.max_scale), least)
        spans = zip(
            low.tolist(), high.tolist(), _whole(sides[0], sides[1], view), (view.width, view.height), strict=True
        )
        (x1, x2), (y1, y2) = (_span(*span, rng) for span in spans)
        return _kept((x1, y1, x2, y2), self.min_coverage, self.completeness_threshold)


@settings
class CenterCrop:
    """Keep the middle, ``scale`` of each side, with probability ``p``; what is cut is judged as by RandomCrop."""

    p: Probability
    scale: Share
    min_coverage: Probability
    completeness_threshold: Probability

    def draw(self, view: View, rng: np.random.Generator) -> Reframe | Skip:
        """The window at whole pixels; an odd rest goes to the right and the bottom."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        width, height = _whole(view.width * self.scale, view.height * self.scale, view)
        left, top = (view.width - width) // 2, (view.height - height) // 2
        window = (float(left), float(top), float(left + width), float(top + height))
        return _kept(window, self.min_coverage, self.completeness_threshold)


def _kept(window: Window, min_coverage: float, completeness_threshold: float) -> Reframe:
    x1, y1, x2, y2 = window
    return Reframe(
        window=window,
        width=int(x2 - x1),
        height=int(y2 - y1),
        min_coverage=min_coverage,
        completeness_threshold=completeness_threshold,
    )


def _whole(width: float, height: float, view: View) -> tuple[int, int]:
    """Sides in whole pixels, at least 1 and at most the photo's."""
    return min(max(round(width), 1), view.width), min(max(round(height), 1), view.height)


def _span(low: float, high: float, side: int, limit: int, rng: np.random.Generator) -> tuple[float, float]:
    """Start and end of ``side`` whole pixels inside ``0..limit`` that hold ``low`` to ``high``."""
    start = int(rng.integers(max(math.ceil(high) - side, 0), min(math.floor(low), limit - side) + 1))
    return float(start), float(start + side)
