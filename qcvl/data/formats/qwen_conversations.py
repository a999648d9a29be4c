r"""Conversations as Qwen's own fine-tuning code (qwen-vl-finetune) takes them.

    {"image": "photos/a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is broken?"},
                                                {"from": "gpt", "value": "The left clip."}]}

A file is a JSON list or has one object a line; an entry may itself be a list of samples (packed data), which become
records of their own. ``image`` is a path or a list, relative to ``data_path`` where the sample has one, and that to the
file; ``video`` is the same for videos. Each ``<image>`` or ``<video>`` in a human turn shows the next of them; line
breaks beside a tag belong to it (one on each side).
A system text stands under ``system`` or as the first turn: qwen-vl-finetune itself reads neither as one.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from qcvl.data.conversation import image_of, video_of
from qcvl.data.foreign import Row, gallery_of, records_of, remaining, write_rows
from qcvl.data.reading import Item, Notice, Split
from qcvl.data.turns import MEDIA_KEYS, as_messages, join_tags, read_turns, refuse_other_media, split_tags
from qcvl.schema.records import Record

USED = (*MEDIA_KEYS, "conversations", "system", "data_path")
SPEAKERS = {"user": "human", "assistant": "gpt"}


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a sample with audio, a tag in an answer, another number of tags than images or
    videos, or turns in an order that cannot be trained; it names file, entry and field.
    """
    return records_of(path, split, lambda row: _record(row, root or row.file.parent))


def write_chats(records: Iterable[Record], output: Path) -> list[Notice]:
    """Write chat records as conversations: a JSON list, or one sample a line (``.jsonl``).

    What a record says of how its videos are seen has no place there, and qwen-vl-finetune takes no list of frames.

    Raises:
        RecordError: for a text that holds ``<image>`` or another tag, which readers would take for a place.
    """
    notices: list[Notice] = []
    write_rows(output, (_row(record, output.parent, notices) for record in records))
    return notices


def write_packs(packs: Iterable[Sequence[Record]], output: Path) -> list[Notice]:
    """As ``write_chats``, but each entry or line is a list of samples, which qwen-vl-finetune lays in one row."""
    notices: list[Notice] = []
    write_rows(output, ([_row(record, output.parent, notices) for record in pack] for pack in packs))
    return notices


def _record(row: Row, base: Path) -> Record:
    fields = row.fields
    refuse_other_media(fields)
    base = base / str(fields.get("data_path", ""))
    gallery = gallery_of(fields, base)
    turns = read_turns(fields, "conversations")
    messages = as_messages(turns, [split_tags(turn, gallery, own_line=True) for turn in turns])
    placed = gallery.finished(messages, "conversations", in_front=False)
    return gallery.record(placed, remaining(fields, USED))


def _row(record: Record, folder: Path, notices: list[Notice]) -> dict[str, Any]:
    images = [image_of(record, index, folder) for index in range(len(record.images))]
    texts = [
        (message.role, join_tags(message.parts, f"{record.where}: messages[{index}].content"))
        for index, message in enumerate(record.messages)
    ]
    row: dict[str, Any] = {"image": images[0] if len(images) == 1 else images} if images else {}
    if record.videos:
        videos = [_video(record, index, folder, notices) for index in range(len(record.videos))]
        row["video"] = videos[0] if len(videos) == 1 and isinstance(videos[0], str) else videos
    if texts[0][0] == "system":
        row["system"] = texts.pop(0)[1]
    row["conversations"] = [{"from": SPEAKERS[role], "value": text} for role, text in texts]
    return {**row, "metadata": dict(record.metadata)} if record.metadata else row


def _video(record: Record, index: int, folder: Path, notices: list[Notice]) -> str | list[str]:
    video = video_of(record, index, folder)
    if video.options:
        notices.append(Notice(f"{', '.join(video.options)} of a video", record.where))
    if isinstance(video.source, str):
        return video.source
    notices.append(
        Notice("a video of single photos, written as a list that qwen-vl-finetune does not take", record.where)
    )
    return list(video.source)
