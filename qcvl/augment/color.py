"""Ops that change colours and move nothing, nearly all through albumentations, seeded anew for every photo."""

import os
from functools import partial
from types import ModuleType
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import AfterValidator, Field

from qcvl.augment.actions import NOT_DRAWN, Probability, Recolor, Skip
from qcvl.augment.view import View
from qcvl.schema.settings import settings


def _ascending(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] > span[1]:
        raise ValueError(f"should be (low, high); {span[0]} is above {span[1]}")
    return span


def _odd(pixels: int) -> int:
    if pixels % 2 == 0:
        raise ValueError(f"should be odd, so that the middle is a pixel; found {pixels}")
    return pixels


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]  # (low, high)
Factor = Annotated[float, Field(ge=0)]
Factors = Annotated[tuple[Factor, Factor], AfterValidator(_ascending)]
Limit = Annotated[float, Field(ge=1)]
Sigma = Annotated[float, Field(gt=0)]
Level = Annotated[float, Field(ge=0, le=255)]
Pixels = Annotated[int, Field(ge=3), AfterValidator(_odd)]
Percent = Annotated[int, Field(ge=1, le=100)]


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
    brightness: Factors
    contrast: Factors
    saturation: Factors
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
    gamma: Factors

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' RandomGamma (which counts in percent) with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        low, high = self.gamma
        return _recolor(rng, "RandomGamma", pointwise=True, gamma_limit=(100 * low, 100 * high))


@settings
class HueSaturationValue:
    """Hue, saturation and value shifted by up to the given amounts either way, with probability ``p``.

    Hue is in degrees of the colour wheel, where 60 lie between yellow and red or green; the others have 256 levels.
    """

    p: Probability
    max_hue_degrees: Annotated[float, Field(ge=0, le=180)]
    max_saturation_levels: Level
    max_value_levels: Level

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' HueSaturationValue (which has 180 hues) with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        hue, saturation, value = self.max_hue_degrees / 2, self.max_saturation_levels, self.max_value_levels
        limits = {"hue_shift_limit": (-hue, hue), "sat_shift_limit": (-saturation, saturation)}
        return _recolor(rng, "HueSaturationValue", pointwise=True, **limits, val_shift_limit=(-value, value))


@settings
class Clahe:
    """Contrast equalised in ``tiles`` x ``tiles`` parts of the photo, with probability ``p``.

    ``clip_limit`` ``(low, high)``, from 1 on, bounds how much contrast a part may gain.
    """

    p: Probability
    clip_limit: Annotated[tuple[Limit, Limit], AfterValidator(_ascending)]
    tiles: Annotated[int, Field(ge=1)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' CLAHE with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return _recolor(rng, "CLAHE", clip_limit=self.clip_limit, tile_grid_size=(self.tiles, self.tiles))


@settings
class AutoContrast:
    """Lightness stretched to the full scale, with probability ``p``, all channels alike: grey stays grey.

    The darkest and brightest ``cutoff_percent`` of the pixels are left out of account.
    """

    p: Probability
    cutoff_percent: Annotated[float, Field(ge=0, lt=50)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Pillow's autocontrast; albumentations' stretches each channel by itself, which tints a photo."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return Recolor(partial(_stretched, cutoff_percent=self.cutoff_percent))


def _stretched(image: np.ndarray, *, cutoff_percent: float) -> np.ndarray:
    stretched = ImageOps.autocontrast(Image.fromarray(image), cutoff=cutoff_percent, preserve_tone=True)
    return np.asarray(stretched)


@settings
class Sharpness:
    """Edges sharpened, with probability ``p``; ``strength`` ``(low, high)`` is the share of the sharpened photo."""

    p: Probability
    strength: Annotated[tuple[Probability, Probability], AfterValidator(_ascending)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' Sharpen with a seed drawn here; a lightness of 1 keeps even areas as they are."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        return _recolor(rng, "Sharpen", alpha=self.strength, lightness=(1.0, 1.0))


@settings
class Blur:
    """Out of focus or shaken, with probability ``p``; a share ``motion_share`` of the blurred photos is shaken.

    ``sigma_px`` is the range of the Gaussian's deviation, ``motion_px`` (odd) that of the length of a shaken camera's
    way, which points anywhere and reaches as far to both sides, so that no object leaves its shape.
    """

    p: Probability
    sigma_px: Annotated[tuple[Sigma, Sigma], AfterValidator(_ascending)]
    motion_share: Probability
    motion_px: Annotated[tuple[Pixels, Pixels], AfterValidator(_ascending)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' GaussianBlur or MotionBlur with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if rng.random() >= self.motion_share:
            return _recolor(rng, "GaussianBlur", sigma_limit=self.sigma_px, blur_limit=0)
        still: dict[str, Any] = {"allow_shifted": False, "direction_range": (0.0, 0.0)}
        return _recolor(rng, "MotionBlur", blur_limit=self.motion_px, **still)


@settings
class Noise:
    """Gaussian noise on every value, with probability ``p``; its deviation is drawn from ``sigma_levels`` of 255."""

    p: Probability
    sigma_levels: Annotated[tuple[Level, Level], AfterValidator(_ascending)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' GaussNoise (which counts in shares of the scale) with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        low, high = self.sigma_levels
        return _recolor(rng, "GaussNoise", std_range=(low / 255, high / 255))


@settings
class Jpeg:
    """Saved and read again as JPEG, with probability ``p``, at a ``quality_percent`` ``(low, high)`` of 1 to 100."""

    p: Probability
    quality_percent: Annotated[tuple[Percent, Percent], AfterValidator(_ascending)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """Albumentations' ImageCompression with a seed drawn here."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        stored = _recolor(rng, "ImageCompression", compression_type="jpeg", quality_range=self.quality_percent)
        # It hands OpenCV red for blue, which JPEG keeps in less detail: so it gets them the other way round.
        return Recolor(lambda image: _mirrored_channels(stored.paint(_mirrored_channels(image))))


def _mirrored_channels(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])
