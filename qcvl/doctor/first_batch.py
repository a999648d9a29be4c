"""The first samples of a run as the model sees them, with what their trained tokens say drawn on them.

The pictures are put together from the patches, the objects read back from the tokens alone: a wrong pixel, offset or
grid is seen at a glance.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from qcvl.data.chat import IGNORE
from qcvl.data.encode import Features
from qcvl.doctor.labels import AuditedSample
from qcvl.models.pixels import to_frames
from qcvl.models.spec import Processing
from qcvl.models.text import decoded
from qcvl.schema.answer import Answer, AnswerFormat, parse_answer
from qcvl.viz.compare import MAX_SIDE_PX, MIN_SIDE_PX, TEXT_PX, TEXT_SHARE
from qcvl.viz.draw import draw_annotations
from qcvl.viz.fonts import Typeface, default_typeface
from qcvl.viz.sheet import contact_sheet, grid, save_png
from qcvl.viz.text import FAINT, TextLine, text_block

SHEET = "first_batch.png"
VIDEO = 2  # in token_types


def draw_first_batch(
    samples: Sequence[AuditedSample], processing: Processing, answer_format: AnswerFormat
) -> np.ndarray:
    """One sheet, uint8 ``[H, W, 3]``: a picture of each photo, and of a video's first frame, of samples with media."""
    typeface = default_typeface()
    drawn = [picture for one in samples for picture in _pictures(one, processing, answer_format, typeface)]
    return contact_sheet(drawn) if drawn else _nothing(typeface)


def save_first_batch(
    samples: Sequence[AuditedSample], processing: Processing, answer_format: AnswerFormat, folder: Path
) -> Path:
    """Write the sheet into ``folder`` and return its path."""
    return save_png(folder / SHEET, draw_first_batch(samples, processing, answer_format))


def seen_images(features: Features, processing: Processing) -> list[np.ndarray]:
    """The photos of a sample, of a video its first frame, uint8 ``[h, w, 3]``, put together from its patch rows."""
    family, ends = processing.family, np.cumsum(features.grids.prod(1))
    rows = np.split(features.patches, ends[:-1])
    grids = [(int(time), int(high), int(wide)) for time, high, wide in features.grids]
    return [to_frames(part, shape, family)[0] for part, shape in zip(rows, grids, strict=True)]


def written_answer(features: Features, processing: Processing, answer_format: AnswerFormat) -> Answer:
    """The objects that the last trained answer of a sample lists, in pixels of the images the model sees."""
    side = processing.family.patch_size
    sizes = [(int(columns) * side, int(rows) * side) for _, rows, columns in features.grids]
    return parse_answer(_last_answer(features, processing), sizes, answer_format=answer_format, image_count=len(sizes))


def _last_answer(features: Features, processing: Processing) -> str:
    """What the last run of trained tokens says, without its end-of-turn token."""
    runs = [
        list(run) for trained, run in groupby(features.labels.tolist(), key=lambda label: label != IGNORE) if trained
    ]
    return decoded(processing, runs[-1][:-1]) if runs else ""


def _pictures(
    one: AuditedSample, processing: Processing, answer_format: AnswerFormat, typeface: Typeface
) -> Iterator[np.ndarray]:
    features = one.features
    if not len(features.grids):
        return
    filmed = (features.token_types == VIDEO).any()
    answer = Answer("strict") if filmed else written_answer(features, processing, answer_format)
    for number, image in enumerate(seen_images(features, processing)):
        if filmed and number:
            return  # the later frames of the video
        height, width = image.shape[:2]
        notes = [note for note in answer.annotations if note.image == number]
        scale = min(max(1.0, MIN_SIDE_PX / min(width, height)), MAX_SIDE_PX / max(width, height))
        picture = draw_annotations(image, notes, scale=scale, typeface=typeface)
        unusable = f", {answer.dropped} unusable" if answer.dropped else ""
        remark = f"{one.task}, {width}x{height}{f', {len(notes)} drawn' if notes else ''}{unusable}"
        lines = [TextLine(Path(one.where).name, remark=remark, bold=True)]
        if not notes:
            lines.append(TextLine(_last_answer(features, processing), color=FAINT))
        size = int(np.clip(round(width * scale * TEXT_SHARE), *TEXT_PX))
        heading = text_block(lines, max(picture.shape[1], MIN_SIDE_PX), size, typeface)
        yield grid([heading, picture], columns=1, margin=0)


def _nothing(typeface: Typeface) -> np.ndarray:
    line = TextLine("the first samples have no photo", color=FAINT)
    return text_block([line], MIN_SIDE_PX, TEXT_PX[0], typeface)
