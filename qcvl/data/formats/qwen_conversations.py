r"""Conversations as Qwen's own fine-tuning code (qwen-vl-finetune) takes them.

    {"image": "photos/a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is broken?"},
                                                {"from": "gpt", "value": "The left clip."}]}

A file is a JSON list or has one object a line; an entry may itself be a list of samples (packed data), which become
records of their own. ``image`` is a path or a list, relative to ``data_path`` where the sample has one, and that to the
file. Each ``<image>`` in a human turn shows the next image; line breaks beside a tag belong to it (one on each side).
A system text stands under ``system`` or as the first turn: qwen-vl-finetune itself reads neither as one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qcvl.data.conversation import image_of
from qcvl.data.foreign import Row, image_value, records_of, remaining, write_rows
from qcvl.data.reading import Item, Notice, Split
from qcvl.data.turns import Images, as_messages, join_tags, listed_images, read_turns, refuse_other_media, split_tags
from qcvl.schema.records import Record

USED = ("image", "images", "conversations", "system", "data_path")
SPEAKERS = {"user": "human", "assistant": "gpt"}


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a sample with video, a tag in an answer, another number of tags than images, or
    turns in an order that cannot be trained; it names file, entry and field.
    """
    return records_of(path, split, lambda row: _record(row, root or row.file.parent))


def write_chats(records: Iterable[Record], output: Path) -> list[Notice]:
    """Write chat records as conversations: a JSON list, or one sample a line (``.jsonl``).

    Raises:
        RecordError: for a text that holds ``<image>`` or another tag, which readers would take for a place.
    """
    write_rows(output, (_row(record, output.parent) for record in records))
    return []


def _record(row: Row, base: Path) -> Record:
    fields = row.fields
    refuse_other_media(fields)
    base = base / str(fields.get("data_path", ""))
    images = Images([image_value(value, base, name) for name, value in listed_images(fields)])
    turns = read_turns(fields, "conversations")
    messages = as_messages(turns, [split_tags(turn, images, own_line=True) for turn in turns])
    placed = images.finished(messages, "conversations", in_front=False)
    metadata = remaining(fields, USED)
    return Record(images=tuple(images.shown), messages=placed, annotated=False, metadata=metadata)


def _row(record: Record, folder: Path) -> dict[str, Any]:
    images = [image_of(record, index, folder) for index in range(len(record.images))]
    texts = [
        (message.role, join_tags(message.parts, f"{record.where}: messages[{index}].content"))
        for index, message in enumerate(record.messages)
    ]
    row: dict[str, Any] = {"image": images[0] if len(images) == 1 else images} if images else {}
    if texts[0][0] == "system":
        row["system"] = texts.pop(0)[1]
    row["conversations"] = [{"from": SPEAKERS[role], "value": text} for role, text in texts]
    return {**row, "metadata": dict(record.metadata)} if record.metadata else row
