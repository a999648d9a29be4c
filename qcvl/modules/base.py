"""What every objective shares: building the tuned model, optimizer steps in tokens, validation, and what is saved."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from qcvl.checkpoints.adapters import init_from, saved_tensors, write_model
from qcvl.checkpoints.agreement import AS_STARTED, require_same_tensors
from qcvl.checkpoints.contract import Contract, write_contract
from qcvl.checkpoints.snapshot import size_bytes
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.inference.sharding import gather_objects
from qcvl.models.settings import Model
from qcvl.models.spec import Processing
from qcvl.modules.finite import FiniteSteps, loss_scale
from qcvl.modules.gradients import gradient_norms, require_gradients
from qcvl.modules.kept_step import MicroBatch, keep_step, samples_of
from qcvl.modules.sequence import RowSharing
from qcvl.modules.sharded import gathered
from qcvl.modules.sums import add, at_least_something, by_kind, on_cpu, over_ranks, summed
from qcvl.modules.zero import sharded as zero
from qcvl.tuning.freezing import held_modules
from qcvl.tuning.groups import parameter_groups
from qcvl.tuning.ranks import RankCourse
from qcvl.tuning.settings import TrainingStage, Tuner


class VLModule(pl.LightningModule, ABC):
    """A vision-language model, the towers a stage moves, and how a tuner moves them.

    Subclasses give ``losses(batch)``: sums over the batch's label tokens (and cells), never means, so that a step's
    loss is one token mean over all its micro-batches and ranks.

    Args:
        model: settings with ``load_model()`` and ``lr_multiplier``.
        tuner: settings with ``setup(model, towers)``.
        stage: which towers move, for how many epochs, at what rates.
        optimizer: settings with ``setup(groups)`` and ``weight_decay``.
        lr_scheduler: settings with ``setup(optimizer, total_steps)``.
        init_from: an earlier stage's checkpoint folder to start from, or None.
        processing: the model's tokenizer, template and pixel budget, saved with every checkpoint.
        contract: what ``qcvl.json`` says.
        token_weights: how much a trained token of each kind of LABEL_KINDS counts in the loss.
        max_nonfinite_steps: the run ends after so many steps in a row whose loss or gradient is not finite.
        sp_degree: neighbouring ranks that hold each row together (see ``models.sequence``).
    """

    strict_loading = False

    def __init__(
        self,
        *,
        model: Model,
        tuner: Tuner,
        stage: TrainingStage,
        optimizer: Any,
        lr_scheduler: Any,
        init_from: Path | None,
        processing: Processing,
        contract: Contract,
        token_weights: Mapping[str, float],
        max_nonfinite_steps: int,
        sp_degree: int,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a small validation source has too few for all
        self.processing, self.contract = processing, contract
        self.spec, self.tuner, self.stage = model, tuner, stage
        self.optimizer_settings, self.scheduler_settings, self.init_from = optimizer, lr_scheduler, init_from
        weights = torch.tensor([token_weights[kind] for kind in LABEL_KINDS])
        self.register_buffer("token_weights", weights, persistent=False)
        self.model: nn.Module | None = None
        self.seed = torch.initial_seed()  # the run's: every generator has just been seeded with it
        self.finite, self.rows = FiniteSteps(max_nonfinite_steps), RowSharing(sp_degree)
        self.rank_course: RankCourse | None = None
        self._saved_ranks: dict[str, Any] | None = None  # of the checkpoint a run goes on from
        self._totals: dict[str, Tensor] = {}
        self._step: list[MicroBatch] = []  # the micro-batches of the current step
        self.handed: dict[str, Any] = {}  # the current batch, as a loader handed it over
        self.handed_to: str | None = None  # train, validate or sanity_check
        self.draw_seed = 0  # of what is drawn for it
        self.replayed: int | None = None  # the step that is made again, where one is
        self._eval_totals: dict[int, dict[str, Tensor]] = {}
        self._cells = 0.0  # visual tokens of the current step

    def configure_model(self) -> None:
        """Load, start from ``init_from``, freeze and adapt the model; once."""
        if self.model is None:
            model, towers = self.spec.load_model(), self.stage.towers
            self.rows.check(model)
            held = held_modules(model, self.stage)
            if self.init_from is None:
                self.model = self.tuner.setup(model, towers, held=held)
            else:
                self.model = init_from(model, self.tuner, towers, self.init_from, held)
            self.model.train()  # transformers hands models over in eval mode and Lightning leaves that as it is

    def setup(self, stage: str) -> None:
        """Join the ranks that hold rows together, now that all processes are there."""
        self.rows.join()

    @property
    def step_number(self) -> int:
        """Optimizer steps done before this one."""
        return self.trainer.global_step if self.replayed is None else self.replayed

    @property
    def built(self) -> nn.Module:
        """The model, once ``configure_model`` has run."""
        if self.model is None:
            raise RuntimeError("the model is not built yet; call configure_model() first")
        return self.model

    def saved_tensors(self) -> dict[str, Tensor]:
        """The weights that a checkpoint folder holds, by their names in its files.

        Where ranks hold parts of them all ranks call this, and the first has them whole.
        """
        return gathered(zero.whole(saved_tensors(self.built, self.built.state_dict(keep_vars=True))))

    def saved_bytes(self) -> int:
        """The size of ``saved_tensors()``, which any rank may ask for by itself."""
        return size_bytes(saved_tensors(self.built, self.built.state_dict(keep_vars=True)))

    def whole_weights(self) -> AbstractContextManager[None]:
        """Within the block each rank holds the whole model and may run it alone, as generating needs.

        Under ZeRO-3 a layer would wait for the other ranks, whose answers are of other lengths.
        """
        return zero.whole_weights(self.built)

    def save(self, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write ``saved_tensors()`` or an earlier copy of them, the processing files and ``qcvl.json``."""
        write_model(self.built, self.saved_tensors() if tensors is None else tensors, folder)
        self.processing.save(folder)
        write_contract(self.contract, folder)

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups, one per tower, way and decay."""
        return parameter_groups(
            self.built, self.tuner, self.stage, self.spec.lr_multiplier, self.optimizer_settings.weight_decay
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """The settings' optimizer over all groups, and its schedule in optimizer steps."""
        optimizer = self.optimizer_settings.setup(self.groups() + self.extra_groups())
        total_steps = int(self.trainer.estimated_stepping_batches)
        # The estimate made the train loader. Lightning restores a resumed loader's position only when it makes one
        # after reading the checkpoint, so it shall make it again.
        self.trainer.fit_loop._combined_loader = None
        schedule = self.scheduler_settings.setup(optimizer, total_steps)
        self.rank_course = self.tuner.rank_course(self.built, total_steps)
        if self.rank_course is not None and self._saved_ranks is not None:
            self.rank_course.load_state_dict(self._saved_ranks)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def extra_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of throw-away parts an objective trains beside the model."""
        return []

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over a batch: ``sft_sum`` by label kind, ``correct``, and what else the objective adds."""

    def combine(self, sums: dict[str, Tensor], labels: Tensor, cells: Tensor) -> Tensor:
        """The scalar to minimize, from sums and the step's counts by kind; autocast would round matrix products."""
        weights = self.token_weights.to(labels.dtype)
        return (weights * sums["sft_sum"].to(labels.dtype)).sum() / at_least_something((weights * labels).sum())

    def on_before_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Remember a batch where it is: on the host it costs the device nothing until its step is done."""
        self.handed, self.handed_to = batch, self.trainer.state.stage.value
        return batch

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Seed the step's draws (dropout) from (seed, rank, epoch, batch): a resumed run draws what it would have."""
        key = [self.seed, self.global_rank, self.current_epoch, batch_idx]
        self.draw_seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        torch.manual_seed(self.draw_seed)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        """One micro-batch's share of its optimizer step's loss.

        Returns ``sum / step count * world size * accumulation``: Lightning divides by the accumulation and
        DDP averages over ranks, so that a step's gradient is that of one mean over all its label tokens. The factor is
        the same where ranks hold a row together: each gives the sum over its own tokens, and the whole row's counts.
        """
        counts = torch.cat([batch["step_labels"], batch["step_cells"][None]]).to(self.device, torch.float64)
        if self.trainer.world_size > 1:
            counts = self.trainer.strategy.reduce(counts, reduce_op="sum") / self.rows.degree
        labels, cells = counts[:-1].float(), counts[-1].clamp(min=1).float()
        self._cells = float(counts[-1])
        batch = self.rows.share({**batch, "step_labels": labels})
        sums = self.losses(batch)
        loss = self.combine(sums, labels, cells)
        add(self._totals, {**sums, "loss": loss}, batch)
        self._step.append(MicroBatch(batch_index, self.draw_seed, self.handed, labels, cells, loss.detach()))
        return loss * (self.trainer.world_size * self.trainer.accumulate_grad_batches)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's loss, accuracy, gradient norms and rates, and leave it out where it is not finite.

        Raises:
            QcvlError: when a trainable tower gets no gradient at the first step, or steps keep being not finite.
        """
        if self.rank_course is not None:
            self.rank_course.add_penalty()
        totals, step = over_ranks(self._totals, self.trainer), self._step
        self._totals, self._step = {}, []
        logs = {f"train/{key}": value for key, value in self.means(totals).items()} | {"train/loss": totals["loss"]}
        logs |= self._gradient_norms(expected=bool(totals["labels"].sum()))
        values = [float(totals["loss"]), logs["train/grad_norm"]]
        where, keep = partial(samples_of, self, step), partial(keep_step, self, step)
        self.finite.look(optimizer, values, self.trainer.global_step, where, keep, loss_scale(self.trainer))
        for group in optimizer.param_groups:
            key = f"lr/{group['tower']}"
            logs[key] = max(logs.get(key, 0.0), group["lr"])
        if self.finite.total:
            logs["train/nonfinite_steps"] = self.finite.total
        self.log_dict({key: float(value) for key, value in logs.items()}, batch_size=1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimizer, then what follows from its gradients: the adapters' ranks, where they shrink."""
        super().optimizer_step(*args, **kwargs)
        if self.rank_course is not None and not self.finite.skipping:
            self.rank_course.after_step(self.trainer.global_step + 1)  # Lightning counts the step after this hook

    def means(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log values (without prefix) from summed totals: the weighted loss and the accuracy."""
        labels, weights = totals["labels"], self.token_weights.double()
        return {
            "sft_loss": weights @ totals["sft_sum"] / at_least_something(weights @ labels),
            "token_acc": totals["correct"] / labels.sum().clamp(min=1),
        }

    def _gradient_norms(self, expected: bool) -> dict[str, float]:
        norms = gradient_norms(self.built)
        if self.trainer.global_step == 0 and expected:
            require_gradients(norms, self.stage.number, images=self._cells > 0)
        total = sum(norm**2 for norm in norms.values()) ** 0.5
        return {"train/grad_norm": total} | {f"train/grad_norm/{tower}": norm for tower, norm in norms.items()}

    def on_validation_epoch_start(self) -> None:
        """Start the validation sums anew."""
        self._eval_totals = {}

    def validation_step(self, batch: dict[str, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        """Add one batch's sums; ranks may have different numbers of batches."""
        batch = self.rows.share(batch)
        add(self._eval_totals.setdefault(dataloader_idx, {}), self.losses(batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Log loss and accuracy over every label token of all sources and ranks, and of several sources each its own.

        The keys are ``eval/loss`` and ``eval/<name>/loss``; ``eval/sft_loss/coordinates`` and so on are plain means by
        label kind.
        """
        shares = gather_objects([{index: on_cpu(totals) for index, totals in self._eval_totals.items()}])
        names = self.trainer.datamodule.val_names()  # type: ignore[attr-defined]
        by_prefix = {"eval": summed([row for share in shares for row in share.values()], self.device)}
        if len(names) > 1:
            for index, name in enumerate(names):
                rows = [share[index] for share in shares if index in share]  # a rank without a batch of it has none
                by_prefix[f"eval/{name}"] = summed(rows, self.device)
        for prefix, totals in by_prefix.items():
            if totals:
                logs = self.means(totals) | by_kind(totals)
                logs["loss"] = self.combine(totals, totals["labels"], totals.get("cells", torch.ones(())))
                values = {f"{prefix}/{key}": value.float() for key, value in logs.items()}
                self.log_dict(values, batch_size=1, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a resumed run needs beside weights and optimizer: the course of ranks, the count of bad steps."""
        checkpoint["finite_steps"] = self.finite.state_dict()
        checkpoint["rank_course"] = None if self.rank_course is None else self.rank_course.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume where other parameters are trained: names that differ would silently keep their start.

        Raises:
            CheckpointError: naming the first difference.
        """
        of = f"step {checkpoint['global_step']}"
        require_same_tensors(checkpoint["state_dict"], self.state_dict(), setting="resume", of=of, remedy=AS_STARTED)
        self.finite.load_state_dict(checkpoint["finite_steps"])
        self._saved_ranks = checkpoint["rank_course"]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Trained parameters only: the base model is not part of a checkpoint's trainer state."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state = super().state_dict(*args, **kwargs | {"keep_vars": True})
        return zero.whole({name: value for name, value in state.items() if name in trained})
