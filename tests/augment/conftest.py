"""What the augmentation tests share: photos of noise, samples and pipelines in one line."""

import numpy as np
import pytest

from qcvl.augment.base import Compose
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample


@pytest.fixture
def make_pipeline():
    """``make_pipeline(hflip=HFlip(p=1.0), …)``: all given ops in the given order; ``order=`` and settings override."""

    def make(*, order=None, min_coverage=0.3, bypass_prob=0.0, fill=128, share_draw=False, phases=(), **ops):
        return Compose(
            ops=ops,
            order=list(ops) if order is None else order,
            min_coverage=min_coverage,
            bypass_prob=bypass_prob,
            fill=fill,
            share_draw=share_draw,
            phases=list(phases),
        )

    return make


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
