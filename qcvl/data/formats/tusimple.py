"""TuSimple lanes: one JSON object a line with ``raw_file``, ``lanes`` and ``h_samples``.

Each lane gives one x for each y of ``h_samples``, -2 where it is not seen: whole pixels of the photo, kept as they are
and from top to bottom. A lane of fewer than two points is left out and said.
"""

from collections.abc import Iterator
from pathlib import Path

from qcvl.data.entries import Entry, read_json_lines
from qcvl.data.reading import Item, Notice, Photos, Split, annotation, each, photo_record
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

LANE = "lane"


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The frames of a label file in its order; ``raw_file`` is below ``root``, else below the file's folder."""
    photos = Photos(root or path.parent)

    def frame(line: Entry) -> Iterator[Record | Notice]:
        rows = line["h_samples"].numbers()
        found = [_lane(lane, rows) for lane in line["lanes"]]
        yield from photo_record(photos.find(line["raw_file"].text(), line["raw_file"]), found, line)

    yield from each(read_json_lines(path), frame)


def _lane(lane: Entry, rows: list[float]) -> Annotation | Notice:
    columns = lane.numbers()
    if len(columns) != len(rows):
        raise lane.error(f"has {len(columns)} numbers; expected {len(rows)}, one for each of h_samples")
    points = [[x, y] for x, y in zip(columns, rows, strict=True) if x >= 0]
    if len(points) < 2:
        return Notice("lane of fewer than 2 points", lane.where)
    return annotation("line", points, LANE, lane)
