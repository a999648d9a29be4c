"""From checked settings to the three objects of a training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcvl.composition.devices import refusals
from qcvl.composition.quiet import quiet
from qcvl.composition.roots import Train
from qcvl.composition.zero_rules import NO_EXPERTS, is_mixture
from qcvl.errors import ConfigError

if TYPE_CHECKING:
    import lightning.pytorch as pl

    from qcvl.data.datamodule import VLDataModule
    from qcvl.models.settings import Model
    from qcvl.modules.base import VLModule


@dataclass(frozen=True)
class Run:
    """What ``run.trainer.fit(run.module, run.datamodule)`` needs, and the settings they were built from."""

    module: "VLModule"
    datamodule: "VLDataModule"
    trainer: "pl.Trainer"
    settings: Train


def assemble(settings: Train) -> Run:
    """Build module, datamodule and trainer; seeds every random generator first, loads no weights yet.

    Raises:
        CheckpointError: for a model folder, ``stage.init_from`` or ``resume`` that cannot be used.
        ConfigError: for what Lightning's Trainer refuses, such as more devices than there are.
    """
    quiet()
    import lightning.pytorch as pl
    import torch

    from qcvl.callbacks.jsonl_logger import JsonlLogger
    from qcvl.checkpoints.agreement import require_same_base, require_same_text
    from qcvl.checkpoints.describe import describe
    from qcvl.data.datamodule import VLDataModule

    torch.set_num_threads(settings.threads)
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    model, start = _starting_point(settings)
    processing = model.load_processing()
    _refuse_experts(settings, processing.family.model_type)
    answer_format = settings.answer.resolved(processing.family.emit_norm)
    shared = {"processing": processing, "answer_format": answer_format, "prompts": settings.prompts}
    moved = {"model": model, "tuner": settings.tuner, "stage": settings.stage}
    datamodule = VLDataModule(
        data=settings.data,
        augment=settings.augment,
        max_length=settings.global_max_length,
        seed=settings.seed,
        grounding=settings.objective.grounding,
        pairing=settings.data.pair,
        sp_degree=settings.sp_degree,
        **shared,
    )
    contract = describe(**moved, **shared, pairing=settings.data.pair)
    if (folder := _goes_on_from(settings)) is not None:
        name = "resume" if settings.resume is not None else "replay"
        require_same_base(folder, contract.base, name)
        require_same_text(folder, processing, name)
    module = settings.objective.setup(
        optimizer=settings.optimizer,
        lr_scheduler=settings.lr_scheduler,
        init_from=start,
        processing=processing,
        contract=contract,
        sp_degree=settings.sp_degree,
        **moved,
    )
    loggers = [JsonlLogger(str(Path(settings.paths.output_dir) / "logging.jsonl")), *settings.logger.values()]
    with refusals("trainer"):
        trainer = settings.trainer(callbacks=_callbacks(settings), logger=loggers, **_float16(settings))
    return Run(module, datamodule, trainer, settings)


def _float16(settings: Train) -> dict[str, Any]:
    """Float16 for FSDP2, whose gradients torch's loss scale knows, though Lightning refuses the setting."""
    import torch
    from lightning.pytorch.plugins import MixedPrecision

    from qcvl.modules.fsdp import FSDP

    asked = settings.trainer.keywords
    if asked.get("precision") != "16-mixed" or not isinstance(asked.get("strategy"), FSDP):
        return {}
    on_gpu = asked.get("accelerator") != "cpu" and torch.cuda.is_available()
    return {"precision": None, "plugins": [MixedPrecision("16-mixed", "cuda" if on_gpu else "cpu")]}


def _refuse_experts(settings: Train, model_type: str) -> None:
    """The rule of the settings, for a model whose type only its fetched ``config.json`` told."""
    zero = getattr(settings.trainer.keywords.get("strategy"), "zero", None)
    if zero is not None and zero.stage == 3 and is_mixture(model_type):
        raise ConfigError(f"trainer.strategy: model is a {model_type}, a mixture of experts: {NO_EXPERTS}")


def _callbacks(settings: Train) -> "list[pl.Callback]":
    """The callbacks, after a batch probe and a look at compiled blocks or Liger's where these are asked for.

    Without ``trainer.enable_progress_bar`` there is no progress bar, which Lightning would refuse.
    """
    from lightning.pytorch.callbacks import ProgressBar

    from qcvl.callbacks.batch_probe import BatchProbe
    from qcvl.callbacks.stock_check import StockCheck
    from qcvl.modules.gradients import loss_and_norms

    shown = settings.trainer.keywords.get("enable_progress_bar", True)
    probes = (
        [BatchProbe(path=str(Path(settings.paths.output_dir) / "batch_probe.json"))] if settings.batch_probe else []
    )
    swapped = [f"model.{name}" for name in ("compile", "liger") if getattr(settings.model, name)]
    checks = [StockCheck(setting, loss_and_norms) for setting in swapped]
    return [
        *probes,
        *checks,
        *(item for item in settings.callbacks.values() if shown or not isinstance(item, ProgressBar)),
    ]


def _goes_on_from(settings: Train) -> Path | None:
    """The folder with the weights of a run that goes on, or of the step that is replayed."""
    if settings.resume is not None:
        return Path(settings.resume)
    return None if settings.replay is None else Path(settings.replay) / "model"


def _starting_point(settings: Train) -> "tuple[Model, Path | None]":
    """The base model, and the verified checkpoint folder ``stage.init_from`` names.

    ``latest`` is one of this job's runs, ``previous`` that of the sweep's job before.

    Adapters that start from a fully trained checkpoint have it as their base, so it takes the model's place. A run that
    goes on, or one of whose steps is replayed, starts from what was saved of it: by now another checkpoint may be the
    latest, or the first may be gone.
    """
    from qcvl.checkpoints.adapters import is_adapter
    from qcvl.checkpoints.agreement import require_same_base, require_same_text
    from qcvl.checkpoints.contract import read_contract
    from qcvl.checkpoints.describe import describe_base
    from qcvl.checkpoints.folder import verify
    from qcvl.checkpoints.latest import find_latest, find_previous
    from qcvl.checkpoints.reopen import base_of
    from qcvl.models.settings import at_path

    init_from, model = settings.stage.init_from, settings.model
    if init_from is None:
        return model, None
    if (former := _goes_on_from(settings)) is not None:
        base_model = base_of(read_contract(former), model)
        # AdaLoRA's file lacks what it pruned; the trainer's state, read later, has all of it.
        return base_model, None if settings.tuner.kind == "adalora" else former
    if init_from == "previous":
        previous = find_previous(Path(settings.paths.output_dir), settings.stage.number)
        if previous is None:
            return model, None
        init_from = str(previous)
    processing = model.load_processing()
    base = describe_base(model, processing.family.model_type)
    if init_from == "latest":
        runs = Path(settings.paths.outputs) / settings.job
        folder = find_latest(runs, below_stage=settings.stage.number, base_fingerprint=base.fingerprint)
    else:
        folder = Path(init_from)
        verify(folder)
        require_same_base(folder, base, "stage.init_from")
    require_same_text(folder, processing, "stage.init_from")
    if settings.tuner.kind != "full" and not is_adapter(folder):
        return at_path(model, str(folder)), None
    return model, folder
