"""What a run reads: sources, sampling and batches. Torch-free: the loader and the encoder are imported in setup()."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, Field

from qcvl.augment.crop import SampleCrop
from qcvl.errors import DataError
from qcvl.log import get_logger
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record, read_records
from qcvl.schema.settings import settings
from qcvl.schema.types import Pairing, Task


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
    and ``prompts`` the run's prompts for this source. ``complete`` says that every record has objects and a summary by
    construction, so nobody needs to look.
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
        """Whether every record has objects and a summary by construction."""
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

    def open(self) -> Sequence[Record]:
        """Read and validate every line; raises RecordError with file, line and field."""
        if not Path(self.path).is_file():
            raise DataError(f"{self.path} not found; give an existing file: data.train=/abs/train.jsonl")
        return read_records(self.path)


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
        """Read all records; what was left out is logged by reason, with its first place."""
        from qcvl.data.reading import find_reader, summarize, told_apart

        root = Path(self.root) if self.root else None
        records, notices = told_apart(find_reader(self.format)(Path(self.path), self.split, root))
        for line in summarize(notices):
            logger.warning("%s: %s", self.path, line)
        return records


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
    """

    train: Sources | None
    val: Sources | None
    format: Format | None
    root: str | None
    sampling: Sampling
    dense_share: float = Field(ge=0, le=1)
    batch_size: int = Field(gt=0)
    val_batch_size: int = Field(gt=0)
    val_generate: int | None = Field(ge=0)
    num_workers: int = Field(ge=0)
    overlong: Literal["error", "drop", "shrink_image"]
    sample_limit: int | None = Field(gt=0)
    pair: Pairing | None
    crops: SampleCrop | None
    cache_mb: int = Field(ge=0)

    def prepare(self) -> None:
        """Make the files the sources name, where this data set knows how; plain files must exist already."""

    def sources(self, split: Literal["train", "val"]) -> dict[str, Source]:
        """The sources of one split by name; a bare path is the source ``val`` (or ``train``) shown once an epoch."""
        given = getattr(self, split)
        named = {split: given} if isinstance(given, str) else given or {}
        return {name: self._as_source(source, split) for name, source in named.items()}

    def _as_source(self, source: str | Source, split: Literal["train", "val"]) -> Source:
        if not isinstance(source, str):
            return source
        once: dict[str, Any] = {"path": source, "repeat": 1, "task": None, "prompts": None}
        if self.format is None and (Path(source).is_dir() or source.endswith(FOREIGN_SUFFIXES)):
            raise DataError(f"{source} is no JSONL file; say what it is: data.format=coco (or labelme, cvat, …)")
        root = self.photo_root()
        if self.format is None and root is None:
            return JsonlSource(**once)
        return FormatSource(format=self.format or "jsonl", split=split, root=root, **once)

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
