"""Records drawn on their photos, as they are and as augmentation shows them. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcvl.augment.actions import NOT_DRAWN
from qcvl.augment.telemetry import SUMS
from qcvl.data.samples import load_photo
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation, Sample
from qcvl.viz.compare import MAX_SIDE_PX, MIN_SIDE_PX, TEXT_PX, TEXT_SHARE
from qcvl.viz.draw import draw_annotations
from qcvl.viz.fonts import Typeface, default_typeface
from qcvl.viz.sheet import grid
from qcvl.viz.text import FAINT, TextLine, text_block

MAX_REMARK_ROWS = 5  # of what augmentation did, below a picture


@dataclass(frozen=True, slots=True)
class _Look:
    """How the pictures of one row are drawn: enlargement, em height of the texts in px, and who writes them."""

    scale: float
    text_px: int
    typeface: Typeface

    @classmethod
    def of(cls, image: np.ndarray, typeface: Typeface) -> "_Look":
        """What suits ``image``: scaled as in the panels of an evaluation."""
        height, width = image.shape[:2]
        scale = min(max(1.0, MIN_SIDE_PX / min(width, height)), MAX_SIDE_PX / max(width, height))
        return cls(scale, int(np.clip(round(width * scale * TEXT_SHARE), *TEXT_PX)), typeface)


def draw_record(record: Record, typeface: Typeface | None = None) -> list[np.ndarray]:
    """One picture a photo, uint8 ``[h, w, 3]``: where the record stands, its summary, and the photo with its objects.

    Raises:
        DataError: for a photo that cannot be read (named with file and line).
    """
    typeface = typeface or default_typeface()
    return [_record_picture(record, index, typeface) for index in range(len(record.images))]


def draw_augmented(
    record: Record, before: Sample, after: Sequence[Sample], typeface: Typeface | None = None
) -> list[np.ndarray]:
    """One row a photo, uint8 ``[h, w, 3]``: the photo ``before``, then ``after`` each draw, with what its ops did.

    All are shown at the scale of the first, so that a zoom is seen as one.
    """
    typeface = typeface or default_typeface()
    titles = [_place(record), *(f"draw {number}" for number in range(1, len(after) + 1))]
    rows = []
    for index, image in enumerate(before.images):
        look, shown = _Look.of(image, typeface), zip(titles, [before, *after], strict=True)
        row = [_sample_picture(sample, index, title, look) for title, sample in shown]
        rows.append(grid(row, columns=len(row)))
    return rows


def what_was_done(telemetry: Mapping[str, float]) -> str:
    """The ops that were applied, then all else that was counted but for draws that said no."""
    applied = [
        name.removesuffix("/applied") for name, count in telemetry.items() if name.endswith("/applied") and count
    ]
    silent = tuple(f"/{name}" for name in ("applied", NOT_DRAWN, *SUMS))
    counted = [f"{name} {count:g}" for name, count in telemetry.items() if count and not name.endswith(silent)]
    return "; ".join([", ".join(applied) or "nothing applied", *counted])


def _record_picture(record: Record, index: int, typeface: Typeface) -> np.ndarray:
    image = load_photo(record, index)
    notes = [note for note in record.annotations if note.image == index]
    number = f"photo {index + 1} of {len(record.images)}, " if len(record.images) > 1 else ""
    heading = _heading(_place(record), f"{number}{_size(image, notes)}", record.summary)
    return grid([_picture(image, notes, heading, [], _Look.of(image, typeface))], columns=1)


def _sample_picture(sample: Sample, index: int, title: str, look: _Look) -> np.ndarray:
    image = sample.images[index]
    notes = [note for note in sample.annotations if note.image == index]
    footing = [TextLine(what_was_done(sample.telemetry), color=FAINT)] if sample.telemetry else []
    return _picture(image, notes, _heading(title, _size(image, notes), sample.summary), footing, look)


def _picture(
    image: np.ndarray,
    notes: Sequence[Annotation],
    heading: Sequence[TextLine],
    footing: Sequence[TextLine],
    look: _Look,
) -> np.ndarray:
    """The photo with its objects between two blocks of text."""
    picture = draw_annotations(image, notes, scale=look.scale, typeface=look.typeface)
    width = max(picture.shape[1], MIN_SIDE_PX)  # room for the texts beside a narrow picture
    blocks = [text_block(heading, width, look.text_px, look.typeface), picture]
    if footing:
        blocks.append(text_block(footing, width, look.text_px, look.typeface, max_rows=MAX_REMARK_ROWS))
    return grid(blocks, columns=1, margin=0)


def _heading(title: str, remark: str, summary: str | None) -> list[TextLine]:
    heading = [TextLine(title, remark=remark, bold=True)]
    return heading if summary is None else [*heading, TextLine(summary, color=FAINT)]


def _place(record: Record) -> str:
    return Path(record.where).name if record.path else record.where


def _size(image: np.ndarray, notes: Sequence[Annotation]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}, {len(notes)} object{'' if len(notes) == 1 else 's'}"
