"""Flip, rotate, zoom and colours on a photo with 60 quads: one-warp ``Compose`` beside albumentations.

Albumentations moves the quads' 240 corners as keypoints and stops there. Ours also clips every quad to the frame, drops
those cut too far, and sorts the rest, which is part of the time.
"""

import os
import sys
from collections.abc import Sequence

import numpy as np
from measure import median_seconds, report

from qcvl.augment.base import Compose, Op
from qcvl.augment.color import ColorJitter
from qcvl.augment.spatial import HFlip, Rotate, Scale
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample

SHAPES = 60
DEGREES, ZOOM, FACTOR = 15.0, (0.8, 1.25), (0.85, 1.15)  # conf/augment: dense, none


def sample(width: int, height: int) -> Sample:
    """A random photo with ``SHAPES`` tilted quads of 30 to 90 pixels."""
    random = np.random.default_rng(0)
    notes = []
    for number in range(SHAPES):
        angle, radius = random.uniform(0, np.pi / 2), random.uniform(15, 45)
        turns = angle + np.arange(4) * np.pi / 2
        middle = random.uniform((radius, radius), (width - radius, height - radius))
        corners = middle + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        notes.append(Annotation(Shape("quad", corners), f"part {number}"))
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(images=(image,), annotations=tuple(notes), task="dense")


def pipeline() -> Compose:
    """The ops of ``augment=dense`` that move and recolour, each applied to every photo."""
    ops = {
        "hflip": HFlip(p=1.0, directional_text="refuse", word_pairs=[("left", "right")]),
        "rotate": Rotate(p=1.0, max_rotation_degrees=DEGREES),
        "scale": Scale(p=1.0, min_scale=ZOOM[0], max_scale=ZOOM[1]),
        "color_jitter": ColorJitter(p=1.0, brightness=FACTOR, contrast=FACTOR, saturation=FACTOR, hue=(0.0, 0.0)),
    }
    return pipeline_of(**ops)


def pipeline_of(**ops: Op) -> Compose:
    """All of ``ops`` in this order, with the other settings of conf/augment."""
    return Compose(
        ops=ops,
        order=list(ops),
        min_coverage=0.3,
        completeness_threshold=0.95,
        relabel={},
        bypass_prob=0.0,
        augment_prob=None,
        fill=128,
        share_draw=False,
        phases=[],
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Compare photos a second; ``--quick`` takes a small photo and one repeat."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    cv2.setNumThreads(1)  # albumentations' and our calls alike
    quick = "--quick" in arguments
    width, height, count, repeats = (160, 120, 2, 1) if quick else (960, 720, 10, 5)
    photo, ours = sample(width, height), pipeline()
    theirs = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=1.0),
            albumentations.Affine(rotate=(-DEGREES, DEGREES), scale=ZOOM, fill=128, p=1.0),
            albumentations.ColorJitter(brightness=FACTOR, contrast=FACTOR, saturation=FACTOR, hue=(0.0, 0.0), p=1.0),
        ],
        keypoint_params=albumentations.KeypointParams("xy", remove_invisible=False),
    )
    corners = np.concatenate([note.shape.points for note in photo.annotations])

    def peer(seed: int) -> None:
        theirs.set_random_seed(seed)
        theirs(image=photo.images[0], keypoints=corners)

    ours_s, peer_s = median_seconds(
        [
            lambda: [ours(photo, (0, 0, seed)) for seed in range(count)],
            lambda: [peer(seed) for seed in range(count)],
        ],
        repeats,
    )
    rows = {
        "photo": f"{width}x{height} with {SHAPES} quads, {count} draws, {repeats} repeats",
        "qcvl": f"{count / ours_s:.1f} photos/s, quads clipped, filtered and sorted",
        "albumentations": f"{count / peer_s:.1f} photos/s, corners moved",
    }
    numbers = {"photos_per_s": count / ours_s, "peer_photos_per_s": count / peer_s}
    report("augment", rows, ratio=peer_s / ours_s, peer=f"albumentations {albumentations.__version__}", **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
