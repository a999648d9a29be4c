"""How many tokens samples have, from their records, headers of photos and time stamps of videos; kept on disk.

Exact for samples that nothing varies. Augmentation may leave fewer objects, and a window (``crops``) shows a part of
them: what is counted here is then the most that can be.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np

from qcvl.augment.crop import SampleCrop
from qcvl.data.dataset import OpenSource, SampleDataset
from qcvl.data.images import image_size
from qcvl.data.jsonl import JsonlRecords
from qcvl.data.samples import keep_first, load_clip, outline
from qcvl.data.sampling import choose_task
from qcvl.data.stored import stored_array
from qcvl.data.written import Size
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Task

VERSION = 2  # of what is counted; another one counts everything anew


class EpochLengths:
    """Tokens of the samples of any epoch of a data set, none longer than ``max_length``."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.tables = [_tables(dataset, source) for source in dataset.sources]

    def of(self, epoch: int) -> np.ndarray:
        """Int64 ``[n]``: the length of each sample of an epoch, in the order of ``dataset.rows``."""
        rows, dataset = self.dataset.rows(epoch), self.dataset
        lengths = np.zeros(len(rows), dtype=np.int64)
        for number, (source, tables) in enumerate(zip(dataset.sources, self.tables, strict=True)):
            places = np.flatnonzero(rows[:, 0] == number)
            records = rows[places, 1]
            if len(tables) == 1:
                (table,) = tables.values()
                lengths[places] = table[records]
                continue
            keys = ((dataset.seed, epoch, place) for place in places.tolist())
            tasks = [choose_task(source.sampling, dataset.dense_share, key) for key in keys]
            lengths[places] = [tables[task][record] for task, record in zip(tasks, records.tolist(), strict=True)]
        return lengths

    def longest(self) -> np.ndarray:
        """Int64 ``[n]`` in falling order: the k-th longest sample of no epoch is longer than entry ``k``."""
        bounds = []
        for source, count, tables in zip(self.dataset.sources, self.dataset.counts, self.tables, strict=True):
            longest = np.sort(np.max(list(tables.values()), axis=0)[: source.count])[::-1]
            whole, rest = divmod(count, source.count)
            bounds += [np.tile(longest, whole), longest[:rest]]
        return np.sort(np.concatenate(bounds).astype(np.int64))[::-1]


def sample_length(dataset: SampleDataset, source: OpenSource, record: Record, task: Task) -> int:
    """Tokens of one sample; ``max_length`` at most, and for a photo that cannot be read."""
    encoder = dataset.encoder_of(source)
    try:
        factor = encoder.processing.family.factor
        clip = partial(load_clip, record, sampling=dataset.video, factor=factor, decode=False)
        sample = outline(record, task, shown_sizes(record, task, dataset.pairing, dataset.crops), clip)
        if source.max_objects is not None and task == "dense":
            sample = keep_first(sample, source.max_objects, encoder.answer_format.order)
        length = encoder.length(sample, source.prompts.for_task(task), record.where)
    except DataError:
        return encoder.max_length
    return min(length, encoder.max_length)


def shown_sizes(record: Record, task: Task, pairing: Pairing | None, crops: SampleCrop | None) -> list[Size]:
    """``(width, height)`` of each photo a sample shows: as the record states them, or from the photos' headers.

    A chat shows whole photos, all of them.
    """
    if task == "chat":
        pairing, crops = None, None
    shown = record.images if pairing is None else record.images[:1]
    if crops is not None:
        return [(crops.size, crops.size)] * len(shown)
    return [
        record.sizes[index]
        if record.sizes
        else image_size(record.image_path(index) if isinstance(value, str) else value)
        for index, value in enumerate(shown)
    ]


def _tables(dataset: SampleDataset, source: OpenSource) -> Mapping[Task, np.ndarray]:
    """Int32 ``[records]`` lengths of a source's samples, for each task they may be of."""
    tasks: tuple[Task, ...] = ("dense", "summary") if source.sampling == "mixed" else (source.sampling,)
    return {task: _table(dataset, source, task) for task in tasks}


def _task_of(source: OpenSource, record: Record, task: Task) -> Task:
    """``task``, but chat for a record that is a conversation alone."""
    return "chat" if source.sampling_of(record) == "chat" else task


def _table(dataset: SampleDataset, source: OpenSource, task: Task) -> np.ndarray:
    def measure() -> np.ndarray:
        records = (source.records[index] for index in range(source.count))
        tasks = ((record, _task_of(source, record, task)) for record in records)
        return np.array([sample_length(dataset, source, record, own) for record, own in tasks], dtype=np.int32)

    if not isinstance(source.records, JsonlRecords):
        return measure()
    encoder = dataset.encoder_of(source)
    processing = encoder.processing
    facts = {
        "version": VERSION,
        "records": dict(source.records.fingerprint),
        "count": source.count,
        "task": [task, source.fixed],
        "text": [repr(source.prompts.for_task(task)), repr(encoder.answer_format), _text_fingerprint(processing)],
        "pixels": [repr(processing.family), processing.min_pixels, processing.max_pixels],
        "seen": [dataset.pairing, None if dataset.crops is None else dataset.crops.size, source.max_objects],
        "video": repr(dataset.video),
        "max_length": encoder.max_length,
    }
    return stored_array("lengths", facts, measure)


@lru_cache(maxsize=8)
def _text_fingerprint(processing: Processing) -> str:
    """What a conversation's tokens depend on besides its words: the tokenizer and the chat template."""
    parts = (processing.tokenizer.backend_tokenizer.to_str(), processing.chat_template)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
