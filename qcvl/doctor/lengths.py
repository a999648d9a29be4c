"""How long samples become, without decoding a photo: the tokens of their texts and the cells of their sizes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from qcvl.data.encode import Encoder
from qcvl.data.media import media_of
from qcvl.data.samples import load_clip, outline
from qcvl.data.settings import Data
from qcvl.data.sources import Sampling, Source
from qcvl.data.video import VideoSampling
from qcvl.doctor.findings import Severity
from qcvl.doctor.reading import Entry
from qcvl.models.settings import Model
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.prompts import Prompts
from qcvl.schema.types import Pairing, Task

Size = tuple[int, int]
# What training does with a sample that is too long: it stops, drops it, or shrinks its photo.
SEVERITY: dict[str, Severity] = {"error": "error", "drop": "warning", "shrink_image": "note"}


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens of one sample, visual ones among them, and the patches of its photos and videos."""

    tokens: int
    image_tokens: int
    patches: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What decides about lengths: model, prompts, answer format, limit, and what is seen of a pair and of a video.

    ``severity`` is how bad a longer sample is. With windows cut in training, whole photos count: validation sees those.
    """

    model: Model
    prompts: Prompts
    answer: AnswerFormat
    limit: int
    severity: Severity
    pairing: Pairing | None
    video: VideoSampling

    @classmethod
    def of(cls, data: Data, model: Model, prompts: Prompts, answer: AnswerFormat, limit: int) -> "Lengths":
        """Those of a run over ``data``."""
        severity = "note" if data.crops else SEVERITY[data.overlong]
        return cls(
            model=model,
            prompts=prompts,
            answer=answer,
            limit=limit,
            severity=severity,
            pairing=data.pair,
            video=data.video,
        )

    @cached_property
    def encoder(self) -> Encoder:
        """The one that training would use, with a tokenizer read without transformers."""
        processing = self.model.load_processing(light=True)
        answer_format = self.answer.resolved(processing.family.emit_norm)
        return Encoder(
            processing=processing, answer_format=answer_format, max_length=self.limit, overlong="error", classes={}
        )

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get: they read the tokenizer themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "encoder"}

    def longest(self, entry: Entry, sizes: Sequence[Size | None], source: Source, sampling: Sampling) -> Length | None:
        """The longest sample a record can become; None where it becomes none or a photo's size is not known."""
        chat = entry.sampling(source, sampling) == "chat"  # which shows all photos as they are
        seen = sizes[:1] if self.pairing and not chat else sizes
        known = [size for size in seen if size is not None]
        tasks = self._tasks(entry, entry.sampling(source, sampling))
        if len(known) < len(seen) or not tasks:
            return None
        prompts = source.prompts or self.prompts
        return max((self._length(entry, known, task, prompts) for task in tasks), key=lambda length: length.tokens)

    def _tasks(self, entry: Entry, sampling: Sampling) -> list[Task]:
        if sampling == "chat":
            return ["chat"] if entry.said.messages else []
        dense: list[Task] = ["dense"] if sampling != "summary" and entry.said.annotated else []
        return [*dense, "summary"] if sampling != "dense" and entry.said.summary is not None else dense

    def _length(self, entry: Entry, sizes: Sequence[Size], task: Task, prompts: Prompts) -> Length:
        record, processing = entry.record(), self.encoder.processing
        factor = processing.family.factor
        clip = partial(load_clip, record, sampling=self.video, factor=factor, decode=False)
        sample = outline(record, task, sizes, clip)
        tokens = self.encoder.length(sample, prompts.for_task(task), record.where)
        patches = int(media_of(sample, processing).grids.prod(1).sum())
        return Length(tokens, patches // processing.family.merge_size**2, patches)
