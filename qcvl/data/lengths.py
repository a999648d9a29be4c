"""How many tokens samples have, and what they cost, from records, headers of photos and time stamps of videos.

What is known of a file's records is kept on disk.

Exact for samples that nothing varies. Augmentation may leave fewer objects, and a window (``crops``) shows a part of
them: what is counted here is then the most that can be.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from qcvl.augment.crop import SampleCrop
from qcvl.data.costs import text_cost, visual_cost
from qcvl.data.dataset import OpenSource, SampleDataset, Samples
from qcvl.data.images import photo_sizes
from qcvl.data.jsonl import JsonlRecords
from qcvl.data.media import media_of
from qcvl.data.samples import joined, keep_first, load_clip, outline
from qcvl.data.sampling import choose_task, group_count
from qcvl.data.stored import stored_array
from qcvl.data.written import Size
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Sample, Task

VERSION = 4  # of what is counted; another one counts everything anew


@dataclass(frozen=True)
class Table:
    """Tokens of a source's samples of one task, from what is known of each of its records.

    ``alone`` int64 ``[records]`` is the sample of one record. ``added`` int64 ``[records, 2]`` is what a record adds to
    a sample of several where another one follows it, and where none does; ``others`` int64 ``[together + 1]`` is what
    else a sample of so many holds. No sample is longer than ``limit``. ``visual`` float64 ``[records]`` is what the
    photos and frames of each record cost (see ``data.costs``).
    """

    alone: np.ndarray
    added: np.ndarray
    others: np.ndarray
    limit: int
    visual: np.ndarray

    def of(self, records: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Int64 ``[samples]``: the length of the samples ``records[ends[i]:ends[i + 1]]``."""
        sizes, last = np.diff(ends), records[ends[1:] - 1]
        if len(self.others) == 2:  # one record a sample
            return self.alone[last]
        following, closing = self.added.T
        sums = np.add.reduceat(following[records], ends[:-1]) + closing[last] - following[last]
        return np.where(sizes == 1, self.alone[last], np.minimum(self.others[sizes] + sums, self.limit))

    def seen(self, records: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Float64 ``[samples]``: what the photos and frames of the samples of ``of`` cost."""
        return np.add.reduceat(self.visual[records], ends[:-1])

    def bounds(self, count: int) -> np.ndarray:
        """Int64 ``[samples]``: lengths that the samples of ``count`` shows, the longest first, never exceed.

        The k-th longest is no longer than the k longest on average, and these hold the most with the longest records.
        """
        together, most = len(self.others) - 1, int(self.others.max())
        tokens = self.alone if together == 1 else np.maximum(self.added.max(axis=1), self.alone - most)
        falling, (whole, rest) = np.sort(tokens)[::-1], divmod(count, len(tokens))
        shown = np.sort(np.concatenate([np.tile(falling, whole), falling[:rest]]))[::-1]
        if together == 1:
            return shown
        ranks = 1 + np.arange(group_count(len(tokens), count, together))
        sums = np.cumsum(shown)[np.minimum(ranks * together, count) - 1]
        return np.minimum(most + sums // ranks, self.limit)


Measure = Callable[[Table, np.ndarray, np.ndarray], np.ndarray]


class EpochLengths:
    """Tokens of the samples of any epoch of a data set, none longer than ``max_length``."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.tables = [_tables(dataset, source) for source in dataset.sources]

    def of(self, epoch: int) -> np.ndarray:
        """Int64 ``[n]``: the length of each sample of an epoch, by its index in ``dataset``."""
        return self._of_each(Table.of, epoch).astype(np.int64)

    def costs(self, epoch: int) -> np.ndarray:
        """Float64 ``[n]``: what each sample costs a training step (see ``data.costs``)."""
        return text_cost(self.of(epoch)) + self._of_each(Table.seen, epoch)

    def _of_each(self, measure: Measure, epoch: int) -> np.ndarray:
        """Float64 ``[n]``: what ``measure`` tells of each sample of an epoch."""
        rows, order, starts = self.dataset.epoch(epoch)
        owners = rows[order[starts[:-1]], 0]
        found = np.zeros(len(owners))
        for number, (source, tables) in enumerate(zip(self.dataset.sources, self.tables, strict=True)):
            places = np.flatnonzero(owners == number)
            if not len(places):
                continue
            ends = starts[places[0] : places[-1] + 2]  # a source's samples lie side by side
            records = rows[order[ends[0] : ends[-1]], 1]
            by_task = np.stack([measure(table, records, ends - ends[0]) for table in tables.values()])
            chosen = self._choices(source, list(tables), epoch, places.tolist())
            found[places] = by_task[chosen, np.arange(len(places))]
        return found

    def _choices(self, source: OpenSource, tasks: list[Task], epoch: int, places: list[int]) -> list[int]:
        """Which of ``tasks`` each of a source's samples is of."""
        if len(tasks) == 1:
            return [0] * len(places)
        keys = ((self.dataset.seed, epoch, place) for place in places)
        return [tasks.index(choose_task(source.sampling, self.dataset.dense_share, key)) for key in keys]

    def longest(self) -> np.ndarray:
        """Int64 ``[n]`` in falling order: the k-th longest sample of no epoch is longer than entry ``k``."""
        pairs = zip(self.tables, self.dataset.counts, strict=True)
        return np.sort(np.concatenate([_most(list(tables.values())).bounds(count) for tables, count in pairs]))[::-1]


def _most(tables: Sequence[Table]) -> Table:
    """What samples of each record have at most, whichever their task."""
    names = ("alone", "added", "others", "visual")
    most = {name: np.max([getattr(table, name) for table in tables], axis=0) for name in names}
    return Table(limit=tables[0].limit, **most)


class Amount(NamedTuple):
    """The tokens of a sample, and what its photos and frames cost (see ``data.costs``)."""

    tokens: int
    visual: float


def sample_amount(dataset: Samples, source: OpenSource, record: Record, task: Task) -> Amount:
    """That of the sample of one record; ``max_length`` tokens at most, and for a photo that cannot be read."""
    encoder = dataset.encoder_of(source)
    try:
        sample = _outlined(dataset, source, record, task)
        length = encoder.length(sample, source.prompts.for_task(task), record.where)
        visual = visual_cost(media_of(sample, encoder.processing).grids)
    except DataError:
        return Amount(encoder.max_length, 0.0)
    return Amount(min(length, encoder.max_length), visual)


def _outlined(dataset: Samples, source: OpenSource, record: Record, task: Task) -> Sample:
    """The sample of one record, without pixels."""
    factor = dataset.encoder.processing.family.factor
    clip = partial(load_clip, record, sampling=dataset.video, factor=factor, decode=False)
    sample = outline(record, task, shown_sizes(record, task, dataset.pairing, dataset.crops), clip)
    sample = replace(sample, keep_vertex_order=source.keep_vertex_order)
    if source.max_objects is not None and task == "dense":
        return keep_first(sample, source.max_objects, dataset.encoder.answer_format.order)
    return sample


def _in_group(dataset: SampleDataset, source: OpenSource, record: Record, task: Task) -> tuple[int, int]:
    """What a record adds to a sample of several, as in ``Table.added``."""
    encoder = dataset.encoder_of(source)
    try:
        return encoder.group_tokens(_outlined(dataset, source, record, task))
    except DataError:
        return encoder.max_length, encoder.max_length


def _others(dataset: SampleDataset, source: OpenSource, task: Task) -> np.ndarray:
    """Int64 ``[together + 1]``: what a sample of so many records holds besides what they add, from empty ones."""
    encoder, prompt = dataset.encoder_of(source), source.prompts.for_task(task)
    side = encoder.processing.family.factor
    empty = replace(outline(Record(images=("",)), task, [(side, side)]), summary="")
    following, closing = encoder.group_tokens(empty)
    wholes = [
        encoder.length(joined([empty] * count), prompt, "a sample of empty records") - (count - 1) * following - closing
        for count in range(2, source.together + 1)
    ]
    return np.array([0, 0, *wholes], dtype=np.int64)


def shown_sizes(record: Record, task: Task, pairing: Pairing | None, crops: SampleCrop | None) -> list[Size]:
    """``(width, height)`` of each photo a sample shows: as the record states them, or from the photos' headers.

    A chat shows whole photos, all of them.
    """
    if task == "chat":
        pairing, crops = None, None
    count = len(record.images if pairing is None else record.images[:1])
    return photo_sizes(record, count) if crops is None else [(crops.size, crops.size)] * count


def _tables(dataset: SampleDataset, source: OpenSource) -> Mapping[Task, Table]:
    """The table of a source's samples for each task they may be of."""
    tasks: tuple[Task, ...] = ("dense", "summary") if source.sampling == "mixed" else (source.sampling,)
    tables = {}
    for task in tasks:
        visual, *tokens = _measured(dataset, source, task).T
        alone, *added = (column.astype(np.int64) for column in tokens)
        others = _others(dataset, source, task) if source.together > 1 else np.zeros(2, dtype=np.int64)
        columns = np.stack(added or [alone, alone], axis=1)
        tables[task] = Table(alone, columns, others, dataset.encoder.max_length, visual)
    return tables


def _task_of(source: OpenSource, record: Record, task: Task) -> Task:
    """``task``, but chat for a record that is a conversation alone."""
    return "chat" if source.sampling_of(record) == "chat" else task


def _measured(dataset: SampleDataset, source: OpenSource, task: Task) -> np.ndarray:
    """Float64 ``[records, 2 or 4]``: what a record's media cost, the tokens of its sample alone, what it adds.

    The last two are there where records share a turn (see ``Table.added``).
    """

    def row(record: Record) -> tuple[float, ...]:
        own = _task_of(source, record, task)
        added = _in_group(dataset, source, record, own) if source.together > 1 else ()
        amount = sample_amount(dataset, source, record, own)
        return amount.visual, amount.tokens, *added

    def measure() -> np.ndarray:
        return np.array([row(source.records[index]) for index in range(source.count)], dtype=np.float64)

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
        "shares_turn": source.together > 1,
        "keep_vertex_order": source.keep_vertex_order,
    }
    return stored_array("lengths", facts, measure)


@lru_cache(maxsize=8)
def _text_fingerprint(processing: Processing) -> str:
    """What a conversation's tokens depend on besides its words: the tokenizer and the chat template."""
    parts = (processing.tokenizer.backend_tokenizer.to_str(), processing.chat_template)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
