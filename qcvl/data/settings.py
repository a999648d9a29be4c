"""What a run reads: sources, sampling and batches. Torch-free: the loader and the encoder are imported in setup()."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from qcvl.augment.crop import SampleCrop
from qcvl.data.stream_source import FORMS, PERCENT, StreamSource
from qcvl.data.video import VideoSampling
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.log import get_logger
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.settings import settings
from qcvl.schema.types import Pairing, Task

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


@settings
class Data:
    """Everything the datamodule needs to know about records and batches.

    ``train`` and ``val`` are a path, ``{name: path or source}``, or null for nothing. A path is a JSONL file unless
    ``format`` names another format of ``qcvl.data.formats``; ``root`` is then the folder of the photos, null where the
    file says itself where they are. ``sampling=mixed`` makes a sample dense with probability ``dense_share`` and a
    summary otherwise; a record with messages and without objects is a chat sample whatever the sampling (see
    ``completeness.sampling_of``). ``val_generate`` is how many validation records are
    answered by generation when the model is scored during training (0: none; null: all).

    ``pair`` says what is seen of records that are an aligned photo and its template (see ``data.pairs``). With
    ``crops`` a training sample is a window of its photos, and so is a record whose validation loss is taken (the same
    window each time); answers by generation are about whole photos (see ``tiles``). ``cache_mb`` is the memory in MB in
    which each process that loads samples keeps decoded photos: worth it where ``repeat`` shows each photo many times.

    A micro-batch is ``batch_size`` samples, or with a ``token_budget`` as many samples of about one length as make up
    that many tokens. A path in any format may end in ``%N``: N percent of its records, always the same ones. An epoch
    shows each source ``repeat`` times; ``weights`` (by source) share it out instead, and ``epoch_samples`` is its
    length where the sources' own is not wanted. By training source, ``unaugmented`` names those shown as they are,
    ``max_objects`` bounds the objects listed (after augmentation, the first in the answer's order), ``min_pixels`` and
    ``max_pixels`` take the place of the model's budget for a photo.

    With a ``shuffle_buffer`` the training sources are streams: they are never read or indexed as a whole, a path may
    also be a folder or a pattern of JSONL and Parquet files, and what is shuffled are blocks of so many records, all
    sources taken together by their ``weights`` (see ``data.blocks``). A stream has no end and no epochs: it needs
    ``trainer.max_steps``. Before training the first block is checked, and any other record when it is read.

    ``keep_vertex_order`` names sources, of either split, whose shapes keep the order of their points in answers, where
    it carries meaning (the first corner of a text quad is where the text starts), through every augmentation: what a
    cut leaves starts at the vertex nearest to where the whole shape started. Other shapes are put in canonical order.

    With ``images_per_user_turn`` that many records of a source, drawn anew each epoch, are one training sample: their
    photos stand in one user turn and the answer is keyed by photo (``{"image_1": …, "image_2": …}``). Records still
    count one by one (``repeat``, ``weights``, ``epoch_samples``, ``max_objects``), and each is cut and augmented by
    itself; samples (``batch_size``, ``max_bad_fraction``) are groups, of one task each. What is left over is a smaller
    group; a record left alone, a conversation and a record that shows several photos are samples as without.

    ``video`` says which frames of a conversation's videos are seen, and how large; what a record itself says of a video
    wins.

    A sample that cannot be read stops the run, unless it is within ``max_bad_fraction`` of an epoch's (or a block's)
    samples: then it is left out, counted and named.
    """

    train: Sources | None
    val: Sources | None
    format: Format | None
    root: str | None
    sampling: Sampling
    dense_share: float = Field(ge=0, le=1)
    batch_size: int = Field(gt=0)
    token_budget: int | None = Field(gt=0)
    val_batch_size: int = Field(gt=0)
    val_generate: int | None = Field(ge=0)
    num_workers: int = Field(ge=0)
    overlong: Literal["error", "drop", "shrink_image"]
    max_bad_fraction: float = Field(ge=0, le=1)
    shuffle_buffer: int | None = Field(gt=0)
    sample_limit: int | None = Field(gt=0)
    epoch_samples: int | None = Field(gt=0)
    weights: dict[str, Annotated[float, Field(gt=0)]] | None
    unaugmented: list[str]
    keep_vertex_order: list[str]
    max_objects: dict[str, PositiveInt] | None
    min_pixels: dict[str, PositiveInt] | None
    max_pixels: dict[str, PositiveInt] | None
    pair: Pairing | None
    crops: SampleCrop | None
    images_per_user_turn: PositiveInt | None
    video: VideoSampling
    cache_mb: int = Field(ge=0)

    def __post_init__(self) -> None:
        known = list(self._named("train"))
        by_source = {name: getattr(self, name) or () for name in ("weights", "max_objects", "min_pixels", "max_pixels")}
        problems = [
            problem
            for setting, names in {**by_source, "unaugmented": self.unaugmented}.items()
            for problem in _foreign(setting, names, known)
        ]
        either = list(dict.fromkeys([*known, *self._named("val")]))
        problems += _foreign("keep_vertex_order", self.keep_vertex_order, either, "data.train or data.val")
        if self.weights is not None and (lacking := [name for name in known if name not in self.weights]):
            problems.append(f"data.weights: has no weight for {', '.join(lacking)}; give each source of data.train one")
        for split in ("train", "val"):
            for source in self._named(split).values():
                try:
                    _split_percent(source) if isinstance(source, str) else _part_of(source)
                except ConfigError as problem:
                    problems.append(str(problem))
        if self.shuffle_buffer is not None:
            problems += self._unstreamable(self.shuffle_buffer)
        if problems:
            raise ConfigError("\n".join(problems))

    def prepare(self) -> None:
        """Make the files the sources name, where this data set knows how; plain files must exist already."""

    def sources(self, split: Literal["train", "val"]) -> dict[str, Source]:
        """The sources of one split by name; a bare path is the source ``val`` (or ``train``) shown once an epoch."""
        named = self._named(split)
        if split == "train" and self.shuffle_buffer is not None:
            return {name: self._as_stream(source, self.shuffle_buffer) for name, source in named.items()}
        return {name: self._as_source(source, split) for name, source in named.items()}

    def _named(self, split: str) -> dict[str, str | Source]:
        given = getattr(self, split)
        return {split: given} if isinstance(given, str) else given or {}

    def _as_source(self, source: str | Source, split: Literal["train", "val"]) -> Source:
        """A path as a source, and one that ends in ``%N`` as a part of its file."""
        if not isinstance(source, str):
            return _part_of(source)
        path, _ = _split_percent(source)
        if self.format is None and (Path(path).is_dir() or path.endswith(FOREIGN_SUFFIXES)):
            raise DataError(f"{path} is no JSONL file; say what it is: data.format=coco (or labelme, cvat, …)")
        return _part_of(self._of_path(source, split))

    def _of_path(self, path: str, split: Literal["train", "val"]) -> JsonlSource | FormatSource:
        once: dict[str, Any] = {"path": path, "repeat": 1, "task": None, "prompts": None}
        root = self.photo_root()
        if self.format is None and root is None:
            return JsonlSource(**once)
        return FormatSource(format=self.format or "jsonl", split=split, root=root, **once)

    def _as_stream(self, source: str | Source, block: int) -> StreamSource:
        """A source as a stream; raises ConfigError for one that cannot be read so."""
        source = self._of_path(source, "train") if isinstance(source, str) else source
        if isinstance(source, JsonlSource | FormatSource):
            return source.streamed(block)
        raise ConfigError(f"data.train: a {type(source).__name__} is no stream; set data.shuffle_buffer=null")

    def _unstreamable(self, block: int) -> Iterator[str]:
        """What keeps the training sources from being streams."""
        named = self._named("train")
        if len(named) > 1 and self.weights is None:
            yield "data.weights: streams have no lengths to mix them by; give each source of data.train a weight"
        if self.images_per_user_turn is not None:
            yield "data.images_per_user_turn: a stream shows one record a sample; leave it null or index the sources"
        if self.epoch_samples is not None:
            yield "data.epoch_samples: streams have no epochs; leave it null and set trainer.max_steps"
        for source in named.values():
            try:
                self._as_stream(source, block)
            except ConfigError as problem:
                yield str(problem)

    def photo_root(self) -> str | None:
        """The folder of the photos that plain paths name; None: where their files say."""
        return self.root


@settings
class DemoData(Data):
    """The embedded demo: about 600 inspection photos drawn by code into ``folder`` on first use, in seconds."""

    folder: str
    seed: int

    def prepare(self) -> None:
        """Draw the photos unless a complete set of this seed is there already; safe under several processes."""
        from qcvl.data.scenes.demo import write_demo

        write_demo(Path(self.folder), seed=self.seed)


@settings
class DeepPCBData(Data):
    """DeepPCB pairs listed as JSONL in ``folder`` on first use; ``root`` is the data set.

    ``held_back`` pairs of the official training list are kept apart, to choose thresholds on.
    """

    root: str
    folder: str
    held_back: int = Field(ge=0)

    def prepare(self) -> None:
        """Write the lists unless that was done for the same root and number held back."""
        from qcvl.data.formats.deeppcb import write_lists

        write_lists(Path(self.root), Path(self.folder), self.held_back)

    def photo_root(self) -> None:
        """``root`` is that of the lists made here; other files say themselves where their photos are."""


_WHOLE: dict[type, type[JsonlPart] | type[FormatPart]] = {JsonlSource: JsonlPart, FormatSource: FormatPart}


def _part_of(source: Source) -> Source:
    """The source, or the part of its file or folder that a path ending in ``%N`` asks for."""
    if not isinstance(source, JsonlSource | FormatSource) or type(source) not in _WHOLE:
        return source
    path, percent = _split_percent(source.path)
    return source if percent is None else _WHOLE[type(source)](**vars(source) | {"path": path, "percent": percent})


def _drawn(count: int, percent: float) -> np.ndarray:
    """Which of ``count`` records ``percent`` of them are: at least one, from all over the file and in its order."""
    return np.sort(np.random.default_rng(0).permutation(count)[: max(1, round(count * percent / 100))])


def _split_percent(path: str) -> tuple[str, float | None]:
    """A path and the percentage that follows it (``train.jsonl%30``), unless something is really called so."""
    match = None if Path(path).exists() else PERCENT.fullmatch(path)
    if match is None:
        return path, None
    if not 0 < float(match[2]) <= 100:
        raise ConfigError(f"data: {path} asks for {match[2]} percent; give above 0 and at most 100")
    return match[1], float(match[2])


def _foreign(setting: str, names: Iterable[str], known: Sequence[str], of: str = "data.train") -> Iterator[str]:
    """What to say about names that are no sources of ``of``."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else f"{of} is null"
            yield f"data.{setting}: {name!r} is not a source of {of} ({', '.join(known) or 'none'}); {hint}"
