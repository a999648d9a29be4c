"""Where the time of a few training steps goes, operation by operation, for a look in a browser and as a table."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

ROWS = 40  # of the table: the most expensive operations


class Profile(pl.Callback):
    """Profile ``steps`` batches after ``skip`` others, and write two files into ``folder``.

    ``trace.json`` opens in https://ui.perfetto.dev or chrome://tracing; ``operations.txt`` lists the operations that
    took most of the device's own time. Rank 0 alone is looked at. The last skipped batch warms the profiler up.
    """

    def __init__(self, *, folder: str, skip: int, steps: int) -> None:
        if skip < 1 or steps < 1:
            raise ValueError(f"callbacks.profile: skip={skip} and steps={steps}; expected at least 1 of each")
        self.folder, self.skip, self.steps = Path(folder), skip, steps
        self._profiler: profile | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the first batch that counts."""
        if trainer.is_global_zero:
            plan = schedule(wait=self.skip - 1, warmup=1, active=self.steps, repeat=1)
            self._profiler = profile(schedule=plan, on_trace_ready=self._write, record_shapes=True)
            self._profiler.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch further."""
        if self._profiler is not None:
            self._profiler.step()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run shorter than asked for leaves what there is."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / "trace.json"))
        device = "cuda" if ProfilerActivity.CUDA in supported_activities() else "cpu"
        table = profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=ROWS)
        (self.folder / "operations.txt").write_text(table + "\n", encoding="utf-8")
