"""Conversations as OpenAI's API and the tools that follow it have them.

    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "photos/a.jpg"}},
                                               {"type": "text", "text": "What is broken?"}]},
                  {"role": "assistant", "content": "The left clip."}]}

JSON lists, one object a line, Parquet and Arrow. An image is a path, a ``file://``, data or http URL, named by its part
(also as ``{"type": "image", "image": …}``) or, for a part ``{"type": "image"}``, the next one of ``images``. A video is
a path, or a list of those of its frames, as ``{"type": "video_url", "video_url": {"url": …}}`` or ``{"type": "video",
"video": …}`` with the options of qwen-vl-utils beside (``fps``, ``nframes``, ``video_start`` …), or the next one of
``videos``. Where no part shows anything, all ``images`` and ``videos`` come before the first user text. Text is text:
no tag in it stands for a medium.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qcvl.data.conversation import image_of, video_of
from qcvl.data.foreign import Row, gallery_of, image_value, records_of, remaining, video_value, write_rows
from qcvl.data.reading import Item, Notice, Split
from qcvl.data.turns import MEDIA_KEYS, NO_AUDIO, TAG, Gallery, Turn, as_messages, read_turns, refuse_other_media
from qcvl.errors import RecordError
from qcvl.schema.messages import check_speaker
from qcvl.schema.objects import describe
from qcvl.schema.records import Record
from qcvl.schema.types import Place
from qcvl.schema.videos import OPTIONS, Video, read_options, write_video

USED = (*MEDIA_KEYS, "messages", "system")
KEYS = {  # of a part, beside its type
    "text": ("text",),
    "image": ("image",),
    "image_url": ("image_url",),
    "video": ("video", *OPTIONS),
    "video_url": ("video_url", *OPTIONS),
}
UNREAD = dict.fromkeys(("audio", "audio_url", "input_audio"), NO_AUDIO)


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a part of another type or with keys of another type, a medium in an answer,
    media without a place, or turns in an order that cannot be trained; it names file, line and field.
    """
    return records_of(path, split, lambda row: record_of(row, root or row.file.parent))


def write_chats(records: Iterable[Record], output: Path) -> list[Notice]:
    """Write chat records as messages with ``image_url`` parts: a JSON list, or one sample a line (``.jsonl``).

    A video is a ``video_url`` part; one of frames, or with options, is a ``video`` part.
    """
    write_rows(output, (_row(record, output.parent) for record in records))
    return []


def read_parts(turn: Turn, gallery: Gallery, base: Path) -> tuple[str | Place, ...]:
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
        elif kind in ("image", "video") and value is None:
            parts.append(gallery.next(kind, where))
        else:
            name = f"{where}.{kind}"
            if kind.endswith("_url") and isinstance(value, dict):
                name, value = f"{name}.url", value.get("url")
            if kind.startswith("image"):
                parts.append(gallery.images.named(image_value(value, base, name)))
            else:
                parts.append(gallery.videos.named(_video_value(item, value, base, name)))
    return tuple(parts)


def _video_value(part: Mapping[str, Any], value: object, base: Path, name: str) -> Video:
    """The video that a part names, with the options beside it."""
    video = video_value(value, base, name)
    where = name.rpartition(".")[0].removesuffix(".video_url")
    own = read_options(part, where, listed=not isinstance(video.source, str))
    return replace(video, options={**video.options, **own})


def record_of(row: Row, base: Path) -> Record:
    """The chat record of one sample; paths start from ``base``."""
    fields = row.fields
    refuse_other_media(fields)
    gallery = gallery_of(fields, base)
    turns = read_turns(fields, "messages")
    messages = as_messages(turns, [read_parts(turn, gallery, base) for turn in turns])
    given = gallery.images.listed or gallery.videos.listed
    if given and not (gallery.images.shown or gallery.videos.shown):  # of another format: tags would be trained as text
        for turn in turns:
            if isinstance(turn.said, str) and TAG.search(turn.said):
                message = "holds tags in place of image parts; read the file with format=ms_swift or format=sharegpt"
                raise RecordError(message, field=turn.field)
    placed = gallery.finished(messages, "messages", in_front=True)
    return gallery.record(placed, remaining(fields, USED))


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
    if kind != "text":
        check_speaker(kind.removesuffix("_url"), turn.role, where)
    return kind


def _row(record: Record, folder: Path) -> dict[str, Any]:
    urls = iter([image_of(record, index, folder) for index in range(len(record.images))])
    videos = iter([write_video(video_of(record, index, folder)) for index in range(len(record.videos))])

    def part(value: str | Place) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        if value.kind == "image":
            return {"type": "image_url", "image_url": {"url": next(urls)}}
        video = next(videos)
        if isinstance(video, str):
            return {"type": "video_url", "video_url": {"url": video}}
        return {"type": "video", **(video if isinstance(video, dict) else {"video": video})}

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
