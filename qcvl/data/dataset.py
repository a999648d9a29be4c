"""A map-style dataset of encoded samples, and the row layout that batches them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from qcvl.augment.base import Compose
from qcvl.augment.crop import SampleCrop
from qcvl.augment.telemetry import added
from qcvl.data.cache import SampleCache
from qcvl.data.chat import IGNORE
from qcvl.data.completeness import missing_parts
from qcvl.data.encode import Encoder, Features
from qcvl.data.samples import build_sample
from qcvl.data.sampling import choose_task, expand_epoch
from qcvl.data.settings import Sampling, Source
from qcvl.errors import DataError
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Sample

FILL = 128  # mid-grey where a window reaches beyond its photo, in training as in tiles
CLASS_LIMIT = 255  # descs the auxiliary grounding loss tells apart
Key = tuple[int, int]  # (epoch, index in that epoch)


@dataclass(frozen=True)
class OpenSource:
    """A source whose records are at hand, with the task and prompts its samples get."""

    name: str
    records: Sequence[Record]
    repeat: float
    sampling: Sampling
    prompts: Prompts


def open_source(name: str, source: Source, sampling: Sampling, prompts: Prompts) -> OpenSource:
    """Open one source; its own task and prompts win over the run's.

    Raises:
        DataError: for a source without records, or a record that lacks what its samples are made of (named).
    """
    records = source.open()
    if not len(records):
        raise DataError(f"source {name} has no records")
    opened = OpenSource(name, records, source.repeat, source.task or sampling, source.prompts or prompts)
    if not source.complete:
        _check_complete(opened)
    return opened


def _check_complete(source: OpenSource) -> None:
    for record in source.records:
        for problem in missing_parts(record, source.sampling, source.name):
            raise problem


@dataclass(frozen=True, kw_only=True)
class SampleDataset(Dataset):
    """Encoded samples by ``(epoch, index)``: equal keys give equal features in every worker, rank and run.

    ``pairing`` says what is seen of a photo and its template, ``crops`` which window of a photo, ``cache`` keeps
    decoded photos (each worker process fills its own).
    """

    sources: Sequence[OpenSource]
    encoder: Encoder
    augment: Compose | None
    seed: int
    dense_share: float
    pairing: Pairing | None
    crops: SampleCrop | None
    cache: SampleCache
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _stages: dict[int, "SampleDataset"] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.rows(0))

    def rows(self, epoch: int) -> np.ndarray:
        """Int64 ``[n, 2]``: (source, record) of each sample of an epoch, before shuffling."""
        if epoch not in self._epochs:
            self._epochs.clear()
            lengths = [len(source.records) for source in self.sources]
            self._epochs[epoch] = expand_epoch(lengths, [source.repeat for source in self.sources], self.seed, epoch)
        return self._epochs[epoch]

    def at(self, step: int, steps: int | None) -> "SampleDataset":
        """The dataset as the augmentation's phases make it for optimizer step ``step`` (from 0) of ``steps``."""
        if self.augment is None or not self.augment.phases:
            return self
        if step not in self._stages:
            self._stages.clear()
            self._stages[step] = replace(self, augment=self.augment.at(step, steps))
        return self._stages[step]

    def where(self, key: Key) -> str:
        """Where the record behind a key stands: ``train.jsonl:418``."""
        return self._record(key)[1].where

    def sample(self, key: Key) -> tuple[Sample, Prompts, str]:
        """The decoded, augmented sample behind a key, its source's prompts, and where its record stands."""
        epoch, index = key
        source, record = self._record(key)
        draw = (self.seed, epoch, int(index))
        task = choose_task(source.sampling, self.dense_share, draw)
        place = tuple(self.rows(epoch)[index].tolist())
        sample = self.cache.get(place, task, lambda: build_sample(record, task, self.pairing))
        if self.crops is not None:
            sample = window(self.crops)(sample, draw)
        if self.augment is not None:
            sample = self.augment(sample, draw, self.encoder.seen)
        return sample, source.prompts, record.where

    def _record(self, key: Key) -> tuple[OpenSource, Record]:
        epoch, index = key
        source_index, record_index = self.rows(epoch)[index]
        source = self.sources[source_index]
        return source, source.records[int(record_index)]

    def __getitem__(self, key: Key) -> Features | None:
        sample, prompts, where = self.sample(key)
        return self.encoder(sample, prompts.for_task(sample.task), where)


@lru_cache(maxsize=8)
def window(crops: SampleCrop) -> Compose:
    """The pipeline of one op that cuts a sample's window, the same from all its photos."""
    return Compose(
        ops={"crop": crops},
        order=["crop"],
        min_coverage=crops.min_coverage,
        bypass_prob=0.0,
        fill=FILL,
        share_draw=True,
        phases=[],
    )


def collate(features: Sequence[Features | None]) -> dict[str, Any]:
    """Lay samples one after another in one row.

    Returns:
        ``input_ids``, ``labels``, ``mm_token_type_ids`` int64 ``[1, L]``; ``position_ids`` int64 ``[4, 1, L]``;
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
    """How many label tokens and visual tokens (scalars) some micro-batches hold together."""
    labels = sum(int((batch["labels"] != IGNORE).sum()) for batch in batches)
    cells = sum(int((batch["mm_token_type_ids"] > 0).sum()) for batch in batches)
    return {"step_labels": torch.tensor(labels), "step_cells": torch.tensor(cells)}
