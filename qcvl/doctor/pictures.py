"""Records drawn on their photos. Imports no torch."""

from pathlib import Path

import numpy as np

from qcvl.data.samples import load_photo
from qcvl.schema.records import Record
from qcvl.viz.compare import MAX_SIDE_PX, MIN_SIDE_PX, TEXT_PX, TEXT_SHARE
from qcvl.viz.draw import draw_annotations
from qcvl.viz.fonts import Typeface, default_typeface
from qcvl.viz.sheet import grid
from qcvl.viz.text import FAINT, TextLine, text_block


def draw_record(record: Record, typeface: Typeface | None = None) -> list[np.ndarray]:
    """One picture a photo, uint8 ``[h, w, 3]``: where the record stands, its summary, and the photo with its objects.

    Photos are scaled as in the panels of an evaluation.

    Raises:
        DataError: for a photo that cannot be read (named with file and line).
    """
    typeface = typeface or default_typeface()
    return [_draw_photo(record, index, typeface) for index in range(len(record.images))]


def _draw_photo(record: Record, index: int, typeface: Typeface) -> np.ndarray:
    image = load_photo(record, index)
    height, width = image.shape[:2]
    scale = min(max(1.0, MIN_SIDE_PX / min(width, height)), MAX_SIDE_PX / max(width, height))
    notes = [note for note in record.annotations if note.image == index]
    picture = draw_annotations(image, notes, scale=scale, typeface=typeface)
    size = int(np.clip(round(picture.shape[1] * TEXT_SHARE), *TEXT_PX))
    place = Path(record.where).name if record.path else record.where
    number = f"photo {index + 1} of {len(record.images)}, " if len(record.images) > 1 else ""
    count = f"{len(notes)} object{'' if len(notes) == 1 else 's'}"
    heading = [TextLine(place, remark=f"{number}{width}x{height}, {count}", bold=True)]
    if record.summary is not None:
        heading.append(TextLine(record.summary, color=FAINT))
    return grid([np.vstack([text_block(heading, picture.shape[1], size, typeface), picture])], columns=1)
