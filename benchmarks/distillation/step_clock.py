"""What an optimizer step costs: a callback that the runs of ``compare.py`` add to their own."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

FIRST_STEPS = 3  # are not counted: they allocate and load


class StepClock(pl.Callback):
    """Writes the mean processor seconds of a step (forward, backward, optimizer; no loading) to ``path``."""

    def __init__(self, path: str) -> None:
        self.path, self.seconds, self.start = Path(path), [], 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.process_time() - self.start)

    def on_fit_end(self, *_: Any) -> None:
        counted = self.seconds[FIRST_STEPS:] or self.seconds
        self.path.write_text(json.dumps({"step_seconds": sum(counted) / len(counted)}))
