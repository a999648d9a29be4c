"""Samples as other tools write them, and what their records say."""

from dataclasses import replace
from pathlib import Path

from qcvl.data.reading import file_name, find_reader, renamed, told_apart
from qcvl.schema.records import Record

FORMATS = ("qwen_conversations", "messages", "ms_swift", "sharegpt")
AUDIO = "audio is not read"


def spoken(record: Record) -> list[tuple]:
    """``(role, parts)`` of each turn."""
    return [(message.role, message.parts) for message in record.messages]


def talk(*texts, form="conversations", **fields) -> dict:
    """A sample whose turns are the user's and the assistant's by turns."""
    names, said = (("human", "gpt"), "value") if form == "conversations" else (("user", "assistant"), "content")
    speaker = "from" if form == "conversations" else "role"
    turns = [{speaker: names[number % 2], said: text} for number, text in enumerate(texts)]
    return {form: turns, **fields}


def as_read_again(record: Record) -> Record:
    return Record.from_json(record.to_json(), path="all.jsonl", line=1)


def part(kind, **fields):
    return {"type": kind, **fields}


def grounding(answer, objects, asked="<image>Find the <ref-object>", images=("board.png",)) -> dict:
    return talk(asked, answer, form="messages", images=list(images), objects=objects)


def opened(name: str, path: Path, folder: Path) -> list[Record]:
    """The records a reader makes of a file, with their photos and videos named from ``folder``."""
    found, _ = told_apart(find_reader(name)(path, "train", None))
    return [
        replace(
            record,
            images=tuple(file_name(image, folder) for image in record.images),
            videos=renamed(record.videos, lambda file: file_name(file, folder)),
        )
        for record in found
    ]
