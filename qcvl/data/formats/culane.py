"""CULane: a list of frames, and beside each ``NAME.jpg`` a file ``NAME.lines.txt`` with one lane a line.

A lane is ``x1 y1 x2 y2 …`` in pixels from the photo's top left edge, from bottom to top, and may run out of the frame.
"""

from collections.abc import Iterator
from pathlib import Path

from qcvl.data.entries import Entry, read_lines
from qcvl.data.formats.tusimple import LANE
from qcvl.data.reading import Item, Notice, Photos, Split, annotation, each, photo_record
from qcvl.errors import DataError
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The frames of ``list/train.txt`` or ``list/val.txt`` of the data set's folder, or of the list that is named.

    Frames and their lanes are below ``root``, else below the folder that holds ``list/``.
    """
    listing = path / "list" / f"{split}.txt" if path.is_dir() else path
    if not listing.is_file():
        raise DataError(f"{listing} not found; expected CULane's folder, which holds list/, or one of its lists")
    photos = Photos(root or (path if path.is_dir() else path.parent.parent))

    def frame(line: Entry) -> Iterator[Record | Notice]:
        name = line.fields()[0].text()  # train_gt.txt has more fields a line
        photo = photos.find(name, line)
        lanes = photo.with_suffix(".lines.txt")
        if not lanes.is_file():
            raise line.error(f"names {name}, whose lanes {lanes} are not there; root=FOLDER names another folder")
        yield from photo_record(photo, [_lane(lane) for lane in read_lines(lanes)], line)

    yield from each(read_lines(listing), frame)


def _lane(line: Entry) -> Annotation | Notice:
    numbers = line.fields().numbers()
    if len(numbers) % 2:
        raise line.error(f"has {len(numbers)} numbers; expected x, y pairs")
    if len(numbers) < 4:
        return Notice("lane of fewer than 2 points", line.where)
    return annotation("line", list(zip(numbers[::2], numbers[1::2], strict=True)), LANE, line)
