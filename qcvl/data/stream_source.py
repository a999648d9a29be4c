"""A source that is read as a stream, as a setting."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from pydantic import Field

from qcvl.errors import ConfigError
from qcvl.schema.prompts import Prompts
from qcvl.schema.settings import settings
from qcvl.schema.types import Task

if TYPE_CHECKING:
    from qcvl.data.stream import Stream, StreamHead

Form = Literal["jsonl", "messages"]  # what a line or row holds: the record contract, or ``data.formats.messages``
FORMS: tuple[Form, ...] = get_args(Form)
PERCENT = re.compile(r"(.+)%(\d+(?:\.\d+)?)")  # a path that asks for a part of its file
NO_END = "data.shuffle_buffer reads streams, which have no end; say how many optimizer steps the run takes"
HEAD = 500  # records, at least, that are looked at before training


@settings
class StreamSource:
    """Shards of records, read ``block`` records at a time; ``data.shards.open_shards`` says what ``path`` may be."""

    path: str
    block: int = Field(gt=0)
    form: Form
    root: str | None
    repeat: float = Field(gt=0)
    task: Task | None
    prompts: Prompts | None
    complete: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if PERCENT.fullmatch(self.path) and not Path(self.path).is_file():
            raise ConfigError(f"data.train: nobody counts the lines of a stream, as {self.path} asks for; name shards")
        if self.repeat != 1:
            raise ConfigError(f"data.train: {self.path} with repeat {self.repeat:g}: streams mix by data.weights alone")

    def open(self) -> "StreamHead":
        """The records of one block, and ``HEAD`` at least, as a sequence; the stream itself is its ``stream``.

        So whoever looks at a source before training (the check of the data, of what samples are made of, the table of
        classes) sees these and no more. What comes later is checked when it is read.
        """
        from qcvl.data.stream import StreamHead

        stream = self.stream()
        return StreamHead(stream, stream.beginning(max(self.block, HEAD)))

    def stream(self) -> "Stream":
        """All of it."""
        from qcvl.data.shards import open_shards
        from qcvl.data.stream import Stream

        root = Path(self.root) if self.root else None
        return Stream(tuple(open_shards(self.path, self.form, root, self.block)))
