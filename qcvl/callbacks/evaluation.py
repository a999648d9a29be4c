"""Scoring by generation during training, with pictures: what the loss cannot say."""

from pathlib import Path

import lightning.pytorch as pl

from qcvl.callbacks.expects import HoldsModel
from qcvl.data.datamodule import VLDataModule
from qcvl.inference.evaluator import evaluate, log_keys
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
        folder: where overlays of truth and prediction go.
        panels: how many pictures to draw of each source, the same photos each time (0: none).
    """

    def __init__(
        self, *, generation: Generation, tiles: Tiles | None, limit: int | None, folder: str, panels: int
    ) -> None:
        self.generation, self.tiles, self.limit = generation, tiles, limit
        self.folder, self.panels = Path(folder), panels

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
        results = evaluate(predictor, datamodule, self.limit)
        pl_module.log_dict(log_keys(results), batch_size=1, sync_dist=True)  # equal on all ranks already
        if self.panels and trainer.is_global_zero:
            for name, result in results.items():
                items = datamodule.evaluation_items(name, self.panels) if name else []
                write_panels(self.folder / f"step-{trainer.global_step}", name, items, result.predictions)
