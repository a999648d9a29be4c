"""Encoded samples by key."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import ClassVar, NamedTuple, Self

import numpy as np
from torch.utils.data import Dataset

from qcvl.augment.base import Compose
from qcvl.augment.crop import SampleCrop
from qcvl.data.cache import SampleCache
from qcvl.data.completeness import missing_parts, sampling_of
from qcvl.data.encode import Encoder, Features
from qcvl.data.jsonl import JsonlRecords
from qcvl.data.samples import build_sample, joined, keep_first, load_clip
from qcvl.data.sampling import choose_task, expand_epoch, group_count, group_epoch, shuffled
from qcvl.data.sources import Sampling, Source
from qcvl.data.video import VideoSampling
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Sample, Task

FILL = 128  # mid-grey where a window reaches beyond its photo, in training as in tiles
CLASS_LIMIT = 255  # descs the auxiliary grounding loss tells apart
Key = tuple[int, ...]  # (epoch, index in that epoch), and what else a kind of samples needs to find one


@dataclass(frozen=True)
class OpenSource:
    """A source whose records are at hand, with the task and prompts its samples get.

    ``fixed`` says that ``sampling`` is the source's own task and not the run's, ``limit`` bounds the records in use,
    the first of them. ``augmented`` says whether its samples are varied, ``max_objects`` how many objects they list,
    ``processing`` is the pixel budget of its photos where it is not the run's, ``keep_vertex_order`` says that the
    order of a shape's points carries meaning. ``together`` records make a sample. ``complete`` is as in ``Source``.
    """

    name: str
    records: Sequence[Record]
    repeat: float
    sampling: Sampling
    prompts: Prompts
    fixed: bool = False
    limit: int | None = None
    augmented: bool = True
    max_objects: int | None = None
    processing: Processing | None = None
    keep_vertex_order: bool = False
    together: int = 1
    complete: bool = False

    def sampling_of(self, record: Record) -> Sampling:
        """What samples of one of its records are."""
        return sampling_of(record, self.sampling, fixed=self.fixed)

    @property
    def count(self) -> int:
        """How many records are used."""
        return len(self.records) if self.limit is None else min(len(self.records), self.limit)


def open_source(name: str, source: Source, sampling: Sampling, prompts: Prompts) -> OpenSource:
    """Open one source; its own task and prompts win over the run's.

    Raises:
        DataError: for a source without records, or a record that lacks what its samples are made of (named).
    """
    records = source.open()
    if not len(records):
        raise DataError(f"source {name} has no records")
    own, fixed = source.prompts or prompts, source.task is not None
    opened = OpenSource(name, records, source.repeat, source.task or sampling, own, fixed, complete=source.complete)
    if not source.complete or opened.sampling == "chat":  # complete ones have objects and a summary, no messages
        _check_complete(opened)
    return opened


def _check_complete(source: OpenSource) -> None:
    records: Iterable[Record] = source.records
    if isinstance(source.records, JsonlRecords):  # whose index knows which to look at
        records = source.records.lacking(source.sampling, fixed=source.fixed)
    for record in records:
        for problem in missing_parts(record, source.sampling_of(record), source.name):
            raise problem


class Epoch(NamedTuple):
    """What an epoch shows, before shuffling; sample ``i`` is of the rows ``order[starts[i]:starts[i + 1]]``.

    ``rows`` int64 ``[n, 2]`` are (source, record) of each show of a record, ``order`` int64 ``[n]``, ``starts`` int64
    ``[samples + 1]``. Where every sample is of one record, sample ``i`` is of row ``i``.
    """

    rows: np.ndarray
    order: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Samples(Dataset, ABC):
    """Encoded samples by key: equal keys give equal features in every worker, rank and run.

    A key begins with ``(epoch, index)``, of which with the seed all draws are made. ``pairing`` says what is seen of a
    photo and its template, ``crops`` which window of a photo, ``video`` which frames of a video; ``cache`` keeps
    decoded media (each worker process fills its own).

    A sample is of one record, or of several (see ``parts``): every record is then cut, varied and capped as it would be
    by itself, with draws of its own (one random stream for all, where ``augment.share_draw`` says so).
    """

    sources: Sequence[OpenSource]
    encoder: Encoder
    augment: Compose | None
    seed: int
    dense_share: float
    pairing: Pairing | None
    crops: SampleCrop | None
    video: VideoSampling
    cache: SampleCache
    key_numbers: ClassVar[int] = 2  # of a key
    _stages: dict[int, Self] = field(default_factory=dict, repr=False)

    def parts(self, key: Key) -> list[Key]:
        """The keys of the records that a sample is of: its own, where it is of one."""
        return [key]

    @abstractmethod
    def place(self, part: Key) -> tuple[int, Hashable]:
        """The number of a record's source, and what tells the record from others of that source."""

    @abstractmethod
    def record(self, part: Key) -> Record:
        """A record that a sample is of."""

    @abstractmethod
    def opening(self) -> Iterator[Key]:
        """Keys of the samples a run begins with, in training order: those of its first epoch or block."""

    def at(self, step: int, steps: int | None) -> Self:
        """The dataset as the augmentation's phases make it for optimizer step ``step`` (from 0) of ``steps``."""
        if self.augment is None or not self.augment.phases:
            return self
        if step not in self._stages:
            self._stages.clear()
            self._stages[step] = replace(self, augment=self.augment.at(step, steps))
        return self._stages[step]

    def where(self, key: Key) -> str:
        """Where the record (or records) behind a key stands: ``train.jsonl:418``."""
        return _where([self.record(part) for part in self.parts(key)])

    def task(self, key: Key, record: Record) -> Task:
        """The task of a sample made of ``record``, and of others of its kind."""
        return choose_task(self.source(key).sampling_of(record), self.dense_share, self._draw(key))

    def sample(self, key: Key) -> tuple[Sample, Prompts, str]:
        """The decoded, augmented sample behind a key, its source's prompts, and where its records stand."""
        source, parts = self.source(key), self.parts(key)
        records = [self.record(part) for part in parts]
        task = self.task(key, records[0])
        shares = len(parts) > 1 and self.augment is not None and self.augment.share_draw
        samples = [
            self._seen(source, part, record, task, parts[0] if shares else part)
            for part, record in zip(parts, records, strict=True)
        ]
        return joined(samples), source.prompts, _where(records)

    def _seen(self, source: OpenSource, part: Key, record: Record, task: Task, stream: Key) -> Sample:
        """One record as it is seen and spoken of; its window is drawn by its key, augmentation by ``stream``."""
        clip = partial(load_clip, record, sampling=self.video, factor=self.encoder.processing.family.factor)
        sample = self.cache.get(self.place(part), task, lambda: build_sample(record, task, self.pairing, clip))
        sample = replace(sample, keep_vertex_order=source.keep_vertex_order)
        if self.crops is not None:
            sample = window(self.crops)(sample, self._draw(part))
        if self.augment is not None and source.augmented:
            sample = self.augment(sample, self._draw(stream), self.encoder_of(source).seen)
        if source.max_objects is not None and task == "dense":
            sample = keep_first(sample, source.max_objects, self.encoder.answer_format.order)
        return sample

    def source(self, key: Key) -> OpenSource:
        """The source of the records behind a key."""
        return self.sources[self.place(self.parts(key)[0])[0]]

    def encoder_of(self, source: OpenSource) -> Encoder:
        """What encodes the samples of one source: the shared encoder, with the source's own pixel budget."""
        return self.encoder if source.processing is None else replace(self.encoder, processing=source.processing)

    def __getitem__(self, key: Key) -> Features | None:
        sample, prompts, where = self.sample(key)
        return self.encoder_of(self.source(key))(sample, prompts.for_task(sample.task), where)

    def _draw(self, key: Key) -> tuple[int, int, int]:
        return (self.seed, int(key[0]), int(key[1]))


@dataclass(frozen=True, kw_only=True)
class SampleDataset(Samples):
    """Samples of sources that are read whole, by ``(epoch, index)``.

    ``counts`` are the shows of records each source gives to an epoch. A sample is of one record, or of as many of one
    source as that has ``together``: an epoch is then as long as there are such groups, and which records meet is drawn
    anew in each.
    """

    counts: Sequence[int]
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        pairs = zip(self.sources, self.counts, strict=True)
        return sum(group_count(source.count, count, source.together) for source, count in pairs)

    def epoch(self, epoch: int) -> Epoch:
        """What an epoch shows."""
        if epoch not in self._epochs:
            self._epochs.clear()
            lengths, together = zip(*((source.count, source.together) for source in self.sources), strict=True)
            rows = expand_epoch(lengths, self.counts, self.seed, epoch)
            self._epochs[epoch] = Epoch(rows, *group_epoch(lengths, self.counts, together, self.seed, epoch))
        return self._epochs[epoch]

    def rows(self, epoch: int) -> np.ndarray:
        """Int64 ``[n, 2]``: (source, record) of each show of a record in an epoch."""
        return self.epoch(epoch).rows

    def parts(self, key: Key) -> list[Key]:
        """``(epoch, row)`` of each record that a sample is of."""
        epoch, index = key
        _, order, starts = self.epoch(epoch)
        return [(epoch, row) for row in order[starts[index] : starts[index + 1]].tolist()]

    def place(self, part: Key) -> tuple[int, int]:
        """The number of a record's source, and its own number there."""
        source, record = self.rows(part[0])[part[1]].tolist()
        return source, record

    def record(self, part: Key) -> Record:
        """The record of one row of an epoch."""
        source, record = self.place(part)
        return self.sources[source].records[record]

    def opening(self) -> Iterator[Key]:
        """The keys of the first epoch, in training order."""
        return ((0, index) for index in shuffled(len(self), self.seed, 0).tolist())


def _where(records: Sequence[Record]) -> str:
    return " and ".join(record.where for record in records)


@lru_cache(maxsize=8)
def window(crops: SampleCrop) -> Compose:
    """The pipeline of one op that cuts a sample's window, the same from all its photos."""
    return Compose(
        ops={"crop": crops},
        order=["crop"],
        min_coverage=crops.min_coverage,
        completeness_threshold=0.0,
        relabel={},
        bypass_prob=0.0,
        augment_prob=None,
        fill=FILL,
        share_draw=True,
        phases=[],
    )


def class_table(sources: Sequence[OpenSource], limit: int = CLASS_LIMIT, scan: int = 500) -> dict[str, int]:
    """Numbers of descs for the auxiliary grounding loss: 1, 2, … by falling frequency.

    Only the ``limit`` most frequent of each source's first ``scan`` records get one; others count as background, 0.
    """
    counts: dict[str, int] = {}
    for source in sources:
        for index in range(min(scan, len(source.records))):
            for note in source.records[index].annotations:
                counts[note.desc] = counts.get(note.desc, 0) + 1
    ranked = sorted(counts, key=lambda desc: (-counts[desc], desc))[:limit]
    return {desc: number for number, desc in enumerate(ranked, start=1)}
