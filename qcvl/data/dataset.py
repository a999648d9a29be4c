"""A map-style dataset of encoded samples, and the row layout that batches them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from qcvl.augment.base import Compose
from qcvl.augment.crop import SampleCrop
from qcvl.augment.telemetry import added
from qcvl.data.cache import SampleCache
from qcvl.data.chat import IGNORE
from qcvl.data.completeness import missing_parts, sampling_of
from qcvl.data.encode import Encoder, Features
from qcvl.data.jsonl import JsonlRecords
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.data.samples import build_sample, joined, keep_first
from qcvl.data.sampling import choose_task, expand_epoch, group_count, group_epoch
from qcvl.data.settings import Sampling, Source
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Sample, Task

FILL = 128  # mid-grey where a window reaches beyond its photo, in training as in tiles
CLASS_LIMIT = 255  # descs the auxiliary grounding loss tells apart
Key = tuple[int, int]  # (epoch, index in that epoch)


@dataclass(frozen=True)
class OpenSource:
    """A source whose records are at hand, with the task and prompts its samples get.

    ``fixed`` says that ``sampling`` is the source's own task and not the run's, ``limit`` bounds the records in use.
    ``augmented`` says whether its samples are varied, ``max_objects`` how many objects they list, ``processing`` is the
    pixel budget of its photos where it is not the run's, ``keep_vertex_order`` says that the order of a shape's points
    carries meaning. ``together`` records make a sample. ``complete`` is as in ``Source``.
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
class SampleDataset(Dataset):
    """Encoded samples by ``(epoch, index)``: equal keys give equal features in every worker, rank and run.

    ``counts`` are the shows of records each source gives to an epoch, ``pairing`` says what is seen of a photo and its
    template, ``crops`` which window of a photo, ``cache`` keeps decoded photos (each worker process fills its own).

    A sample is of one record, or of as many of one source as that has ``together``: an epoch is then as long as there
    are such groups, and which records meet is drawn anew in each. Every record is cut, varied and capped as it would be
    by itself, with draws of its own (one random stream for all, where ``augment.share_draw`` says so).
    """

    sources: Sequence[OpenSource]
    counts: Sequence[int]
    encoder: Encoder
    augment: Compose | None
    seed: int
    dense_share: float
    pairing: Pairing | None
    crops: SampleCrop | None
    cache: SampleCache
    _epochs: dict[int, Epoch] = field(default_factory=dict, repr=False)
    _stages: dict[int, "SampleDataset"] = field(default_factory=dict, repr=False)

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

    def members(self, key: Key) -> list[int]:
        """The rows of the records that a sample is of."""
        _, order, starts = self.epoch(key[0])
        return order[starts[key[1]] : starts[key[1] + 1]].tolist()

    def at(self, step: int, steps: int | None) -> "SampleDataset":
        """The dataset as the augmentation's phases make it for optimizer step ``step`` (from 0) of ``steps``."""
        if self.augment is None or not self.augment.phases:
            return self
        if step not in self._stages:
            self._stages.clear()
            self._stages[step] = replace(self, augment=self.augment.at(step, steps))
        return self._stages[step]

    def where(self, key: Key) -> str:
        """Where the record (or records) behind a key stands: ``train.jsonl:418``."""
        return _where([self._record(key[0], row) for row in self.members(key)])

    def sample(self, key: Key) -> tuple[Sample, Prompts, str]:
        """The decoded, augmented sample behind a key, its source's prompts, and where its records stand."""
        epoch, index = key
        source, members = self.source(key), self.members(key)
        records = [self._record(epoch, row) for row in members]
        task = choose_task(source.sampling_of(records[0]), self.dense_share, (self.seed, epoch, int(index)))
        shares = len(members) > 1 and self.augment is not None and self.augment.share_draw
        samples = [
            self._shown(source, record, task, (epoch, row), members[0] if shares else row)
            for record, row in zip(records, members, strict=True)
        ]
        return joined(samples), source.prompts, _where(records)

    def _shown(self, source: OpenSource, record: Record, task: Task, show: Key, stream: int) -> Sample:
        """One show of a record, ``(epoch, row)``; its window is drawn by its row, augmentation by ``stream``."""
        epoch, row = show
        place = tuple(self.rows(epoch)[row].tolist())
        sample = self.cache.get(place, task, lambda: build_sample(record, task, self.pairing))
        sample = replace(sample, keep_vertex_order=source.keep_vertex_order)
        if self.crops is not None:
            sample = window(self.crops)(sample, (self.seed, epoch, row))
        if self.augment is not None and source.augmented:
            sample = self.augment(sample, (self.seed, epoch, stream), self.encoder_of(source).seen)
        if source.max_objects is not None and task == "dense":
            sample = keep_first(sample, source.max_objects, self.encoder.answer_format.order)
        return sample

    def source(self, key: Key) -> OpenSource:
        """The source of the records behind a key."""
        return self.sources[self.rows(key[0])[self.members(key)[0], 0]]

    def _record(self, epoch: int, row: int) -> Record:
        source, number = self.rows(epoch)[row].tolist()
        return self.sources[source].records[number]

    def encoder_of(self, source: OpenSource) -> Encoder:
        """What encodes the samples of one source: the shared encoder, with the source's own pixel budget."""
        return self.encoder if source.processing is None else replace(self.encoder, processing=source.processing)

    def __getitem__(self, key: Key) -> Features | None:
        sample, prompts, where = self.sample(key)
        return self.encoder_of(self.source(key))(sample, prompts.for_task(sample.task), where)


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


def collate(features: Sequence[Features | None]) -> dict[str, Any]:
    """Lay samples one after another in one row.

    Returns:
        ``input_ids``, ``labels``, ``mm_token_type_ids`` int64 ``[1, L]``; ``label_kinds`` int8 ``[1, L]`` (see
        ``data.label_kinds``); ``position_ids`` int64 ``[4, 1, L]``;
        ``segments`` int64 ``[samples]`` (lengths, summing to L); ``pixel_values`` uint8 ``[N, patch dim]``, grey levels
        (see ``forward.normalised``); ``image_grid_thw`` int64 ``[images, 3]``; ``dropped``, how many samples were
        overlong; ``telemetry``, the sums of what augmentation counted; with grounding targets also ``cell_classes``
        int64 ``[cells]`` and ``cell_points`` float32 ``[cells, 8]``.

    Raises:
        DataError: when every sample of the batch was dropped as overlong.
    """
    kept = [item for item in features if item is not None]
    if not kept:
        raise DataError("every sample of a batch was dropped as overlong; raise global_max_length or data.batch_size")

    def row(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(item, name) for item in kept]))

    batch = {
        "input_ids": row("input_ids")[None],
        "labels": row("labels")[None],
        "label_kinds": row("label_kinds")[None],
        "mm_token_type_ids": row("token_types")[None],
        "position_ids": torch.from_numpy(np.concatenate([item.positions for item in kept], axis=1))[:, None],
        "segments": torch.tensor([len(item.input_ids) for item in kept]),
        "pixel_values": row("patches"),
        "image_grid_thw": row("grids"),
        "dropped": torch.tensor(len(features) - len(kept)),
        "telemetry": added(item.telemetry for item in kept),
    }
    if kept[0].cell_classes is not None:
        batch |= {"cell_classes": row("cell_classes"), "cell_points": row("cell_points")}
    return batch


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


def step_counts(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What some micro-batches hold together: label tokens by kind, int64 ``[LABEL_KINDS]``, and visual tokens.

    Of the visual tokens, those with grounding targets count, where there are any: a chat sample has none.
    """
    none = torch.zeros(len(LABEL_KINDS), dtype=torch.int64)
    labels = sum((count_labels(batch["label_kinds"]) for batch in batches), start=none)
    return {"step_labels": labels, "step_cells": torch.tensor(sum(map(_cells, batches)))}


def count_labels(label_kinds: torch.Tensor) -> torch.Tensor:
    """Label tokens of each kind, int64 ``[LABEL_KINDS]``, in a batch's ``label_kinds``."""
    return torch.bincount(label_kinds.flatten().int(), minlength=len(LABEL_KINDS) + 1)[1:]


def _cells(batch: Mapping[str, torch.Tensor]) -> int:
    if "cell_classes" in batch:
        return int((batch["cell_classes"] != IGNORE).sum())
    return int((batch["mm_token_type_ids"] > 0).sum())
