"""Scoring by generation during training, with pictures: what the loss cannot say."""

from collections.abc import Mapping
from pathlib import Path

import lightning.pytorch as pl

from qcvl.callbacks.expects import HoldsModel
from qcvl.callbacks.pictures import log_panels
from qcvl.data.datamodule import VLDataModule
from qcvl.inference.evaluator import Result, evaluate, log_keys
from qcvl.inference.hf import HFPredictor
from qcvl.inference.panels import write_panels
from qcvl.inference.settings import Generation, Tiles
from qcvl.inference.tiles import with_tiles


class GenerationEvaluation(pl.Callback):
    """Answer the validation budget after each validation and log ``eval/<name>/<metric>``.

    The items are dealt over the ranks and the answers gathered before scoring, so that the numbers are those of one
    process. With several sources ``eval/<metric>`` holds the same metrics over all of them.

    Args:
        generation: how answers are written.
        tiles: how photos are cut up (None: they are answered whole).
        limit: how many records of each source to answer (0: none, None: all).
        folder: where panels of truth and prediction go; W&B and TensorBoard get them too.
        panels: how many pictures to draw of each source, the same photos each time (0: none).
        remote_images: whether the panels may leave this machine, to a W&B run that is online.
    """

    def __init__(
        self,
        *,
        generation: Generation,
        tiles: Tiles | None,
        limit: int | None,
        folder: str,
        panels: int,
        remote_images: bool,
    ) -> None:
        self.generation, self.tiles, self.limit = generation, tiles, limit
        self.folder, self.panels, self.remote_images = Path(folder), panels, remote_images

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate, score, log and draw."""
        if self.limit == 0 or trainer.sanity_checking:
            return
        model = pl_module.model if isinstance(pl_module, HoldsModel) else None
        if model is None or not isinstance(trainer.datamodule, VLDataModule):
            raise TypeError("GenerationEvaluation needs a module with a model, and a VLDataModule")
        datamodule = trainer.datamodule
        whole = HFPredictor(model, datamodule.processing, self.generation)
        predictor = with_tiles(whole, self.tiles, datamodule.answer_format)
        with pl_module.whole_weights(), trainer.precision_plugin.val_step_context():  # Lightning's ends with the step
            results = evaluate(predictor, datamodule, self.limit)
        pl_module.log_dict(log_keys(results), batch_size=1, sync_dist=True)  # equal on all ranks already
        if self.panels and trainer.is_global_zero:
            self._show(trainer, results)

    def _show(self, trainer: pl.Trainer, results: Mapping[str, Result]) -> None:
        """Draw the first photos of each source, on disk and for the trackers."""
        assert isinstance(trainer.datamodule, VLDataModule)
        for name in filter(None, results):  # sources of which something was asked; "" is all together
            items = trainer.datamodule.evaluation_items(name, self.panels)
            folder = self.folder / f"step-{trainer.global_step}"
            panels = write_panels(folder, name, items, results[name].predictions)
            log_panels(trainer.loggers, name, panels, trainer.global_step, remote=self.remote_images)
