"""The one LightningDataModule: SFT, GKD, evaluation and previews all read through it."""

import sys
from dataclasses import dataclass, replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from qcvl.augment.base import Compose
from qcvl.augment.color import load_albumentations
from qcvl.data.batch import collate
from qcvl.data.blocks import Blocks
from qcvl.data.cache import SampleCache
from qcvl.data.course import Course
from qcvl.data.dataset import OpenSource, SampleDataset, class_table, open_source
from qcvl.data.encode import Encoder, true_answer
from qcvl.data.grouping import grouped
from qcvl.data.handover import StepLoader
from qcvl.data.images import photo_sizes
from qcvl.data.loader import TrainLoader
from qcvl.data.packs import Packing
from qcvl.data.sampling import epoch_counts
from qcvl.data.settings import Data
from qcvl.data.stream import Stream, StreamHead
from qcvl.data.stream_loader import StreamDataset, StreamLoader
from qcvl.data.stream_source import NO_END
from qcvl.errors import ConfigError, DataError
from qcvl.models.pixels import seen_size
from qcvl.models.spec import Processing
from qcvl.models.text import plain_ids
from qcvl.schema.answer import AnswerFormat
from qcvl.schema.prompts import Prompts
from qcvl.schema.records import Record
from qcvl.schema.types import Pairing, Task


@dataclass(frozen=True)
class EvaluationItem:
    """One question to a model: a record, its number within its source, the task, and the prompts to ask with.

    ``pairing`` says what of a photo and its template the model sees (see ``data.pairs``).
    """

    record: Record
    index: int
    task: Task
    prompts: Prompts
    pairing: Pairing | None = None


class VLDataModule(pl.LightningDataModule):
    """Records in, row-layout batches out.

    Args:
        data: sources, sampling and batch sizes.
        processing: the model's tokenizer, template and pixel budget.
        answer_format: how dense answers are written.
        prompts: system and user texts per task, unless a source has its own.
        augment: the training pipeline; validation is never augmented.
        max_length: the longest sample in tokens.
        seed: of sampling, order and augmentation.
        grounding: whether batches carry the auxiliary grounding targets.
        pairing: what is seen of a photo and its template: the data's own choice, or a checkpoint's.
        sp_degree: neighbouring ranks that get the same batches, to hold each row together.
    """

    def __init__(
        self,
        *,
        data: Data,
        processing: Processing,
        answer_format: AnswerFormat,
        prompts: Prompts,
        augment: Compose | None,
        max_length: int,
        seed: int,
        grounding: bool,
        pairing: Pairing | None,
        sp_degree: int,
    ) -> None:
        super().__init__()
        self.data, self.processing, self.answer_format, self.prompts = data, processing, answer_format, prompts
        self.augment, self.max_length, self.seed, self.grounding = augment, max_length, seed, grounding
        self.pairing, self.sp_degree = pairing, sp_degree
        self._opened: dict[str, list[OpenSource]] = {}
        self.classes: dict[str, int] = {}

    def prepare_data(self) -> None:
        """Make the data set's files where it knows how (the demo draws its photos)."""
        self.data.prepare()

    def sources(self, split: Literal["train", "val"]) -> list[OpenSource]:
        """The opened sources of one split; records are read and validated once."""
        if split not in self._opened:
            self._opened[split] = [
                replace(
                    open_source(name, source, self.data.sampling, self.prompts),
                    keep_vertex_order=name in self.data.keep_vertex_order,
                )
                for name, source in self.data.sources(split).items()
            ]
        return self._opened[split]

    def setup(self, stage: str | None = None) -> None:
        """Open every source the stage needs, so that bad data stops a run before it starts."""
        if stage in (None, "fit"):
            train = self.sources("train")
            self.classes = class_table(train) if self.grounding else {}
        self.sources("val")

    def encoder(self, *, grounding: bool = False) -> Encoder:
        """The encoder all of this module's loaders share."""
        return Encoder(
            processing=self.processing,
            answer_format=self.answer_format,
            max_length=self.max_length,
            overlong=self.data.overlong,
            classes=self.classes if grounding else {},
        )

    def train_dataset(self) -> SampleDataset | StreamDataset:
        """Augmented training samples by (epoch, index), or of streams by where their records lie."""
        data, sources = self.data, [self._mixed(source) for source in self.sources("train")]
        if data.shuffle_buffer is not None:
            weights = data.weights or dict.fromkeys(data.sources("train"), 1.0)
            blocks = Blocks(
                streams=[self._stream(source, number) for number, source in enumerate(sources)],
                weights=[weights[source.name] for source in sources],
                size=data.shuffle_buffer,
                seed=self.seed,
            )
            return StreamDataset(blocks=blocks, **self._shown(sources, grounding=self.grounding))
        counts = epoch_counts(
            [source.count for source in sources],
            [source.repeat for source in sources],
            None if data.weights is None else [data.weights[source.name] for source in sources],
            data.epoch_samples,
        )
        if data.images_per_user_turn is not None:
            sources, counts = grouped(sources, counts, data.images_per_user_turn, self.pairing)
        return SampleDataset(counts=counts, **self._shown(sources, grounding=self.grounding))

    def _stream(self, source: OpenSource, number: int) -> Stream:
        """The stream of a training source, in the order of this run."""
        assert isinstance(source.records, StreamHead)  # data.sources("train") made it
        stream = replace(source.records.stream, seed=self.seed, number=number)
        return stream if source.limit is None else stream.first(source.limit)

    def _mixed(self, source: OpenSource) -> OpenSource:
        """A training source as the data's mixture wants it."""
        data, name, processing = self.data, source.name, None
        lowest, highest = ((budget or {}).get(name) for budget in (data.min_pixels, data.max_pixels))
        if lowest is not None or highest is not None:
            processing = _with_budget(self.processing, lowest, highest, name)
        return replace(
            source,
            limit=data.sample_limit,
            augmented=name not in data.unaugmented,
            max_objects=(data.max_objects or {}).get(name),
            processing=processing,
        )

    def _shown(self, sources: list[OpenSource], *, grounding: bool = False, training: bool = True) -> dict[str, Any]:
        """What samples of some sources look like: all of a dataset but which they are."""
        return {
            "sources": sources,
            "encoder": self.encoder(grounding=grounding),
            "augment": self.augment if training else None,
            "seed": self.seed,
            "dense_share": self.data.dense_share,
            "pairing": self.pairing,
            "crops": self.data.crops,
            "video": self.data.video,
            "cache": SampleCache(self.data.cache_mb if training else 0),
        }

    def train_dataloader(self) -> StepLoader:
        """The resumable training loader of this rank.

        Raises:
            ConfigError: for streams in a run without an end.
        """
        trainer, dataset = self.trainer, self.train_dataset()
        if self.data.num_workers and self.augment is not None:
            load_albumentations()  # workers inherit it; each would take seconds, and stop at W&B's import hook
        accumulate = trainer.accumulate_grad_batches if trainer else 1
        batches: dict[str, Any] = {"batch_size": self.data.batch_size, "token_budget": self.data.token_budget}
        if self.data.packing is not None and self.data.packing_length is not None:
            batches["packing"] = Packing(self.data.packing, self.data.packing_length)
        rank, world_size = self._place()
        batches |= {
            "keep_going": self.data.max_bad_fraction > 0,
            "accumulate": accumulate,
            "rank": rank,
            "world_size": world_size,
            "num_workers": self.data.num_workers,
        }
        loader: StepLoader
        if isinstance(dataset, SampleDataset):
            loader = TrainLoader(dataset, **batches)
        elif trainer and trainer.max_steps == -1:
            raise ConfigError(f"trainer.max_steps: {NO_END}")
        else:
            steps = trainer.max_steps if trainer else sys.maxsize
            loader = StreamLoader(dataset, batches=steps * accumulate, **batches)
        loader.course = Course.of(len(loader), loader.accumulate, trainer)
        return loader

    def val_dataloader(self) -> list[DataLoader]:
        """One loader a validation source, this rank's share of it: records ``rank, rank + world, …`` once, in order."""
        rank, world_size = self._place()
        loaders = []
        for source in self.sources("val"):
            dataset = SampleDataset(counts=[source.count], **self._shown([source], training=False))
            mine = [(0, index) for index in range(len(dataset))][rank::world_size]
            batches = [mine[i : i + self.data.val_batch_size] for i in range(0, len(mine), self.data.val_batch_size)]
            own = torch.Generator()  # iterating draws a seed: not from the global stream that training goes on with
            loaders.append(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, generator=own))
        if loaders and not any(len(loader) for loader in loaders):  # Lightning would leave this rank out of validation
            raise DataError(f"data.val has no record for rank {rank} of {world_size}; add records or use fewer devices")
        return loaders

    def _place(self) -> tuple[int, int]:
        """This rank's share of the samples and how many shares there are: one a group of ``sp_degree`` ranks."""
        if not self.trainer:
            return 0, 1
        return self.trainer.global_rank // self.sp_degree, self.trainer.world_size // self.sp_degree

    def val_names(self) -> list[str]:
        """The validation sources' names, in the order of the loaders."""
        return list(self.data.sources("val"))

    def evaluation_items(self, name: str, limit: int | None) -> list[EvaluationItem]:
        """What to ask about one validation source: its first ``limit`` records, once for every task it samples.

        Nothing is asked about a conversation: it has a loss, and no answer that could be counted right or wrong.
        """
        source = next(source for source in self.sources("val") if source.name == name)
        asked: tuple[Task, ...] = ("dense", "summary")
        records = [source.records[index] for index in range(len(source.records))[:limit]]
        return [
            EvaluationItem(record, index, task, source.prompts, self.pairing)
            for task in asked
            for index, record in enumerate(records)
            if source.sampling_of(record) in (task, "mixed")
        ]

    def answer_length(self, item: EvaluationItem) -> int:
        """Tokens of the true answer, its end-of-turn token included."""
        record = item.record
        sizes = photo_sizes(record)
        seen = [seen_size(height, width, self.processing)[::-1] for width, height in sizes]
        text = true_answer(item.task, record.annotations, record.summary, sizes, seen, self.answer_format)
        return len(plain_ids(self.processing, text)) + 1


def _with_budget(processing: Processing, lowest: int | None, highest: int | None, source: str) -> Processing:
    """The processing with another pixel budget; None leaves a bound as it is."""
    smallest = processing.min_pixels if lowest is None else lowest
    largest = processing.max_pixels if highest is None else highest
    if smallest > largest:
        raise ConfigError(
            f"data.min_pixels, data.max_pixels: source {source} would have photos of {smallest} to {largest} pixels; "
            "give both, the first no larger than the second"
        )
    return replace(processing, min_pixels=smallest, max_pixels=largest)
