"""Checkpoint folders: written whole or not at all, loadable by plain transformers + peft, resumable by Lightning."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from qcvl.callbacks.expects import SavesItself
from qcvl.callbacks.jsonl_logger import JsonlLogger
from qcvl.checkpoints.folder import link, set_aside_after, write_checkpoint

TRAINER_STATE = "trainer/state.ckpt"  # Lightning's own state, inside a checkpoint folder
ROW = "qcvl_row"  # in that state: what the checkpoint's step logged


class HFCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, writing ``step-N`` folders with ``last`` and ``best`` as relative links.

    A folder holds the Hugging Face or PEFT files of what was trained, the processing files, ``qcvl.json`` and
    ``trainer/state.ckpt``. The arguments are ModelCheckpoint's, but the names of the folders are fixed and
    ``every_n_train_steps`` wins over ``every_n_epochs``. What differs is when it saves: at each interval and at the end
    whatever the metric says, so that ``last`` is last; and after a validation that is the best so far.
    """

    FILE_EXTENSION = ""

    def __init__(
        self, *, every_n_train_steps: int | None = None, every_n_epochs: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(
            filename="step-{step}",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=None if every_n_train_steps else every_n_epochs,
            **kwargs,
        )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Cut ``logging.jsonl`` to the resumed step: it ends with that step's row, later ones will be written again."""
        for logger in trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.cut_from(checkpoint["global_step"])
                if ROW in checkpoint and checkpoint["global_step"] % trainer.log_every_n_steps == 0:
                    logger.complete(checkpoint[ROW], checkpoint["global_step"] - 1)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on from the resumed step's folder: later ones, which this run will write again, are set aside."""
        super().on_train_start(trainer, pl_module)
        self._last_global_step_saved = trainer.global_step
        if trainer.is_global_zero and not trainer.fast_dev_run:
            set_aside_after(Path(self.dirpath), trainer.global_step)
        folder = self._folder(trainer)
        if folder.is_dir():
            self.last_model_path = str(folder)
            if trainer.is_global_zero and self.save_last:
                link(folder.parent / "last", folder)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Number rows by optimizer steps: after a validation at ``max_steps`` Lightning would go on one short."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save every ``every_n_train_steps`` and at ``max_steps``; if a validation comes next, after it."""
        steps = self._every_n_train_steps
        due = trainer.global_step == trainer.max_steps or (steps > 0 and trainer.global_step % steps == 0)
        if not due or self._should_skip_saving_checkpoint(trainer):
            return
        if trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
            self._defer_save_until_validation = True
        else:
            self._save_last_checkpoint(trainer, {})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what was just evaluated; not at the epoch's end, or a run stopped in mid epoch would skip its rest."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._save_evaluated(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save each epoch of a run that has nothing to validate on."""
        if not sum(trainer.num_val_batches):
            self._save_evaluated(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the weights that the run ends with."""
        if trainer.global_step and not trainer.fast_dev_run:
            self._save_last_checkpoint(trainer, {})

    def _save_evaluated(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run or trainer.sanity_checking:
            return
        every = self._every_n_epochs
        due = self._defer_save_until_validation or (every > 0 and (trainer.current_epoch + 1) % every == 0)
        self._defer_save_until_validation = False
        candidates = self._monitor_candidates(trainer)
        if self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
        if due or self._last_global_step_saved == trainer.global_step:
            self._save_last_checkpoint(trainer, candidates)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        """Write one folder: into ``step-N.partial``, then a manifest, fsync and rename (rank 0; others wait)."""
        if self._last_global_step_saved == trainer.global_step:
            return
        module = trainer.lightning_module
        if not isinstance(module, SavesItself):
            raise TypeError(f"HFCheckpoint needs a module with save(folder); {type(module).__name__} has none")

        state = trainer._checkpoint_connector.dump_checkpoint(self.save_weights_only)
        # Loggers get the step's row after the step's checkpoint; a kill between the two shall not lose it.
        row = {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("eval/")}
        state[ROW] = row | {"epoch": float(trainer.current_epoch)}
        if trainer.is_global_zero:

            def write(folder: Path) -> None:
                module.save(folder)
                (folder / TRAINER_STATE).parent.mkdir()
                trainer.strategy.save_checkpoint(state, folder / TRAINER_STATE)

            write_checkpoint(Path(filepath), write)
        trainer.strategy.barrier("HFCheckpoint")
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        best = Path(self.best_model_path)
        if self.best_model_path and best.is_dir() and trainer.is_global_zero:
            link(best.parent / "best", best)

    def _save_last_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        """Write this step's folder if no other rule did, and point ``last`` at it; the former last one may go."""
        if not self.save_last:
            return
        folder = self._folder(trainer)
        previous, self.last_model_path = self.last_model_path, str(folder)  # part of the state that is written
        self._save_checkpoint(trainer, str(folder))
        if trainer.is_global_zero:
            link(folder.parent / "last", folder)
        may_go = previous and previous not in self.best_k_models and self.save_top_k != -1
        if may_go and self._should_remove_checkpoint(trainer, previous, str(folder)):
            self._remove_checkpoint(trainer, previous)

    def _should_remove_checkpoint(self, trainer: pl.Trainer, previous: str, current: str) -> bool:
        """A folder that is no longer among the best stays while it is the last."""
        return previous != self.last_model_path and super()._should_remove_checkpoint(trainer, previous, current)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.dirpath) / f"step-{trainer.global_step}"
