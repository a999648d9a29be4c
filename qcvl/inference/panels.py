"""Pictures of answers: truth and prediction side by side for the same photos each time."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from qcvl.data.datamodule import EvaluationItem
from qcvl.data.samples import build_sample
from qcvl.inference.evaluator import Prediction, truth_of
from qcvl.schema.records import Record
from qcvl.viz.compare import compare_panel
from qcvl.viz.sheet import save_png


def write_panels(
    folder: Path, name: str, items: Sequence[EvaluationItem], predictions: Iterable[Prediction]
) -> list[Path]:
    """Draw the dense answers to ``items``, one PNG each: ``<folder>/<name>-<record number>.png``."""
    answers = {(p.source, p.index): p for p in predictions if p.task == "dense"}
    paths = []
    for item in items:
        prediction = answers.get((name, item.index))
        if item.task != "dense" or prediction is None:
            continue
        panels = draw_panels(item.record, prediction)
        for number, panel in enumerate(panels):
            suffix = f"-{number}" if len(panels) > 1 else ""
            paths.append(save_png(folder / f"{name}-{item.index:04d}{suffix}.png", panel))
    return paths


def draw_panels(record: Record, prediction: Prediction) -> list[np.ndarray]:
    """One picture a photo of the record, uint8 ``[h, w, 3]``: its objects beside those of a dense answer."""
    truth = truth_of(record, prediction.sizes)
    caption = f"{prediction.source} {prediction.index}: {prediction.answer.status}"
    return [
        compare_panel(image, truth, prediction.answer.annotations, caption, image_index=number)
        for number, image in enumerate(build_sample(record, "dense").images)
    ]
