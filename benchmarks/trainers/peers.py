"""transformers' Trainer and TRL's SFTTrainer as contenders, on the stock model with the same weights.

Both get what their collators for vision-language models make: right-padded rows with an attention mask, all patches of
a batch in one tensor. Photos are decoded, resized and cut beforehand, which is to their favour.
"""

from pathlib import Path
from typing import Any

import torch
from trainers.turns import Turns
from trainers.workload import STEP_SAMPLES, Workload

from qcvl import config
from qcvl.models.build import initialise, scratch_config
from qcvl.models.forward import normalised
from qcvl.models.pixels import repeated


class PaddedBatches:
    """A collator: rows padded to the longest of the batch."""

    def __init__(self, features: list[Any], processing: Any) -> None:
        self.features, self.family, self.pad = features, processing.family, processing.pad

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``rows`` name their samples by number."""
        items = [self.features[row["number"]] for row in rows]

        def padded(name: str, value: int) -> torch.Tensor:
            tensors = [torch.from_numpy(getattr(item, name)) for item in items]
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

        batch = {
            "input_ids": padded("input_ids", self.pad),
            "labels": padded("labels", -100),
            "mm_token_type_ids": padded("token_types", 0),
        }
        ones = [torch.ones(len(item.input_ids), dtype=torch.int64) for item in items]
        batch["attention_mask"] = torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)
        if seen := [item for item in items if len(item.patches)]:
            patches = [torch.from_numpy(repeated(item.patches, self.family.temporal_patch_size)) for item in seen]
            batch["pixel_values"] = normalised(torch.cat(patches), self.family)
            batch["image_grid_thw"] = torch.cat([torch.from_numpy(item.grids) for item in seen])
        return batch


def train(turns: Turns, workload: Workload, name: str, order: str) -> None:
    """Train by ``Trainer`` or ``SFTTrainer`` (``name``); an ``order`` of "" puts samples of like length together."""
    from transformers import AutoModelForImageTextToText, Trainer, TrainerCallback, TrainingArguments

    settings, features = _given(workload)
    processing = settings.model.load_processing()
    model = AutoModelForImageTextToText.from_config(scratch_config(settings.model.architecture, processing))
    initialise(model, settings.model)
    arguments: dict[str, Any] = {
        "output_dir": str(Path(workload.folder) / name),
        "per_device_train_batch_size": workload.batch,
        "gradient_accumulation_steps": STEP_SAMPLES // workload.batch,
        "num_train_epochs": workload.passes,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": order or "group_by_length",
        "remove_unused_columns": False,
        "gradient_checkpointing": False,
        "bf16": workload.precision == "bf16-mixed",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    kind: type[Any] = Trainer
    if name == "SFTTrainer":
        import datasets
        from trl import SFTConfig, SFTTrainer

        kind = SFTTrainer
        made = SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})
    else:
        made = TrainingArguments(**arguments)

    class Counted(kind):
        """The trainer, which says what its batches hold."""

        def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            mask, labels = inputs["attention_mask"], inputs["labels"]
            turns.count(len(mask), int(mask.sum()), int((labels != -100).sum()), places=mask.numel())
            return super().compute_loss(model, inputs, *args, **kwargs)

    class TakesTurns(TrainerCallback):
        """A turn is an optimizer step."""

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.wait(model)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.done()

    rows: Any = [
        {"number": number, "input_ids": item.input_ids, "labels": item.labels} for number, item in enumerate(features)
    ]
    if name == "SFTTrainer":
        rows = datasets.Dataset.from_list(rows)
    Counted(
        model=model,
        args=made,
        train_dataset=rows,
        data_collator=PaddedBatches(features, processing),
        processing_class=processing.tokenizer,
        callbacks=[TakesTurns()],
    ).train()


def _given(workload: Workload) -> tuple[Any, list[Any]]:
    """The checked settings of the run, and its samples as qcvl encodes them."""
    run = config.build(config.load("train", workload.overrides()))
    run.datamodule.setup("fit")
    samples = run.datamodule.train_dataset()
    return run.settings, [samples[(0, number)] for number in range(len(samples))]
