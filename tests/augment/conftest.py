"""What the augmentation tests share: photos of noise, samples and pipelines in one line."""

import numpy as np
import pytest

from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample
from tests.augment.ops import compose


@pytest.fixture
def make_pipeline():
    """``make_pipeline(hflip=op("hflip"), …)``: all given ops in the given order; ``order=`` and settings override."""
    return compose


@pytest.fixture
def make_sample():
    """``make_sample(("bbox_2d", [1, 2, 3, 4]), …, size=(w, h))``: noise photos with the shapes as objects."""

    def make(*shapes, size=(60, 40), task="dense", summary=None, descs=None, images=None, photos=1):
        rng = np.random.default_rng(7)
        width, height = size
        made = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(photos)]
        descs = descs or [f"part {number}" for number in range(len(shapes))]
        images = images or [0] * len(shapes)
        annotations = tuple(
            Annotation(Shape(kind, points), desc, image)
            for (kind, points), desc, image in zip(shapes, descs, images, strict=True)
        )
        return Sample(images=tuple(made), annotations=annotations, task=task, summary=summary)

    return make
