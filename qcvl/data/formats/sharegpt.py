"""Multimodal conversations as LLaMA-Factory takes them (ShareGPT form and its ``messages`` form).

    {"messages": [{"role": "user", "content": "<image>What is broken?"},
                  {"role": "assistant", "content": "The left clip."}], "images": ["photos/a.jpg"]}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}], "system": "…"}

Each ``<image>`` in a user turn shows the next of ``images``, each ``<video>`` the next of ``videos`` (a path, or a list
of frames); the text around it stays as it is, line breaks included, as LLaMA-Factory trains it. Paths are relative to
the file.
"""

from collections.abc import Iterator
from pathlib import Path

from qcvl.data.foreign import Row, gallery_of, records_of, remaining
from qcvl.data.reading import Item, Split
from qcvl.data.turns import MEDIA_KEYS, as_messages, read_turns, refuse_other_media, split_tags
from qcvl.schema.records import Record

USED = (*MEDIA_KEYS, "messages", "conversations", "system")


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a sample with audio or tools, a tag in an answer, another number of tags than
    images or videos, or turns in an order that cannot be trained (observations among them); it names file, entry and
    field.
    """
    return records_of(path, split, lambda row: _record(row, root or row.file.parent))


def _record(row: Row, base: Path) -> Record:
    fields = row.fields
    refuse_other_media(fields)
    gallery = gallery_of(fields, base)
    key = "conversations" if "conversations" in fields else "messages"
    turns = read_turns(fields, key)
    messages = as_messages(turns, [split_tags(turn, gallery, own_line=False) for turn in turns])
    placed = gallery.finished(messages, key, in_front=False)
    return gallery.record(placed, remaining(fields, USED))
