"""Lanes of TuSimple and CULane as lines; the real ones lie on their masks."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.errors import DataError, RecordError


def tusimple(**changes):
    lanes = [[-2, 40, 30, 20], [-2, -2, 60, 70], [-2, -2, -2, 90]]
    return json.dumps({"raw_file": "clips/1/20.jpg", "lanes": lanes, "h_samples": [10, 20, 30, 40], **changes}) + "\n"


def test_a_tusimple_lane_has_a_point_for_each_row_it_is_seen_in(read, write, photo, note):
    file = photo("clips/1/20.jpg")
    path = write("labels.json", tusimple())
    (record,), notices = read("tusimple", path)
    assert record.images == (str(file),) and record.line == 1
    assert record.annotations == (
        note("line", [[40, 20], [30, 30], [20, 40]], "lane"),
        note("line", [[60, 30], [70, 40]], "lane"),
    )
    assert notices == [("lane of fewer than 2 points", f"{path}:1: lanes[2]")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (tusimple(lanes=[[1, 2, 3]]), "2: lanes[0] has 3 numbers; expected 4, one for each of h_samples"),
        (tusimple(lanes=[[1, 2, 3, "x"]]), "2: lanes[0][3] is the string 'x'; expected a number"),
        (tusimple(lanes=None), "2: lanes is missing"),
        (tusimple(raw_file=""), "2: raw_file is empty; expected text"),
        ("[]", "2: is a list; expected an object with the key h_samples"),
        ('{"lanes": [[NaN]]}', "2: is not valid JSON"),
    ],
)
def test_a_broken_tusimple_line_is_refused(read, write, text, message):
    path = write("labels.json", tusimple() + text)
    with pytest.raises(RecordError) as caught:
        read("tusimple", path)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_real_lanes_lie_on_their_instance_masks(shared_data, read, tmp_path):
    folder = shared_data("polylines/tusimple")
    files = json.loads((folder / "raw_file_to_image.json").read_text())
    for name, file in files.items():  # the frames lie under other names than the labels give
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(folder / file)
    records, notices = read("tusimple", folder / "label_data_0601.json", root=tmp_path)
    assert (len(records), sum(len(record.annotations) for record in records), notices) == (4, 17, [])
    for record in records:
        name = next(name for name in files if record.images[0].endswith(name))
        mask = np.asarray(Image.open(folder / "gt_image_instance" / f"{files[name][-8:]}"))
        marks = []
        for lane in record.annotations:
            x, y = lane.shape.points.astype(int).T
            assert (mask[y, x] > 0).all()
            marks.append(np.unique(mask[y, x]).tolist())
        assert all(len(mark) == 1 for mark in marks) and len({mark[0] for mark in marks}) == len(marks)


@pytest.fixture
def culane(write, photo):
    photo("culane/driver_1/00000.jpg"), photo("culane/driver_1/00030.jpg")
    write("culane/driver_1/00000.lines.txt", "-10.5 49 20 30 40 10 \n90 49\n")
    write("culane/driver_1/00030.lines.txt", "")
    write("culane/list/val.txt", "/driver_1/00030.jpg\n")
    listing = write("culane/list/train.txt", "/driver_1/00000.jpg\n/driver_1/00030.jpg\n")
    return listing.parents[1]


def test_culane_lanes_run_out_of_the_frame_and_the_split_chooses_the_list(culane, read, note):
    (first, second), notices = read("culane", culane)
    assert first.annotations == (note("line", [[-10.5, 49], [20, 30], [40, 10]], "lane"),)
    assert (second.annotations, second.annotated) == ((), True)
    assert notices == [("lane of fewer than 2 points", f"{culane}/driver_1/00000.lines.txt:2")]
    assert [record.images for record in read("culane", culane, split="val")[0]] == [second.images]
    assert len(read("culane", culane / "list/train.txt")[0]) == 2


def test_broken_culane_files_are_refused(culane, read, write, tmp_path):
    path = write("culane/driver_1/00000.lines.txt", "1 2 3\n")
    with pytest.raises(RecordError, match=rf"{path}:1: has 3 numbers; expected x, y pairs"):
        read("culane", culane)
    write("culane/driver_1/00000.lines.txt", "1 2 3 inf\n")
    with pytest.raises(RecordError, match=rf"{path}:1: \[3\] is the string 'inf'; expected a finite number"):
        read("culane", culane)
    path.unlink()
    with pytest.raises(RecordError, match=r"train\.txt:1: names /driver_1/00000\.jpg, whose lanes .* are not there"):
        read("culane", culane)
    with pytest.raises(DataError, match=r"list/train\.txt not found; expected CULane's folder"):
        read("culane", tmp_path)
