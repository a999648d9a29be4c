"""Samples that training left out because they cannot be read: counted over all ranks, named in a file, and a bound."""

import json
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from qcvl.errors import DataError
from qcvl.log import get_logger

log = get_logger(__name__)


class BadSamples(pl.Callback):
    """Write each left-out sample to ``path``, log their number, and stop past ``max_fraction`` of an epoch's samples.

    Of a stream, a block takes the place of an epoch.
    A line of ``path`` is ``{"step", "epoch", "where", "problem"}``, ``step`` as in ``logging.jsonl``. The number
    (``data/bad_samples``: of the run so far, on all ranks) goes on where a resumed run was.
    """

    def __init__(self, path: str, max_fraction: float) -> None:
        self.path, self.max_fraction = Path(path), max_fraction
        self.total = self.in_epoch = self.epoch = 0
        self._unreduced, self._stepped = 0, -1

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Name what this micro-batch lacks."""
        # Ranks that hold a row together lack the same samples of it.
        bad = batch.get("bad", ()) if pl_module.global_rank % pl_module.rows.degree == 0 else ()
        if bad:
            place = {"step": trainer.global_step, "epoch": trainer.current_epoch}
            _append(self.path, [{**place, **sample} for sample in bad])
            for sample in bad:
                log.warning("left out: %s", sample["problem"])
        self._unreduced += len(bad)
        self._stepped = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count once an optimizer step; every rank comes to the same numbers, and to the same end.

        Raises:
            DataError: past ``max_fraction``.
        """
        if not self.max_fraction or trainer.global_step == self._stepped:
            return
        part = trainer.train_dataloader.part
        if part.number != self.epoch:
            self.epoch, self.in_epoch = part.number, 0
        found = torch.tensor(self._unreduced, device=pl_module.device)
        new = int(trainer.strategy.reduce(found, reduce_op="sum")) if trainer.world_size > 1 else self._unreduced
        self._unreduced = 0
        self.total, self.in_epoch = self.total + new, self.in_epoch + new
        pl_module.log("data/bad_samples", float(self.total), batch_size=1)
        if self.in_epoch > self.max_fraction * part.samples:
            raise DataError(
                f"{self.in_epoch} of the {part.samples} samples of {part.kind} {part.number} cannot be used, more than "
                f"data.max_bad_fraction={self.max_fraction:g}; {self.path} names each: repair them or leave them out"
            )

    def state_dict(self) -> dict[str, int]:
        """The counts of the run and of its current epoch (or block)."""
        return {"total": self.total, "in_epoch": self.in_epoch, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Count on from where a run was saved."""
        self.total, self.in_epoch, self.epoch = (state_dict[name] for name in ("total", "in_epoch", "epoch"))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drop the lines of steps that the resumed run does again."""
        if trainer.is_global_zero and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] < checkpoint["global_step"]
            ]
            draft = self.path.with_suffix(".partial")
            draft.write_text("".join(kept), encoding="utf-8")
            os.replace(draft, self.path)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add lines in one write: several ranks may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with path.open("ab", buffering=0) as file:
        file.write(text.encode())
