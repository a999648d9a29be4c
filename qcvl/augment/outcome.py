"""What a pipeline leaves of a sample: the objects of its views, in reading order, with shares and counts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from qcvl.augment.telemetry import Telemetry
from qcvl.augment.view import View
from qcvl.geometry.affine import scale_matrix, transform_shape
from qcvl.geometry.order import reading_order
from qcvl.schema.types import Annotation, Sample

PHOTO = -1  # index of the whole photo, tracked in place of objects where a sample lists none

Entry = tuple[Annotation, int, float]  # annotation, index in the sample before, share still visible


def entries_of(view: View, shape: Sequence[int]) -> Iterator[Entry]:
    """What is left of the objects, in pixels of the photo ``[H, W, …]`` that shows the view."""
    matrix = scale_matrix(shape[1] / view.width, shape[0] / view.height)
    for tracked in view.objects:
        if tracked.index == PHOTO:
            continue
        if not view.touched:
            yield tracked.annotation, tracked.index, tracked.share
            continue
        for found in tracked.shapes(view.width, view.height):
            yield replace(tracked.annotation, shape=transform_shape(found, matrix)), tracked.index, tracked.share


def in_reading_order(entries: Sequence[Entry]) -> list[Entry]:
    """Photo by photo, each in reading order."""
    ordered: list[Entry] = []
    for image in sorted({annotation.image for annotation, _, _ in entries}):
        here = [entry for entry in entries if entry[0].image == image]
        ordered.extend(here[i] for i in reading_order([annotation.shape for annotation, _, _ in here]))
    return ordered


def finished(sample: Sample, images: list[np.ndarray], entries: Sequence[Entry], telemetry: Telemetry) -> Sample:
    """The sample with new pixels and objects; indices, shares and counts continue those of an earlier pipeline."""
    before = sample.kept_indices or tuple(range(len(sample.annotations)))
    shares = sample.coverages or (1.0,) * len(sample.annotations)
    counts = {name: sample.telemetry.get(name, 0) + telemetry[name] for name in {**sample.telemetry, **telemetry}}
    return replace(
        sample,
        images=tuple(images),
        annotations=tuple(annotation for annotation, _, _ in entries),
        kept_indices=tuple(before[index] for _, index, _ in entries),
        coverages=tuple(shares[index] * share for _, index, share in entries),
        telemetry=counts,
    )
