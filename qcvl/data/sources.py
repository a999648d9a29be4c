"""Where records come from, as settings: files of any format, parts of them, and scenes. Torch-free."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import AfterValidator, Field

from qcvl.data.stream_source import FORMS, PERCENT, StreamSource
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.log import get_logger
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.settings import settings
from qcvl.schema.types import Task

if TYPE_CHECKING:
    from qcvl.data.jsonl import JsonlRecords


def _known_format(name: str) -> str:
    from qcvl.data.reading import known_formats

    known = known_formats("to_records")
    if name not in known:
        raise ValueError(f"should be one of {', '.join(known)}; a reader of your own is a source with a _target_")
    return name


Format = Annotated[str, AfterValidator(_known_format)]
Sampling = Literal["dense", "summary", "mixed", "chat"]
FOREIGN_SUFFIXES = (".json", ".xml", ".yaml", ".yml", ".txt")
logger = get_logger(__name__)


@runtime_checkable
class Source(Protocol):
    """Where records come from: any settings object with these fields and ``open()``, named by its dotted path.

    ``repeat`` is how often an epoch shows each record (a fraction shows a part), ``task`` overrides the run's sampling
    and ``prompts`` the run's prompts for this source. ``complete`` says that every record has one photo, objects and a
    summary by construction, so nobody needs to look.
    """

    @property
    def repeat(self) -> float:
        """Shows of each record in an epoch."""
        ...

    @property
    def task(self) -> Task | None:
        """The task of all its samples, or None for the run's sampling (and chat where there are messages alone)."""
        ...

    @property
    def prompts(self) -> Prompts | None:
        """Its prompts, or None for the run's."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every record has one photo, objects and a summary by construction."""
        ...

    def open(self) -> Sequence[Record]:
        """The records, readable by index."""
        ...


@settings
class JsonlSource:
    """A JSONL file in the record contract."""

    path: str
    repeat: float = Field(gt=0)
    task: Task | None
    prompts: Prompts | None
    complete: ClassVar[bool] = False

    def open(self) -> "JsonlRecords":
        """Its records, read when asked for; raises RecordError with file, line and field for a line that is wrong."""
        if not Path(self.path).is_file():
            raise DataError(f"{self.path} not found; give an existing file: data.train=/abs/train.jsonl")
        from qcvl.data.jsonl import JsonlRecords

        return JsonlRecords(self.path)

    def streamed(self, block: int) -> StreamSource:
        """The shards that the path means, as a stream that is read ``block`` records at a time."""
        return StreamSource(block=block, form="jsonl", root=None, **vars(self))


@settings
class JsonlPart(JsonlSource):
    """``percent`` of the records of a JSONL file, always the same ones: what a path ``train.jsonl%30`` means."""

    percent: float = Field(gt=0, le=100)

    def open(self) -> "JsonlRecords":
        """At least one record, drawn from all over the file and in its order."""
        records = super().open()
        return records.part(_drawn(len(records), self.percent))

    def streamed(self, block: int) -> StreamSource:
        """Refused: nobody counts the lines of a stream."""
        whole = {name: value for name, value in vars(self).items() if name != "percent"}
        return JsonlSource(**whole | {"path": f"{self.path}%{self.percent:g}"}).streamed(block)


@settings
class FormatSource:
    """A data set of another tool read in place: ``format`` names a module of ``qcvl.data.formats``.

    ``split`` chooses among a data set's own lists. ``root`` is the folder of its photos; None: where the format itself
    says they are.
    """

    format: Format
    path: str
    split: Literal["train", "val"]
    root: str | None
    repeat: float = Field(gt=0)
    task: Task | None
    prompts: Prompts | None
    complete: ClassVar[bool] = False

    def open(self) -> Sequence[Record]:
        """Read all records; raises DataError with what is wrong in them, the first 20 problems one a line."""
        from qcvl.data.reading import told_apart

        return told_apart(self.items())[0]

    def items(self) -> Iterator[Record | RecordError]:
        """Each record, or what is wrong in its place; at the end it is logged what was left out, by reason."""
        from qcvl.data.reading import Notice, find_reader, summarize

        notices = []
        for item in find_reader(self.format)(Path(self.path), self.split, Path(self.root) if self.root else None):
            if isinstance(item, Notice):
                notices.append(item)
            else:
                yield item
        for line in summarize(notices):
            logger.warning("%s: %s", self.path, line)

    def streamed(self, block: int) -> StreamSource:
        """The shards that the path means, as a stream; raises ConfigError for formats that are not of one line each."""
        if self.format not in FORMS:
            raise ConfigError(
                f"data.train: {self.path} of format {self.format} is no stream, which are lines or rows of the record "
                "contract or of messages; convert it, or set data.shuffle_buffer=null"
            )
        shared = {name: getattr(self, name) for name in ("path", "root", "repeat", "task", "prompts")}
        return StreamSource(block=block, form=self.format, **shared)


@settings
class FormatPart(FormatSource):
    """``percent`` of the records of a data set read in place, always the same ones: ``instances.json%30``."""

    percent: float = Field(gt=0, le=100)

    def items(self) -> Iterator[Record | RecordError]:
        """At least one record (or what is wrong in its place), drawn as those of a JSONL file are."""
        items = list(super().items())
        yield from (items[row] for row in (_drawn(len(items), self.percent).tolist() if items else ()))

    def streamed(self, block: int) -> StreamSource:
        """Refused, as for a part of a JSONL file."""
        whole = {name: value for name, value in vars(self).items() if name != "percent"}
        return FormatSource(**whole | {"path": f"{self.path}%{self.percent:g}"}).streamed(block)


@settings
class SceneSource:
    """Synthetic scenes drawn on demand: record ``i`` is a pure function of ``(seed, i)``, nothing touches the disk."""

    count: int = Field(gt=0)
    seed: int
    domain: Literal["base", "demo"]
    language: Literal["zh", "en"]
    repeat: float = Field(gt=0)
    task: Literal["dense", "summary"] | None
    prompts: Prompts | None
    complete: ClassVar[bool] = True

    def open(self) -> Sequence[Record]:
        """A sequence that draws each scene when it is asked for."""
        from qcvl.data.scenes.records import SceneRecords

        return SceneRecords(length=self.count, seed=self.seed, domain=self.domain, language=self.language)


Sources = str | dict[str, str | JsonlSource | FormatSource | SceneSource | Source]


_WHOLE: dict[type, type[JsonlPart] | type[FormatPart]] = {JsonlSource: JsonlPart, FormatSource: FormatPart}


def part_of(source: Source) -> Source:
    """The source, or the part of its file or folder that a path ending in ``%N`` asks for."""
    if not isinstance(source, JsonlSource | FormatSource) or type(source) not in _WHOLE:
        return source
    path, percent = split_percent(source.path)
    return source if percent is None else _WHOLE[type(source)](**vars(source) | {"path": path, "percent": percent})


def _drawn(count: int, percent: float) -> np.ndarray:
    """Which of ``count`` records ``percent`` of them are: at least one, from all over the file and in its order."""
    return np.sort(np.random.default_rng(0).permutation(count)[: max(1, round(count * percent / 100))])


def split_percent(path: str) -> tuple[str, float | None]:
    """A path and the percentage that follows it (``train.jsonl%30``), unless something is really called so."""
    match = None if Path(path).exists() else PERCENT.fullmatch(path)
    if match is None:
        return path, None
    if not 0 < float(match[2]) <= 100:
        raise ConfigError(f"data: {path} asks for {match[2]} percent; give above 0 and at most 100")
    return match[1], float(match[2])
