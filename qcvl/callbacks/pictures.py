"""Panels for the trackers that take pictures: Weights & Biases as a table, TensorBoard as images."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from qcvl.inference.panels import Panel, sheet

COLUMNS = ("record", "picture", "misses", "false alarms", "duplicates", "F1", "status", "answer")


def log_panels(loggers: Iterable[Logger], name: str, panels: Sequence[Panel], step: int, *, remote: bool) -> None:
    """Show the panels of one source, worst first, under ``eval/<name>/panels``.

    W&B gets a table with a row a photo; TensorBoard the sheet, and each photo under a tag of its own
    (``eval/<name>/panels/<panel name>``), which stays the same from step to step. Other trackers are left alone.
    """
    if not panels:
        return
    key = f"eval/{name}/panels"
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            pictures = {key: sheet(panels)} | {f"{key}/{panel.name}": panel.picture for panel in panels}
            for tag, picture in pictures.items():
                logger.experiment.add_image(tag, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger) and (remote or logger.experiment.offline):
            with _kept_in(Path(logger.experiment.dir).parent):
                logger.log_table(key, list(COLUMNS), [_row(panel) for panel in panels], step=step)


def _row(panel: Panel) -> list:
    """What the W&B table says about one photo, by ``COLUMNS``."""
    from wandb import Image

    comparison, prediction = panel.comparison, panel.prediction
    errors = [comparison.count(outcome) for outcome in ("missed", "false alarm", "duplicate")]
    return [panel.where, Image(panel.picture), *errors, comparison.counts.f1, prediction.answer.status, prediction.text]


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Let W&B keep a table's pictures in ``folder`` until they are uploaded.

    Unless told otherwise it puts them into the user's home, where an offline run would leave them for ever.
    """
    before = os.environ.get("WANDB_DATA_DIR")
    os.environ["WANDB_DATA_DIR"] = before or str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_DATA_DIR"]
