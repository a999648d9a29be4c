"""An optimizer step that was not finite, kept on disk: the first of a run, whole enough to be made again.

``<run>/nonfinite/step-N/`` holds ``rank-R.safetensors`` and ``rank-R.json`` (the micro-batches of the ranks that saw
it, the seed each began with, its loss, where its samples stand), ``trained.safetensors`` (the weights before the step),
``model/`` (what the base model alone does not give) and the run's ``config.yaml``. Nothing in it is pickled.
"""

import json
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import peft
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qcvl.checkpoints.agreement import require_same_tensors
from qcvl.checkpoints.contract import write_contract
from qcvl.checkpoints.folder import STEP, check_free_space, steps_in
from qcvl.checkpoints.snapshot import size_bytes
from qcvl.errors import CheckpointError
from qcvl.inference.sharding import gather_objects
from qcvl.modules.finite import loss_scale

FOLDER = "nonfinite"  # in the run directory
TRAINED, MODEL, CONFIG = "trained.safetensors", "model", "config.yaml"
_OF_THE_RUN = ("hydra.run.dir=", "resume=", "job=", "batch_probe=")  # overrides that are not a replay's
_OF_DEVICES = ("strategy=", "trainer.strategy", "trainer.devices=", "trainer.num_nodes=", "sp_degree=")  # it has one


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of a step on this rank.

    Attributes:
        index: its number in the epoch.
        seed: what every torch generator was seeded with before it.
        batch: as the loader handed it over.
        labels: the step's label tokens by kind, over all ranks.
        cells: the step's visual tokens, over all ranks.
        loss: its share of the step's loss, a scalar.
    """

    index: int
    seed: int
    batch: dict[str, Any]
    labels: Tensor
    cells: Tensor
    loss: Tensor


@dataclass(frozen=True)
class KeptStep:
    """What one rank did in a kept step; ``factor`` is what each loss was multiplied with before its backward pass."""

    step: int
    rank: int
    factor: float
    samples: list[list[str]]
    micro_batches: list[MicroBatch]


def samples_of(module: Any, step: Sequence[MicroBatch]) -> list[list[str]]:
    """Where the samples of some of this epoch's micro-batches stand, on this rank."""
    return [module.trainer.train_dataloader.where(module.current_epoch, one.index) for one in step]


def keep_step(module: Any, step: Sequence[MicroBatch]) -> str | None:
    """Keep a step that was not finite before anything of it is gone; returns how to replay it, the same on all ranks.

    The ranks whose own loss is not finite keep their batches; where none is, all do, for a gradient that was reduced
    over ranks does not say whose it was. Only the first such step of a run is kept; of later ones None is returned.
    What does not fit the disk is not kept, and the answer says so: that ends no run.
    """
    trainer: pl.Trainer = module.trainer
    saw = not all(math.isfinite(float(one.loss)) for one in step)
    anyone = any(gather_objects([saw]))
    folder = Path(trainer.default_root_dir) / FOLDER / f"{STEP}{trainer.global_step}"
    if trainer.strategy.broadcast(bool(steps_in(folder.parent))):
        return None
    trained = trainer.strategy.lightning_module_state_dict()  # of all ranks, which may hold parts
    beyond_base = isinstance(module.built, peft.PeftModel) or module.init_from is not None
    weights = module.saved_tensors() if beyond_base else None
    problem = None
    try:
        if saw or not anyone:
            factor = trainer.world_size * (loss_scale(trainer) or 1.0)
            kept = KeptStep(trainer.global_step, trainer.global_rank, factor, samples_of(module, step), list(step))
            _write_rank(folder, kept, trainer.current_epoch)
        if trainer.is_global_zero:
            _write_weights(folder, module, trained, weights)
    except (OSError, SafetensorError, CheckpointError) as error:
        problem = str(error)
    problems = [told for told in gather_objects([problem]) if told]  # also lets all wait for the last writer
    if problems:
        if trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
        return f"it could not be kept for a replay: {problems[0]}"
    return f"kept in {folder}; to see which module made it: {replay_command(folder)}"


def replay_command(folder: Path) -> str:
    """The command that makes a kept step again, on one device: the run's own overrides, and ``replay=``."""
    source = folder.parents[1] / ".hydra" / "overrides.yaml"
    overrides = yaml.safe_load(source.read_text(encoding="utf-8")) if source.is_file() else []
    own = [text for text in overrides if not text.lstrip("+").startswith((*_OF_THE_RUN, *_OF_DEVICES))]
    place = str(folder.resolve())
    if not re.fullmatch(r"[\w./-]+", place):  # in Hydra's grammar the rest has to be quoted
        place = "'" + place.replace("'", "\\'") + "'"
    return shlex.join(["python", "-m", "qcvl.train", *own, "strategy=single", "job=replay", f"replay={place}"])


def read_ranks(folder: Path) -> list[KeptStep]:
    """The kept steps of all ranks that kept one, by rank.

    Raises:
        CheckpointError: for a folder that holds none, or a damaged one.
    """
    paths = sorted(folder.glob("rank-*.json"), key=lambda path: int(path.stem.removeprefix("rank-")))
    if not paths or not (folder / TRAINED).is_file():
        raise CheckpointError(
            f"replay: {folder} is no kept step; expected rank-0.json, rank-0.safetensors and {TRAINED}, give one of a "
            f"run's {FOLDER}/{STEP}N folders"
        )
    try:
        return [_read_rank(path) for path in paths]
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"replay: {folder} is damaged ({error}); copy the folder again") from error


def load_trained(module: Any, folder: Path) -> None:
    """Give the trained weights of a kept step to a module that is built as its run's was.

    Raises:
        CheckpointError: naming the first tensor that the module does not train, or trains in another shape.
    """
    try:
        saved = load_file(folder / TRAINED)
    except SafetensorError as error:
        raise CheckpointError(f"replay: {folder / TRAINED} cannot be read ({error}); copy the folder again") from None
    remedy = "use the stage, tuner and model of the run, as its own replay command does"
    require_same_tensors(saved, module.state_dict(), setting="replay", of=folder, remedy=remedy)
    module.load_state_dict(saved, strict=False)


def _write_rank(folder: Path, kept: KeptStep, epoch: int) -> None:
    tensors: dict[str, Tensor] = {}
    for place, one in enumerate(kept.micro_batches):
        parts = {f"batch.{name}": value for name, value in one.batch.items() if isinstance(value, Tensor)}
        parts |= {"labels": one.labels, "cells": one.cells, "loss": one.loss}
        tensors |= {f"{place}.{name}": value.detach().cpu().clone().contiguous() for name, value in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    check_free_space(folder, size_bytes(tensors))
    save_file(tensors, folder / f"rank-{kept.rank}.safetensors")
    rows = [
        {"index": one.index, "seed": str(one.seed), "loss": repr(float(one.loss)), "samples": samples}
        for one, samples in zip(kept.micro_batches, kept.samples, strict=True)
    ]
    content = {"step": kept.step, "epoch": epoch, "rank": kept.rank, "factor": kept.factor, "micro_batches": rows}
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (folder / f"rank-{kept.rank}.json").write_text(text + "\n", encoding="utf-8")


def _write_weights(folder: Path, module: Any, trained: dict[str, Tensor], weights: dict[str, Tensor] | None) -> None:
    """The trained weights; of an adapter, or a run that started from a checkpoint, also all that is not in the base."""
    trained = {name: value.detach().cpu().contiguous() for name, value in trained.items()}
    model = folder / MODEL
    model.mkdir(parents=True, exist_ok=True)
    check_free_space(folder, size_bytes(trained) + size_bytes(weights))
    if weights is not None:
        module.save(model, weights)
    else:
        module.processing.save(model)
        write_contract(module.contract, model)
    config = folder.parents[1] / CONFIG
    if config.is_file():
        shutil.copyfile(config, folder / CONFIG)
    save_file(trained, folder / TRAINED)


def _read_rank(path: Path) -> KeptStep:
    content = json.loads(path.read_text(encoding="utf-8"))
    tensors = load_file(path.with_suffix(".safetensors"))
    micro_batches = []
    for place, row in enumerate(content["micro_batches"]):
        mine = {n.removeprefix(f"{place}."): value for n, value in tensors.items() if n.startswith(f"{place}.")}
        batch = {n.removeprefix("batch."): value for n, value in mine.items() if n.startswith("batch.")}
        counts = {name: mine[name] for name in ("labels", "cells", "loss")}
        micro_batches.append(MicroBatch(index=row["index"], seed=int(row["seed"]), batch=batch, **counts))
    samples = [row["samples"] for row in content["micro_batches"]]
    return KeptStep(content["step"], content["rank"], content["factor"], samples, micro_batches)
