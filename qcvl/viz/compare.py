"""Truth beside prediction: one number and colour per object, errors drawn and listed so that they are seen first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.matching import OVERLAP_DECIMALS, match, overlaps
from qcvl.schema.types import Annotation
from qcvl.viz.draw import Style, draw_annotations
from qcvl.viz.fonts import Typeface, default_typeface, one_line
from qcvl.viz.sheet import MARGIN_PX, grid
from qcvl.viz.text import FAINT, PAPER, TextLine, text_block

Outcome = Literal["found", "missed", "false alarm", "duplicate"]

# Bluish green, orange, vermilion and blue of Okabe and Ito: apart for any colour vision; strokes tell them apart in
# grey, where the two that are dashed lie on different sides.
STYLES: dict[Outcome, Style] = {
    "found": Style((0, 158, 115)),
    "missed": Style((240, 165, 0), "dashed"),
    "false alarm": Style((213, 74, 0), "dashed"),
    "duplicate": Style((0, 114, 178), "dotted"),
}
MIN_SIDE_PX, MAX_SIDE_PX = 320, 1024  # shorter and longer side of a picture in a panel
TEXT_SHARE, TEXT_PX = 1 / 32, (14, 22)  # em height of headings and legends as a share of a picture's width; its bounds
MAX_LEGEND = 20  # entries a side; the text beside the picture lists all


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a comparison; a true object, the prediction that found it and its duplicates share ``number``."""

    number: int
    annotation: Annotation
    outcome: Outcome
    overlap: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What of one photo was found, missed, invented and told twice, in the order of the record and of the answer."""

    truth: tuple[Entry, ...]
    predicted: tuple[Entry, ...]

    def count(self, outcome: Outcome) -> int:
        """How many objects of the photo are ``outcome``; found ones count once."""
        side = self.truth if outcome in ("found", "missed") else self.predicted
        return sum(entry.outcome == outcome for entry in side)

    @property
    def counts(self) -> DetectionCounts:
        """Found, invented and missed as scores count them: a duplicate is a false alarm there."""
        invented = self.count("false alarm") + self.count("duplicate")
        return DetectionCounts(tp=self.count("found"), fp=invented, fn=self.count("missed"))

    @property
    def errors(self) -> int:
        """Misses, false alarms and duplicates."""
        return self.counts.fp + self.counts.fn

    @property
    def sides(self) -> tuple[tuple[str, str, tuple[Entry, ...]], ...]:
        """Name, title and entries of both sides; a title is for instance ``4 objects: 3 found, 1 missed``."""
        return (
            ("truth", _title(self.truth, ("found", "missed")), self.truth),
            ("prediction", _title(self.predicted, ("found", "false alarm", "duplicate")), self.predicted),
        )


def compare(
    truth: Sequence[Annotation],
    predicted: Sequence[Annotation],
    size_wh: tuple[int, int],
    *,
    image_index: int = 0,
    threshold: float = 0.5,
) -> Comparison:
    """Match the objects of one image ``(width, height)`` of a record by desc and overlap >= ``threshold``.

    True objects are numbered from 1 in their order; a prediction that matches takes its object's number. One that is
    left over is a duplicate where it overlaps, by >= ``threshold``, an object of its desc (which another prediction
    took, or it would have matched) and has that object's number; the false alarms go on counting.
    """
    objects, answers = ([replace(a, image=0) for a in side if a.image == image_index] for side in (truth, predicted))
    table = overlaps(objects, answers, [size_wh])
    matches = match(objects, answers, threshold, table)
    found = {j: i for i, j in matches.pairs}
    left = tuple(Entry(i + 1, a, "missed" if i in matches.misses else "found") for i, a in enumerate(objects))
    right, number = [], len(objects)
    for j, answer in enumerate(answers):
        taken = found.get(j, _repeated(objects, answer, table[:, j], threshold))
        if taken is None:
            number += 1
            right.append(Entry(number, answer, "false alarm"))
        else:
            outcome: Outcome = "found" if j in found else "duplicate"
            right.append(Entry(taken + 1, answer, outcome, float(table[taken, j])))
    return Comparison(left, tuple(right))


def _repeated(objects: Sequence[Annotation], answer: Annotation, overlap: np.ndarray, threshold: float) -> int | None:
    """The object of the answer's desc that it overlaps ``[T]`` most, from ``threshold`` on; None when there is none."""
    rounded = np.round(overlap, OVERLAP_DECIMALS)
    near = [i for i, a in enumerate(objects) if a.desc == answer.desc and rounded[i] > 0 and rounded[i] >= threshold]
    return max(near, key=rounded.__getitem__, default=None)


def compare_panel(
    image: np.ndarray, comparison: Comparison, caption: str = "", *, typeface: Typeface | None = None
) -> np.ndarray:
    """Truth (left) and prediction (right) of one photo with titles, counts and legends, uint8 ``[h, w, 3]``.

    Found objects are green on both sides, missed ones dashed orange, false alarms dashed vermilion, duplicates dotted
    blue. Small photos are enlarged until their shorter side has 320 px, as far as the longer one stays within 1024 px;
    larger ones shrink.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        comparison: its objects and those of an answer, in px of the photo.
        caption: a heading over both, wrapped.
        typeface: writes the texts; the machine's best when not given.
    """
    typeface = typeface or default_typeface()
    height, width = image.shape[:2]
    scale = min(max(1.0, MIN_SIDE_PX / min(width, height)), MAX_SIDE_PX / max(width, height))
    size = int(np.clip(round(width * scale * TEXT_SHARE), *TEXT_PX))
    left, right = (
        _column(image, entries, TextLine(name, remark=title, bold=True), size, scale, typeface)
        for name, title, entries in comparison.sides
    )
    body = _beside(left, right)
    if caption:
        body = np.vstack([text_block([TextLine(caption)], body.shape[1], size, typeface), _gap(body.shape[1]), body])
    return grid([body], columns=1)


def panel_text(comparison: Comparison, caption: str = "") -> str:
    """The panel in words, one object a line; goes beside the PNG, where machines without a font and grep find it."""
    lines = [caption] if caption else []
    for name, title, entries in comparison.sides:
        lines.append(f"{name}: {title}")
        for entry in entries:
            points = " ".join(f"{value:.1f}" for value in entry.annotation.shape.points.ravel())
            kind, desc = entry.annotation.shape.kind, one_line(entry.annotation.desc)
            lines.append(f"  {entry.number}  {desc}  [{_remark(entry)}]  {kind} {points}")
    return "\n".join(lines) + "\n"


def _column(
    image: np.ndarray, entries: Sequence[Entry], title: TextLine, size: int, scale: float, typeface: Typeface
) -> np.ndarray:
    """Title, picture and legend of one side, uint8 ``[h, w, 3]``."""
    picture = draw_annotations(
        image,
        [entry.annotation for entry in entries],
        labels=[str(entry.number) for entry in entries],
        styles=[STYLES[entry.outcome] for entry in entries],
        scale=scale,
        typeface=typeface,
    )
    width = max(picture.shape[1], MIN_SIDE_PX)  # room for the texts beside a narrow picture
    picture = _on_paper(picture, picture.shape[0], width)
    legend = text_block(_legend(entries), width, size, typeface)
    return np.vstack([text_block([title], width, size, typeface), _gap(width), picture, _gap(width), legend])


def _legend(entries: Sequence[Entry]) -> list[TextLine]:
    """Number, desc and outcome of each object; errors come first where there are too many to list."""
    listed = entries
    if len(entries) > MAX_LEGEND:
        listed = sorted(entries, key=lambda entry: entry.outcome == "found")[:MAX_LEGEND]
    lines = [
        TextLine(entry.annotation.desc, str(entry.number), STYLES[entry.outcome].color, _remark(entry))
        for entry in listed
    ]
    left_out = len(entries) - len(listed)
    return [*lines, TextLine(f"and {left_out} more", color=FAINT)] if left_out else lines


def _remark(entry: Entry) -> str:
    if entry.overlap is None:
        return entry.outcome
    return f"{'duplicate, ' * (entry.outcome == 'duplicate')}IoU {entry.overlap:.2f}"


def _title(entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> str:
    counts = {outcome: sum(entry.outcome == outcome for entry in entries) for outcome in outcomes}
    nouns = ("false alarm", "duplicate")
    parts = [f"{n} {outcome}{'s' if outcome in nouns and n > 1 else ''}" for outcome, n in counts.items() if n]
    total = f"{len(entries)} object{'' if len(entries) == 1 else 's'}"
    return f"{total}: {', '.join(parts)}" if parts else "no objects"


def _beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures side by side, filled up with paper to one height."""
    height = max(left.shape[0], right.shape[0])
    gutter = np.full((height, MARGIN_PX, 3), PAPER, np.uint8)
    return np.hstack([_on_paper(left, height, left.shape[1]), gutter, _on_paper(right, height, right.shape[1])])


def _on_paper(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture at the top left of a sheet, uint8 ``[height, width, 3]``."""
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    sheet[: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def _gap(width: int) -> np.ndarray:
    """A strip of paper between a text and a picture."""
    return np.full((MARGIN_PX // 2, width, 3), PAPER, np.uint8)
