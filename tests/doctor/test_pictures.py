import numpy as np
import pytest
from PIL import Image

from qcvl.doctor.pictures import draw_record
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from qcvl.viz.compare import MIN_SIDE_PX
from qcvl.viz.draw import desc_styles
from qcvl.viz.sheet import MARGIN_PX

BOX = Annotation(Shape("bbox_2d", [[10, 10], [30, 30]]), "plate", image=1)


@pytest.fixture
def record(tmp_path):
    """Two grey photos of 64 x 64 px, the second with a box."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / name)
    return Record(images=("a.png", "b.png"), annotations=(BOX,), path=tmp_path / "x.jsonl", line=3, summary="one")


def test_each_photo_of_a_record_is_drawn_with_its_own_objects_and_enlarged_to_be_readable(record):
    pictures = draw_record(record)
    assert [picture.shape[1] for picture in pictures] == [MIN_SIDE_PX + 2 * MARGIN_PX] * 2
    color = desc_styles(["plate"])[0].color
    colored = [(np.abs(picture.astype(int) - color).max(axis=2) < 8).sum() for picture in pictures]
    outline = 4 * 20 * MIN_SIDE_PX / 64  # px along the drawn box
    assert colored[0] == 0 and colored[1] > outline


def test_a_summary_adds_a_row_above_the_photo(record):
    without = Record(images=record.images, annotations=record.annotations, path=record.path, line=3)
    assert draw_record(record)[0].shape[0] > draw_record(without)[0].shape[0]


def test_a_photo_that_is_gone_is_named_with_file_and_line(record):
    (record.path.parent / "b.png").unlink()
    with pytest.raises(DataError, match=r"x\.jsonl:3: images\[1\] .*b\.png\) not found"):
        draw_record(record)


def test_a_record_that_is_a_file_of_its_own_is_named_by_the_file_alone(record):
    files = (record.path.with_name("x.jsonl"), record.path.with_name("x.jsonl:3"))
    by_line, by_file = (
        Record(images=("a.png",), path=path, line=line) for path, line in zip(files, (3, None), strict=True)
    )
    np.testing.assert_array_equal(draw_record(by_line)[0], draw_record(by_file)[0])
