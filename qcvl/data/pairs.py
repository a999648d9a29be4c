"""Aligned pairs: a photo to be judged and the defect-free template it is held against. Free of torch.

A record of a pair has two images, the photo first; its objects lie in the photo. What a model sees of it is chosen once
for training and inference: ``fused`` (the grey levels of photo and template and their absolute difference as the red,
green and blue of one image), ``photo`` (the template left out), or, without a pairing, both as two images.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from qcvl.errors import DataError
from qcvl.schema.types import Pairing


def pair_images(images: Sequence[np.ndarray], pairing: Pairing | None) -> tuple[np.ndarray, ...]:
    """What a model sees of a record's images, each uint8 RGB ``[H, W, 3]``.

    Raises:
        DataError: when ``fused`` finds no template, more than two images, or a template of another size.
    """
    if pairing is None:
        return tuple(images)
    if pairing == "photo":
        return tuple(images[:1])
    if len(images) != 2:
        raise DataError(
            f"has {len(images)} image{'' if len(images) == 1 else 's'}; a fused pair needs two, the photo and its "
            "template: add the template as images[1], or set data.pair=photo or null"
        )
    photo, template = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images)
    if photo.shape != template.shape:
        (height, width), (other_height, other_width) = photo.shape, template.shape
        raise DataError(
            f"is {width}x{height} but its template images[1] is {other_width}x{other_height}; an aligned pair has one "
            "size: copy or align them again"
        )
    return (np.stack([photo, template, cv2.absdiff(photo, template)], axis=2),)
