"""From a sample to token ids, labels and patches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qcvl.data.chat import IGNORE, ask, encode_conversation
from qcvl.data.label_kinds import label_kinds
from qcvl.data.media import Media, media_of, patches_of
from qcvl.data.written import Size, rescale, written_sizes
from qcvl.errors import DataError
from qcvl.losses.grounding_targets import CONTROL_POINTS, grounding_targets
from qcvl.models.pixels import patch_grid, seen_size
from qcvl.models.positions import media_types, rope_positions
from qcvl.models.spec import Processing
from qcvl.models.text import plain_ids
from qcvl.schema.answer import AnswerFormat, render_answer, render_summaries
from qcvl.schema.messages import write_messages
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Annotation, Sample, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One encoded sample of ``L`` tokens.

    ``input_ids``, ``labels`` and ``token_types`` (0 text, 1 image, 2 video) are int64 ``[L]``, ``label_kinds`` (0 no
    label, else 1 + the place in LABEL_KINDS) int8 ``[L]``, ``positions`` int64 ``[4, L]``,
    ``patches`` uint8 ``[N, 3 * side * side]`` (not repeated in time; with a video ``[N, 3 * temporal * side * side]``),
    ``grids`` int64 ``[runs of visual tokens, 3]``.
    ``cell_classes`` int64 ``[cells]`` and ``cell_points`` float32 ``[cells, 8]`` are the targets of the auxiliary
    grounding loss, when asked for. ``telemetry`` counts what augmentation did to the sample.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    label_kinds: np.ndarray
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
        cells, filmed = (int((features.token_types == kind).sum()) for kind in (1, 2))
        if self.overlong == "shrink_image" and cells > excess:
            cell = self.processing.family.factor**2
            pixels = (cells - excess) * cell // len(sample.images)
            smaller = replace(self.processing, max_pixels=max(pixels, cell), min_pixels=cell)
            features = self._encode(sample, prompt, where, smaller)
            if len(features.input_ids) <= self.max_length:
                return features
            cells = int((features.token_types == 1).sum())
        seen, lower = f"{cells} of them image", "lower model.max_cells"
        if filmed:
            seen, lower = f"{seen}, {filmed} video", f"lower data.video.max_frames or max_pixels, {lower}"
        raise DataError(
            f"{where} has {len(features.input_ids)} tokens ({seen}); global_max_length is "
            f"{self.max_length}: raise it, {lower}, or set data.overlong=drop or shrink_image"
        )

    def seen(self, width: int, height: int) -> Size:
        """``(width, height)`` of the resized image the model sees of a photo of that size."""
        return seen_size(height, width, self.processing)[::-1]

    def _encode(self, sample: Sample, prompt: TaskPrompt, where: str, budget: Processing) -> Features:
        """Encode with photos resized into the pixel budget of ``budget``; all else is this encoder's processing."""
        processing = self.processing
        media = media_of(sample, budget)
        ids, labels = self._tokens(sample, prompt, where, media)
        return Features(
            input_ids=ids,
            labels=labels,
            label_kinds=label_kinds(processing, labels, sample.task),
            token_types=media_types(ids, processing),
            positions=rope_positions(ids, media.grids, processing, media.intervals),
            patches=patches_of(sample, budget, still=True),
            grids=media.grids,
            telemetry=sample.telemetry,
            **(self._targets(sample, media.grids, processing.family.merge_size) if self.classes else {}),
        )

    def length(self, sample: Sample, prompt: TaskPrompt, where: str) -> int:
        """Tokens of the sample, its visual ones included, from the sizes of its media alone: no pixel is looked at."""
        return len(self._tokens(sample, prompt, where, media_of(sample, self.processing))[0])

    def group_tokens(self, sample: Sample) -> tuple[int, int]:
        """Tokens that a record of one photo adds to a sample of several, where another follows it and where none does.

        All but those of its image's marks and its key, which are the same for every record. Exact, since a tokenizer
        begins a new token at each blank, and one stands in front of what is said of a photo.
        """
        height, width = sample.images[0].shape[:2]
        grid = patch_grid(height, width, self.processing)
        answer = self._answer(replace(sample, summaries=()), np.array([grid], dtype=np.int64))
        said = json.dumps(answer, ensure_ascii=False) if sample.task == "summary" else answer
        cells = int(np.prod(grid)) // self.processing.family.merge_size**2
        return cells + len(plain_ids(self.processing, f" {said},")), cells + len(
            plain_ids(self.processing, f" {said}}}")
        )

    def _tokens(self, sample: Sample, prompt: TaskPrompt, where: str, media: Media) -> tuple[np.ndarray, np.ndarray]:
        """Ids and labels ``[L]`` of a chat sample's own messages, or of the task's prompt and the true answer."""
        if sample.task == "chat":
            talk = write_messages(sample.messages)
        else:
            answer = self._answer(sample, media.grids)
            talk = [*ask(prompt, len(sample.images)), {"role": "assistant", "content": answer}]
        return encode_conversation(self.processing, talk, media.grids, where, media.times)

    def _answer(self, sample: Sample, grids: np.ndarray) -> str:
        side = self.processing.family.patch_size
        seen = [(int(columns) * side, int(rows) * side) for _, rows, columns in grids]
        sizes = [sample.size(index) for index in range(len(sample.images))]
        if sample.summaries and sample.task == "summary":
            return render_summaries([_given(summary) for summary in sample.summaries])
        return true_answer(
            sample.task,
            sample.annotations,
            sample.summary,
            sizes,
            seen,
            self.answer_format,
            by_image=bool(sample.summaries),
            keep_vertex_order=sample.keep_vertex_order,
        )

    def _targets(self, sample: Sample, grids: np.ndarray, merge_size: int) -> dict[str, np.ndarray]:
        """Targets of the auxiliary loss; the cells of a chat sample have none, whatever its photos show."""
        if sample.task == "chat":
            cells = int(grids.prod(1).sum()) // merge_size**2
            classes = np.full(cells, IGNORE, dtype=np.int64)
            return {"cell_classes": classes, "cell_points": np.zeros((cells, 2 * CONTROL_POINTS), dtype=np.float32)}
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
        classes, points = (np.concatenate(rows) for rows in zip(*found, strict=True))
        return {"cell_classes": classes, "cell_points": points}


def true_answer(
    task: Task,
    annotations: Sequence[Annotation],
    summary: str | None,
    sizes: Sequence[Size],
    seen_sizes: Sequence[Size],
    answer_format: AnswerFormat,
    *,
    by_image: bool = False,
    keep_vertex_order: bool = False,
) -> str:
    """The text the model should write: the dense answer of the annotations, or the summary exactly.

    Args:
        task: which of the two.
        annotations: objects in pixels of their images.
        summary: the record's, for a summary task.
        sizes: ``(width, height)`` of each image.
        seen_sizes: those of the images the model sees.
        answer_format: how dense answers are written.
        by_image: whether each image has a dense answer of its own.
        keep_vertex_order: whether shapes keep the order of their points.
    """
    if task == "summary":
        return _given(summary)
    written = written_sizes(sizes, seen_sizes, answer_format)
    shown = rescale(annotations, sizes, written)
    return render_answer(
        shown, written, answer_format=answer_format, by_image=by_image, keep_vertex_order=keep_vertex_order
    )


def _given(summary: str | None) -> str:
    if summary is None:
        raise DataError("a summary sample has no summary")
    return summary
