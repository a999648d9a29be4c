"""Ops for fused pairs: photo, template and their difference as the channels of one image (see ``data.pairs``)."""

from functools import partial
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from qcvl.augment.actions import NOT_DRAWN, Probability, Recolor, Skip
from qcvl.augment.view import View
from qcvl.schema.settings import settings


@settings
class PairShift:
    """Move the template of a fused pair by up to ``max_px`` pixels along each axis, with probability ``p``.

    The difference is taken anew. Pairs are aligned to within some pixels only, and by another error on each product: a
    model that has seen one product's alone takes the slivers along another's edges for defects. Nothing moves in the
    photo, so shapes stay as they are.
    """

    p: Probability
    max_px: Annotated[float, Field(ge=0)]

    def draw(self, view: View, rng: np.random.Generator) -> Recolor | Skip:
        """A shift uniform in ``±max_px`` along each axis, in parts of a pixel."""
        if rng.random() >= self.p:
            return Skip(NOT_DRAWN)
        if view.task == "chat":  # its photos are never fused
            return Skip("chat_photo")
        dx, dy = rng.uniform(-self.max_px, self.max_px, 2).tolist()
        return Recolor(partial(_shifted, dx=dx, dy=dy))


def _shifted(image: np.ndarray, *, dx: float, dy: float) -> np.ndarray:
    """uint8 ``[H, W, 3]`` with its second channel moved (its edge repeated) and the third taken anew."""
    photo, template = image[..., 0], np.ascontiguousarray(image[..., 1])
    matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    moved = cv2.warpAffine(
        template, matrix, (image.shape[1], image.shape[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.stack([photo, moved, cv2.absdiff(photo, moved)], axis=2)
