"""Records as conversations, for files of other tools: the text that is trained here, to be trained there."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from qcvl.data.encode import true_answer
from qcvl.data.images import photo_sizes
from qcvl.data.reading import Notice, file_name, renamed
from qcvl.errors import DataError
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE, Message, Task
from qcvl.schema.videos import Video


def conversations_of(
    records: Iterable[Record], prompts: Prompts, answer_format: AnswerFormat
) -> Iterator[Record | Notice]:
    """Every record as a chat record, word for word what training reads without augmentation, and what it leaves out.

    A record with messages keeps them. One with objects becomes its dense prompt and answer, and one with a summary
    alone that of the summary. Coordinates are on the grid of ``answer_format``; without a grid they are pixels of the
    stored photo, since nothing is known here of a model's input.

    Args:
        records: in any number; read one at a time.
        prompts: what dense and summary records are asked with.
        answer_format: how dense answers are written.

    Raises:
        DataError: for a record with nothing to say.
    """
    for record in records:
        task: Task = "chat" if record.messages else "dense" if record.annotated else "summary"
        if task == "chat" and record.annotations:
            yield Notice("objects of a record with messages", record.where)
        if task != "summary" and record.summary is not None:
            yield Notice("summary beside messages or objects", record.where)
        messages = record.messages if task == "chat" else _exchange(record, task, prompts, answer_format)
        yield replace(record, messages=messages, annotations=(), annotated=False, sizes=(), summary=None)


def image_of(record: Record, index: int, folder: Path) -> str:
    """One image of a record as a file in ``folder`` names it; a record made in Python names it from there already.

    Raises:
        DataError: for an image in memory, which has no name.
    """
    path = record.image_path(index)
    return file_name(path if record.path is None else _absolute(path), folder)


def video_of(record: Record, index: int, folder: Path) -> Video:
    """One video of a record with its files as a file in ``folder`` names them; see ``image_of``."""
    base = record.path.parent if record.path else None
    (named,) = renamed(
        [record.videos[index]], lambda path: file_name(path if base is None else _absolute(base / path), folder)
    )
    return named


def _absolute(path: Path | str) -> Path | str:
    return Path(os.path.abspath(path)) if isinstance(path, Path) else path  # a text here is a URL


def _exchange(record: Record, task: Task, prompts: Prompts, answer_format: AnswerFormat) -> tuple[Message, ...]:
    if task == "summary" and record.summary is None:
        raise DataError(f"{record.where} has neither messages, objects nor a summary; leave it out")
    sizes = photo_sizes(record)
    prompt = prompts.for_task(task)
    answer = true_answer(task, record.annotations, record.summary, sizes, sizes, answer_format)
    system = (Message("system", (prompt.system,)),) if prompt.system else ()
    asked = Message("user", (*[IMAGE] * len(record.images), prompt.user))
    return (*system, asked, Message("assistant", (answer,)))
