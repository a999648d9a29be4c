"""Which records of a source share a user turn with others, and which are samples of their own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qcvl.data.dataset import OpenSource
from qcvl.data.jsonl import JsonlRecords
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing


def grouped(
    sources: Sequence[OpenSource], counts: Sequence[int], together: int, pairing: Pairing | None
) -> tuple[list[OpenSource], list[int]]:
    """The sources of an epoch with ``together`` records a sample, and the shows of records that each gives to it.

    A conversation and a record that shows several photos stay samples of their own: a source that has both such
    records and others becomes two of its name, which share its shows in proportion.
    """
    parts, shows = list[OpenSource](), list[int]()
    for source, count in zip(sources, counts, strict=True):
        joins = _joins(source, pairing)
        if joins.all() or not joins.any():
            parts.append(replace(source, together=together if joins.all() else 1))
            shows.append(count)
            continue
        whole, rest = divmod(count, len(joins))
        shared = whole * int(joins.sum()) + round(rest * joins.mean())
        parts += [_part(source, np.flatnonzero(joins), together), _part(source, np.flatnonzero(~joins), 1)]
        shows += [shared, count - shared]
    return parts, shows


def _joins(source: OpenSource, pairing: Pairing | None) -> np.ndarray:
    """Bool ``[count]``: whether each record in use shows one photo and is no conversation."""
    if source.sampling == "chat" or source.complete:
        return np.full(source.count, source.sampling != "chat")
    if isinstance(source.records, JsonlRecords):  # whose index knows
        has = source.records.parts()[: source.count]
        chats, one = has["messages"] & ~has["objects"] & (not source.fixed), has["photo"]
    else:
        records = [source.records[index] for index in range(source.count)]
        chats = np.array([source.sampling_of(record) == "chat" for record in records])
        one = np.array([len(record.images) == 1 for record in records])
    return ~chats & (one | (pairing is not None))  # of a pair, one photo is shown


def _part(source: OpenSource, rows: np.ndarray, together: int) -> OpenSource:
    """The source with those records alone."""
    records: Sequence[Record] = source.records
    chosen = records.part(rows) if isinstance(records, JsonlRecords) else [records[row] for row in rows.tolist()]
    return replace(source, records=chosen, limit=None, together=together)
