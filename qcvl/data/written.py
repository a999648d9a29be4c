"""The pixels that answers are written in: the photo's own, or those of the resized image the model sees.

On a normalised grid the two are the same. With ``emit_norm=none`` text holds integer pixels of the model's own input,
the convention Qwen2.5-VL was trained on.
"""

from collections.abc import Sequence
from dataclasses import replace

from qcvl.geometry.affine import scale_matrix, transform_shape
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.types import Annotation

Size = tuple[int, int]  # (width, height)


def written_sizes(
    photo_sizes: Sequence[Size], seen_sizes: Sequence[Size], answer_format: AnswerFormat
) -> tuple[Size, ...]:
    """``(width, height)`` of each image as an answer's coordinates mean it."""
    return tuple(seen_sizes if answer_format.grid == "none" else photo_sizes)


def rescale(
    annotations: Sequence[Annotation], old_sizes: Sequence[Size], new_sizes: Sequence[Size]
) -> tuple[Annotation, ...]:
    """Annotations in pixels of images of ``old_sizes`` as pixels of the same images in ``new_sizes``."""
    if tuple(old_sizes) == tuple(new_sizes):
        return tuple(annotations)
    matrices = [scale_matrix(new[0] / old[0], new[1] / old[1]) for old, new in zip(old_sizes, new_sizes, strict=True)]
    return tuple(replace(note, shape=transform_shape(note.shape, matrices[note.image])) for note in annotations)
