"""Conversations as OpenAI's API and the tools that follow it have them.

    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "photos/a.jpg"}},
                                               {"type": "text", "text": "What is broken?"}]},
                  {"role": "assistant", "content": "The left clip."}]}

JSON lists, one object a line, Parquet and Arrow. An image is a path, a ``file://``, data or http URL, named by its part
(also as ``{"type": "image", "image": …}``) or, for a part ``{"type": "image"}``, the next one of ``images``. Where no
part shows an image, all of ``images`` come before the first user text. Text is text: no tag in it stands for an image.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qcvl.data.conversation import image_of
from qcvl.data.foreign import Row, image_value, records_of, remaining, write_rows
from qcvl.data.reading import Item, Notice, Split
from qcvl.data.turns import NO_AUDIO, TAG, Images, Turn, as_messages, listed_images, read_turns, refuse_other_media
from qcvl.errors import RecordError
from qcvl.schema.messages import NO_VIDEO
from qcvl.schema.objects import describe
from qcvl.schema.records import Record
from qcvl.schema.types import Place

USED = ("messages", "images", "image", "system")
KEYS = {"text": ("text",), "image": ("image",), "image_url": ("image_url",)}  # of a part, beside its type
UNREAD = {
    **dict.fromkeys(("video", "video_url"), NO_VIDEO),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), NO_AUDIO),
}


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a part of another type or with keys of another type, an image in an answer,
    images without a place, or turns in an order that cannot be trained; it names file, line and field.
    """
    return records_of(path, split, lambda row: record_of(row, root or row.file.parent))


def write_chats(records: Iterable[Record], output: Path) -> list[Notice]:
    """Write chat records as messages with ``image_url`` parts: a JSON list, or one sample a line (``.jsonl``)."""
    write_rows(output, (_row(record, output.parent) for record in records))
    return []


def read_parts(turn: Turn, images: Images, base: Path) -> tuple[str | Place, ...]:
    """Texts and places of a turn's content: a text, or a list of parts; paths start from ``base``."""
    if isinstance(turn.said, str):
        return (turn.said,)
    if not isinstance(turn.said, list):
        raise RecordError(f"is {describe(turn.said)}; expected text or a list of parts", field=turn.field)
    parts: list[str | Place] = []
    for index, item in enumerate(turn.said):
        where = f"{turn.field}[{index}]"
        kind = _kind(item, turn, where)
        value = item.get(KEYS[kind][0])
        if kind == "text":
            if not isinstance(value, str):
                raise RecordError(f"is {describe(value)}; expected text", field=f"{where}.text")
            parts.append(value)
        elif kind == "image" and value is None:
            parts.append(images.next(where))
        else:
            name, value = f"{where}.{kind}", item.get(kind)
            if kind == "image_url" and isinstance(value, dict):
                name, value = f"{name}.url", value.get("url")
            parts.append(images.named(image_value(value, base, name)))
    return tuple(parts)


def record_of(row: Row, base: Path) -> Record:
    """The chat record of one sample; paths start from ``base``."""
    fields = row.fields
    refuse_other_media(fields)
    images = Images([image_value(value, base, name) for name, value in listed_images(fields)])
    turns = read_turns(fields, "messages")
    messages = as_messages(turns, [read_parts(turn, images, base) for turn in turns])
    if images.listed and not images.shown:  # a file of another format: its tags would be trained as text
        for turn in turns:
            if isinstance(turn.said, str) and TAG.search(turn.said):
                message = "holds tags in place of image parts; read the file with format=ms_swift or format=sharegpt"
                raise RecordError(message, field=turn.field)
    placed = images.finished(messages, "messages", in_front=True)
    metadata = remaining(fields, USED)
    return Record(images=tuple(images.shown), messages=placed, annotated=False, metadata=metadata)


def _kind(item: object, turn: Turn, where: str) -> str:
    """The type of a part; refuses one that a turn of this role cannot hold, or whose keys are another type's."""
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected a part with a type", field=where)
    kind = item.get("type")
    if isinstance(kind, str) and kind in UNREAD:
        raise RecordError(f'is "{kind}", but {UNREAD[kind]}', field=f"{where}.type")
    if not isinstance(kind, str) or kind not in KEYS:
        found = f'is "{kind}"' if isinstance(kind, str) else "is missing" if kind is None else f"is {describe(kind)}"
        raise RecordError(f"{found}; expected {', '.join(KEYS)}", field=f"{where}.type")
    for key, value in item.items():
        if value is not None and key not in ("type", *KEYS[kind]):
            message = f"does not belong to a part of type {kind}; expected {', '.join(KEYS[kind])}"
            raise RecordError(message, field=f"{where}.{key}")
    if kind != "text" and turn.role != "user":
        raise RecordError(f"is an image in a turn of the {turn.role}; images stand in user turns", field=where)
    return kind


def _row(record: Record, folder: Path) -> dict[str, Any]:
    urls = iter([image_of(record, index, folder) for index in range(len(record.images))])

    def part(value: str | Place) -> dict[str, Any]:
        if isinstance(value, Place):
            return {"type": "image_url", "image_url": {"url": next(urls)}}
        return {"type": "text", "text": value}

    messages = [
        {
            "role": message.role,
            "content": message.parts[0] if _is_text(message.parts) else [part(value) for value in message.parts],
        }
        for message in record.messages
    ]
    row = {"messages": messages}
    return {**row, "metadata": dict(record.metadata)} if record.metadata else row


def _is_text(parts: tuple[str | Place, ...]) -> bool:
    return len(parts) == 1 and isinstance(parts[0], str)
