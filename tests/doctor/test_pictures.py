import numpy as np
import pytest
from PIL import Image

from qcvl.data.samples import build_sample
from qcvl.doctor.pictures import draw_augmented, draw_record, what_was_done
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from qcvl.viz.compare import MIN_SIDE_PX
from qcvl.viz.draw import desc_styles
from qcvl.viz.sheet import MARGIN_PX
from tests.augment.ops import compose, op

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


def test_draws_stand_beside_the_photo_at_its_scale(record):
    before = build_sample(record, "dense")
    half = compose(crop=op("center_crop", scale=0.5, min_coverage=0.0))(before, (0, 0, 0))
    rows = draw_augmented(record, before, [half, half])
    assert len(rows) == 2  # one a photo
    assert [row.shape[1] for row in rows] == [3 * MIN_SIDE_PX + 4 * MARGIN_PX] * 2
    grey = (np.abs(rows[0].astype(int) - 128).max(axis=2) < 2).any(axis=0)
    widths = [grey[MARGIN_PX + i * (MIN_SIDE_PX + MARGIN_PX) :][:MIN_SIDE_PX].sum() for i in range(3)]
    assert abs(widths[0] - 320) < 4 and all(abs(width - 160) < 4 for width in widths[1:])


def test_what_was_done_names_the_applied_ops_first_and_then_all_other_counts():
    telemetry = {"hflip/applied": 1, "rotate/skipped": 1, "rotate/not_drawn": 1, "crop/skipped": 1, "crop/has_line": 1}
    telemetry |= {"crop/cuts": 1, "crop/shown": 2.0, "crop/coverage": 1.5, "crop/padding": 0.5, "objects/seen": 2}
    telemetry |= {"gamma/applied": 2, "objects/dropped": 0, "relabel/changed_descs": 3}
    assert what_was_done(telemetry) == "hflip, gamma; crop/has_line 1; relabel/changed_descs 3"
    assert what_was_done({"objects/dropped": 0}) == "nothing applied"
