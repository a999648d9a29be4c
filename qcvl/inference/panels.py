"""Pictures of answers: truth and prediction side by side for the same photos each time, the worst first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcvl.data.datamodule import EvaluationItem
from qcvl.data.samples import load_photo
from qcvl.inference.evaluator import Prediction, truth_of
from qcvl.schema.records import Record
from qcvl.viz.compare import Comparison, compare, compare_panel, panel_text
from qcvl.viz.sheet import contact_sheet, save_png

SHEET_COLUMNS, SHEET_PX = 2, 960  # panels in a row of the sheet and their width: each shows a photo twice


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One photo of a record: its objects beside those of the dense answer ``prediction``.

    ``name`` (``val-0003``, with several photos ``val-0003-1``) is the same in every evaluation; ``where`` says where
    the record stands; ``picture`` is uint8 ``[h, w, 3]`` and ``text`` the same in words.
    """

    name: str
    where: str
    prediction: Prediction
    comparison: Comparison
    picture: np.ndarray
    text: str

    @property
    def badness(self) -> tuple[int, float, str, int, str]:
        """Sorts the worst first: most errors, then lowest F1, then the order of the records."""
        counts, prediction = self.comparison.counts, self.prediction
        return -self.comparison.errors, counts.f1, prediction.source, prediction.index, self.name


def write_panels(
    folder: Path, name: str, items: Sequence[EvaluationItem], predictions: Iterable[Prediction]
) -> list[Panel]:
    """Draw the dense answers to ``items`` of source ``name``; returns the panels, worst first.

    Writes ``<name>-<record number>.png`` and ``.txt`` for each photo and, where there is one, ``sheet-<name>.png`` with
    all of them, worst first.
    """
    answers = {(p.source, p.index): p for p in predictions if p.task == "dense"}
    answered = [item for item in items if item.task == "dense" and (name, item.index) in answers]
    drawn = (draw_panels(item.record, answers[name, item.index]) for item in answered)
    panels = worst_first(panel for record in drawn for panel in record)
    for panel in panels:
        save_panel(folder, panel)
    if panels:
        save_png(folder / f"sheet-{name}.png", sheet(panels))
    return panels


def draw_panels(record: Record, prediction: Prediction) -> list[Panel]:
    """One panel a photo that was answered about: its objects beside those of a dense answer.

    Of a photo and its template that the model saw as one, the photo is drawn.
    """
    truth, found = truth_of(record, prediction.sizes), prediction.answer.annotations
    panels = []
    for number, size in enumerate(prediction.sizes):
        image = load_photo(record, number)
        suffix = f"-{number}" if len(prediction.sizes) > 1 else ""
        name = f"{prediction.source}-{prediction.index:04d}{suffix}"
        caption = f"{prediction.source} {prediction.index}: {prediction.answer.status}"
        comparison = compare(truth, found, size, image_index=number)
        picture, text = compare_panel(image, comparison, caption), panel_text(comparison, caption)
        panels.append(Panel(name, record.where, prediction, comparison, picture, text))
    return panels


def worst_first(panels: Iterable[Panel]) -> list[Panel]:
    """Panels by falling count of errors (misses, false alarms and duplicates), rising F1 and rising record number."""
    return sorted(panels, key=lambda panel: panel.badness)


def sheet(panels: Sequence[Panel]) -> np.ndarray:
    """All panels on one contact sheet in their order, uint8 ``[H, W, 3]``."""
    return contact_sheet([panel.picture for panel in panels], columns=SHEET_COLUMNS, width=SHEET_PX)


def save_panel(folder: Path, panel: Panel) -> Path:
    """Write the picture and, beside it, its text; returns the picture's path."""
    path = save_png(folder / f"{panel.name}.png", panel.picture)
    path.with_suffix(".txt").write_text(panel.text, encoding="utf-8")
    return path
