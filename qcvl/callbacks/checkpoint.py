"""Checkpoint folders: written whole or not at all, loadable by plain transformers + peft, resumable by Lightning."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from qcvl.callbacks.jsonl_logger import JsonlLogger
from qcvl.callbacks.moment import Moment, expected_bytes, moment, saving_module
from qcvl.callbacks.stopping import Stopped, StopRequest
from qcvl.callbacks.training_state import (
    ROW,
    awaits_validation,
    capture,
    capture_before_validation,
    recount,
    unmark,
)
from qcvl.checkpoints.folder import set_aside_after, steps_in
from qcvl.checkpoints.keeping import Best, Mode, Ranking
from qcvl.checkpoints.snapshot import host_copy, size_bytes
from qcvl.checkpoints.writer import FolderWriter
from qcvl.errors import ConfigError

TRAINER_STATE = "trainer/state.ckpt"  # Lightning's own state, inside a checkpoint folder


class HFCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, writing ``step-N`` folders with ``last`` and ``best`` as relative links.

    A folder holds the Hugging Face or PEFT files of what was trained, the processing files, ``qcvl.json`` and
    ``trainer/state.ckpt``. It saves at each interval and at the end whatever the metric says, so that ``last`` is last;
    and after a validation that is the best so far. SIGTERM and SIGUSR1 make it save and exit with 143.

    Args:
        dirpath: where the step folders are.
        monitor: the metric of ``best``; None: there is no best.
        mode: whether the smallest (``min``) or largest (``max``) value is best.
        save_top_k: how many of the best stay; -1 keeps every folder, 0 none but the last.
        keep_last: how many of the newest stay beside them.
        also_best: further links: ``{f1: {monitor: eval/dense_f1@0.5, mode: max}}`` makes ``best_f1``.
        save_last: whether to save at intervals and at the end at all.
        every_n_train_steps: optimizer steps between saves; wins over ``every_n_epochs``.
        every_n_epochs: epochs between saves.
        save_delay_steps: nothing is saved or best before that many steps, but for what a run ends or is stopped with.
        save_delay_epochs: the same in epochs; the later of both counts.
        save_async: write from a copy in host memory while training goes on.
    """

    FILE_EXTENSION = ""

    def __init__(
        self,
        *,
        dirpath: str,
        monitor: str | None = None,
        mode: Mode = "min",
        save_top_k: int = 1,
        keep_last: int = 1,
        also_best: Mapping[str, Best] | None = None,
        save_last: bool = True,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        save_delay_steps: int = 0,
        save_delay_epochs: float = 0,
        save_async: bool = True,
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k if monitor else min(save_top_k, 1),
            save_last=save_last,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=None if every_n_train_steps else every_n_epochs,
            enable_version_counter=False,
        )
        if keep_last < 1:
            raise ConfigError(f"keep_last: {keep_last}; the last step folder stays in any case, give 1 or more")
        self.save_delay_steps, self.save_delay_epochs = save_delay_steps, save_delay_epochs
        self.rankings = {"best": Ranking(monitor, mode, save_top_k)} if monitor else {}
        self.rankings |= {f"best_{name}": Ranking(b["monitor"], b["mode"], 1) for name, b in (also_best or {}).items()}
        self.stop = StopRequest()
        self.writer = FolderWriter(Path(str(self.dirpath)), keep_last, background=save_async)
        self._unvalidated: Moment | None = None  # before a validation that may be interrupted

    @property
    def state_key(self) -> str:
        """One name, so that a run may go on with other intervals or metrics."""
        return "HFCheckpoint"

    def state_dict(self) -> dict[str, Any]:
        """The scores of the best steps, by link."""
        return {"rankings": {name: ranking.state() for name, ranking in self.rankings.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the scores of the resumed run."""
        for name, state in state_dict["rankings"].items():
            if name in self.rankings:
                self.rankings[name].restore(state)

    def delayed(self, trainer: pl.Trainer) -> bool:
        """Whether nothing is to be saved or called best yet."""
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return trainer.global_step < max(self.save_delay_steps, self.save_delay_epochs * steps_per_epoch)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Cut ``logging.jsonl`` to the resumed step: it ends with that step's row, later ones will be written again."""
        for logger in trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.cut_from(checkpoint["global_step"], evaluated=not awaits_validation(checkpoint))
                if ROW in checkpoint and checkpoint["global_step"] % trainer.log_every_n_steps == 0:
                    logger.complete(checkpoint[ROW], checkpoint["global_step"] - 1)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the disk has room for what the run will save; count a resumed epoch in this run's batches."""
        resumed = trainer._checkpoint_connector._loaded_checkpoint
        if resumed and trainer.state.fn == TrainerFn.FITTING:
            recount(resumed, trainer.accumulate_grad_batches, int(trainer.num_training_batches))
        if not trainer.fast_dev_run and trainer.is_global_zero:
            self.writer.require_space(expected_bytes(saving_module(pl_module)), self.rankings)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the resumed step's folder: later ones, which this run will write again, are set aside."""
        self.stop.listen(at_once=False)
        self._last_global_step_saved = trainer.global_step
        if trainer.fast_dev_run:
            return
        if trainer.is_global_zero:
            set_aside_after(self.writer.folder, trainer.global_step)
        there = trainer.strategy.broadcast(set(steps_in(self.writer.folder)))
        for ranking in self.rankings.values():
            ranking.forget(there)
        if trainer.global_step in there:
            self.last_model_path = str(self.writer.path(trainer.global_step))
            if trainer.is_global_zero:
                self.writer.arrange(trainer.global_step, self.rankings)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Number rows by optimizer steps: after a validation at ``max_steps`` Lightning would go on one short."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_n_train_steps`` and at ``max_steps``; if a validation comes next, after it."""
        if trainer.fit_loop._should_accumulate():
            return
        validates = trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        steps = self._every_n_train_steps
        due = trainer.global_step == trainer.max_steps or (
            steps > 0 and trainer.global_step % steps == 0 and not self.delayed(trainer)
        )
        if due and not self._should_skip_saving_checkpoint(trainer):
            if validates:
                self._defer_save_until_validation = True
            elif self.save_last:
                self._save(trainer)
        if not validates:
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a signal break the validation off, which may outlast a stopped run's time: it is done on resuming."""
        if trainer.sanity_checking or trainer.fast_dev_run:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            self.stop.listen(at_once=True)
            if trainer.global_step == 0:  # the evaluation before training, which may take long
                self.on_fit_start(trainer, pl_module)
            return
        unmark(trainer)
        self._unvalidated = moment(trainer, capture_before_validation(trainer))
        self._stop_if_asked(trainer)
        self.stop.at_once = trainer.is_global_zero

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on the validation counts."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.stop.at_once = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was just evaluated; not at the epoch's end, or a run stopped in mid epoch would skip its rest."""
        if trainer.sanity_checking:
            return
        self._require_metrics(trainer)
        self._unvalidated = None
        if trainer.state.fn == TrainerFn.FITTING and not trainer.fast_dev_run:
            self._save_evaluated(trainer)
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save each epoch of a run that has nothing to validate on."""
        if not sum(trainer.num_val_batches) and not trainer.fast_dev_run:
            self._save_evaluated(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the weights that the run ends with."""
        if trainer.global_step and not trainer.fast_dev_run:
            if self.save_last:
                self._save(trainer)
            self.writer.finish()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save a run that is stopped within a validation as it was before; let a folder be finished in any case."""
        if isinstance(exception, Stopped) and self._unvalidated is not None and trainer.is_global_zero:
            if self._last_global_step_saved != trainer.global_step:
                self._write(trainer, self._unvalidated)
            self.writer.finish()
            self.stop.tell(trainer, self.last_model_path)
        else:
            self.writer.wait()

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Save, wait until it is on disk, and end the run."""
        if not self.stop.wanted(trainer):
            return
        if self._last_global_step_saved != trainer.global_step:
            self._write(trainer, self._unvalidated or moment(trainer, capture(trainer)))
        self._unvalidated = None
        self.writer.finish()
        trainer.strategy.barrier("HFCheckpoint")  # the ranks end together
        self.stop.tell(trainer, self.last_model_path)
        raise Stopped

    def _require_metrics(self, trainer: pl.Trainer) -> None:
        """Refuse a metric that no validation logs, at the first of them; not one that this rank alone lacks."""
        logged = sorted(key for key in trainer.callback_metrics if key.startswith("eval/"))
        for name, ranking in self.rankings.items():
            if ranking.monitor not in trainer.callback_metrics:
                raise ConfigError(
                    f"callbacks.checkpoint: checkpoints/{name} follows {ranking.monitor}, which no validation logs; "
                    f"it may follow {', '.join(logged)}"
                )

    def _save_evaluated(self, trainer: pl.Trainer) -> None:
        """Rank the step by what was evaluated, and save it where it is due or among the best."""
        every = self._every_n_epochs
        due = self._defer_save_until_validation or (every > 0 and (trainer.current_epoch + 1) % every == 0)
        self._defer_save_until_validation = False
        if self.delayed(trainer):
            return
        step, metrics = trainer.global_step, trainer.callback_metrics
        ranked = [r.offer(step, float(metrics[r.monitor])) for r in self.rankings.values() if r.monitor in metrics]
        if any(ranked) or (due and self.save_last):
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if self._last_global_step_saved != trainer.global_step:
            self._write(trainer, moment(trainer, capture(trainer)))
        elif trainer.is_global_zero:  # by an earlier rule, or it was resumed from: but the best may be others now
            self.writer.finish()
            self.writer.arrange(trainer.global_step, self.rankings)

    def _write(self, trainer: pl.Trainer, taken: Moment) -> None:
        """Write one folder: into ``step-N.partial``, then a manifest, fsync and rename (by rank 0)."""
        module, step = saving_module(trainer.lightning_module), trainer.global_step
        self._last_global_step_saved, self.last_model_path = step, str(self.writer.path(step))
        self._last_checkpoint_saved = self.last_model_path
        if (best := self._best()) is not None:
            self.best_model_path = str(self.writer.path(best))
            self.best_model_score = torch.tensor(self.rankings["best"].scores[best])
        if not trainer.is_global_zero:
            return
        self.writer.finish()  # two copies at once could be too much for the host's memory
        tensors, state = taken
        if self.writer.background:
            tensors, state = host_copy((tensors, state))
        saving = trainer.strategy.save_checkpoint

        def fill(folder: Path) -> None:
            module.save(folder, tensors)
            (folder / TRAINER_STATE).parent.mkdir()
            saving(state, folder / TRAINER_STATE)

        self.writer.write(step, fill, size_bytes((tensors, state)), copy.deepcopy(self.rankings))

    def _best(self) -> int | None:
        return self.rankings["best"].best if "best" in self.rankings else None
