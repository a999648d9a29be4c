"""From a sample to token ids, labels and patches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcvl.data.chat import ask, encode_exchange
from qcvl.data.written import Size, rescale, written_sizes
from qcvl.errors import DataError
from qcvl.losses.grounding_targets import grounding_targets
from qcvl.models.pixels import seen_size, to_patches
from qcvl.models.positions import rope_positions
from qcvl.models.spec import Processing
from qcvl.schema.answer import AnswerFormat, render_answer
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Annotation, Sample, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One encoded sample of ``L`` tokens.

    ``input_ids``, ``labels`` and ``token_types`` (0 text, 1 image) are int64 ``[L]``, ``positions`` int64 ``[4, L]``,
    ``patches`` uint8 ``[N, 3 * side * side]`` (not repeated in time), ``grids`` int64 ``[images, 3]``.
    ``cell_classes`` int64 ``[cells]`` and ``cell_points`` float32 ``[cells, 8]`` are the targets of the auxiliary
    grounding loss, when asked for. ``telemetry`` counts what augmentation did to the sample.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    token_types: np.ndarray
    positions: np.ndarray
    patches: np.ndarray
    grids: np.ndarray
    telemetry: Mapping[str, float]
    cell_classes: np.ndarray | None = None
    cell_points: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Encode samples for one model: its tokenizer and template, the answer format, and the length limit.

    ``classes`` maps a desc to its number (from 1) for the auxiliary grounding loss; empty turns its targets off.
    """

    processing: Processing
    answer_format: AnswerFormat
    max_length: int
    overlong: str
    classes: dict[str, int]

    def __call__(self, sample: Sample, prompt: TaskPrompt, where: str) -> Features | None:
        """Encode one sample; ``None`` only for an overlong one under ``overlong=drop``.

        Raises:
            DataError: for an overlong sample, one without a label, or media that do not match their grids.
        """
        features = self._encode(sample, prompt, where, self.processing)
        excess = len(features.input_ids) - self.max_length
        if excess <= 0:
            return features
        if self.overlong == "drop":
            return None
        cells = int(features.token_types.sum())
        if self.overlong == "shrink_image" and cells > excess:
            cell = self.processing.family.factor**2
            pixels = (cells - excess) * cell // len(sample.images)
            smaller = replace(self.processing, max_pixels=max(pixels, cell), min_pixels=cell)
            features = self._encode(sample, prompt, where, smaller)
            if len(features.input_ids) <= self.max_length:
                return features
            cells = int(features.token_types.sum())
        raise DataError(
            f"{where} has {len(features.input_ids)} tokens ({cells} of them image); global_max_length is "
            f"{self.max_length}: raise it, lower model.max_cells, or set data.overlong=drop or shrink_image"
        )

    def seen(self, width: int, height: int) -> Size:
        """``(width, height)`` of the resized image the model sees of a photo of that size."""
        return seen_size(height, width, self.processing)[::-1]

    def _encode(self, sample: Sample, prompt: TaskPrompt, where: str, budget: Processing) -> Features:
        """Encode with photos resized into the pixel budget of ``budget``; all else is this encoder's processing."""
        processing = self.processing
        patches, grids = patchify(sample.images, budget, still=True)
        question = ask(prompt, len(sample.images))
        ids, labels = encode_exchange(processing, question, self._answer(sample, grids), grids, where)
        return Features(
            input_ids=ids,
            labels=labels,
            token_types=(ids == processing.image_pad).astype(np.int64),
            positions=rope_positions(ids, grids, processing),
            patches=patches,
            grids=grids,
            telemetry=sample.telemetry,
            **(self._targets(sample, grids, processing.family.merge_size) if self.classes else {}),
        )

    def _answer(self, sample: Sample, grids: np.ndarray) -> str:
        side = self.processing.family.patch_size
        seen = [(int(columns) * side, int(rows) * side) for _, rows, columns in grids]
        sizes = [sample.size(index) for index in range(len(sample.images))]
        return true_answer(sample.task, sample.annotations, sample.summary, sizes, seen, self.answer_format)

    def _targets(self, sample: Sample, grids: np.ndarray, merge_size: int) -> dict[str, np.ndarray]:
        found = []
        for index, (_, rows, columns) in enumerate(grids):
            mine = [note for note in sample.annotations if note.image == index and note.desc in self.classes]
            found.append(
                grounding_targets(
                    [note.shape for note in mine],
                    [self.classes[note.desc] for note in mine],
                    sample.size(index),
                    (int(rows) // merge_size, int(columns) // merge_size),
                )
            )
        classes, points = zip(*found, strict=True)
        return {"cell_classes": np.concatenate(classes), "cell_points": np.concatenate(points)}


def patchify(
    images: Sequence[np.ndarray], processing: Processing, *, still: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """All patches ``[N, patch dim]`` and grids ``[images, 3]`` of a sample's images; see ``to_patches``."""
    pairs = [to_patches(image, processing, still=still) for image in images]
    rows = pairs[0][0] if len(pairs) == 1 else np.concatenate([patches for patches, _ in pairs])
    return rows, np.array([grid for _, grid in pairs], dtype=np.int64)


def true_answer(
    task: Task,
    annotations: Sequence[Annotation],
    summary: str | None,
    sizes: Sequence[Size],
    seen_sizes: Sequence[Size],
    answer_format: AnswerFormat,
) -> str:
    """The text the model should write: the dense answer of the annotations, or the summary exactly.

    Args:
        task: which of the two.
        annotations: objects in pixels of their images.
        summary: the record's, for a summary task.
        sizes: ``(width, height)`` of each image.
        seen_sizes: those of the images the model sees.
        answer_format: how dense answers are written.
    """
    if task == "summary":
        if summary is None:
            raise DataError("a summary sample has no summary")
        return summary
    written = written_sizes(sizes, seen_sizes, answer_format)
    return render_answer(rescale(annotations, sizes, written), written, answer_format=answer_format)
