"""What a run reads: sources, sampling and batches. Torch-free: the loader and the encoder are imported in setup()."""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from qcvl.augment.crop import SampleCrop
from qcvl.data.sources import (
    FOREIGN_SUFFIXES,
    Format,
    FormatSource,
    JsonlSource,
    Sampling,
    Source,
    Sources,
    part_of,
    split_percent,
)
from qcvl.data.stream_source import StreamSource
from qcvl.data.video import VideoSampling
from qcvl.errors import ConfigError, DataError
from qcvl.schema.settings import settings
from qcvl.schema.types import Pairing

if TYPE_CHECKING:
    pass


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
    that many tokens, or with ``packing`` a pack of samples of any length that fills ``packing_length`` tokens (see
    ``data.packs``): ``best_fit`` looks for the samples that fill it best, ``first_fit`` keeps samples nearer to chance
    order. Packs are made anew each epoch, equally many for all ranks, and those that run side by side cost about the
    same; a longer sample is a pack of its own. Streams are packed block by block.

    A path in any format may end in ``%N``: N percent of its records, always the same ones. An epoch shows each source
    ``repeat`` times; ``weights`` (by source) share it out instead, and ``epoch_samples`` is its length where the
    sources' own is not wanted. By training source, ``unaugmented`` names those shown as they are, ``max_objects``
    bounds the objects listed (after augmentation, the first in the answer's order), ``min_pixels`` and ``max_pixels``
    take the place of the model's budget for a photo.

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
    packing: Literal["best_fit", "first_fit"] | None
    packing_length: int | None = Field(gt=0)
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
                    split_percent(source) if isinstance(source, str) else part_of(source)
                except ConfigError as problem:
                    problems.append(str(problem))
        problems += self._unpackable()
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
            return part_of(source)
        path, _ = split_percent(source)
        if self.format is None and (Path(path).is_dir() or path.endswith(FOREIGN_SUFFIXES)):
            raise DataError(f"{path} is no JSONL file; say what it is: data.format=coco (or labelme, cvat, …)")
        return part_of(self._of_path(source, split))

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

    @property
    def capacity(self) -> int | None:
        """Tokens that a micro-batch of several samples holds at most; None: it is a fixed number of samples."""
        return self.packing_length if self.packing is not None else self.token_budget

    def _unpackable(self) -> Iterator[str]:
        """What keeps the samples from being packed, where they should be."""
        if self.packing is not None and self.packing_length is None:
            yield f"data.packing: {self.packing} needs the tokens of a pack; set data.packing_length"
        if self.packing is None and self.packing_length is not None:
            yield "data.packing_length: nothing is packed; set data.packing=best_fit, or leave it null"
        if self.packing is not None and self.token_budget is not None:
            yield "data.token_budget: is another way to make batches than data.packing; leave one of them null"

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


def _foreign(setting: str, names: Iterable[str], known: Sequence[str], of: str = "data.train") -> Iterator[str]:
    """What to say about names that are no sources of ``of``."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else f"{of} is null"
            yield f"data.{setting}: {name!r} is not a source of {of} ({', '.join(known) or 'none'}); {hint}"
