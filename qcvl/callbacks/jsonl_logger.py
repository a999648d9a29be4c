"""``logging.jsonl``: one JSON object a logging step, with the same keys every tracker gets."""

import json
import math
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonlLogger(Logger):
    """Append each logged step to ``path``; values logged at one step by different hooks stand on separate lines.

    ``step`` counts optimizer steps from 0. A resumed run first cuts the rows it will write again (``cut_from``), so
    that the file reads as one run.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        """``"jsonl"``."""
        return "jsonl"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one line ``{"step": …, key: value, …}``, without values that are no numbers: JSON has no NaN."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are in ``config.yaml``; nothing is written here."""

    @rank_zero_only
    def cut_from(self, step: int, *, evaluated: bool = True) -> None:
        """Drop the rows of steps at or past ``step``: a resumed run writes them again.

        So it does with the evaluation after the last step before it, unless that was ``evaluated``.
        """
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [(json.loads(line), line) for line in lines if line.endswith("\n")]
            kept = [line for row, line in rows if (row["step"] or 0) < step]
            if not evaluated:
                kept = [line for line in kept if json.loads(line)["step"] != step - 1 or '"eval/' not in line]
            draft = self.path.with_suffix(".partial")
            draft.write_text("".join(kept), encoding="utf-8")
            os.replace(draft, self.path)

    @rank_zero_only
    def complete(self, row: Mapping[str, float], step: int) -> None:
        """Write the row of ``step`` unless it is there: a kill may come after a step is saved, before it is logged."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        rows = [json.loads(line) for line in lines]
        if not any(found["step"] == step and row.keys() <= found.keys() for found in rows):
            self.log_metrics(row, step)
