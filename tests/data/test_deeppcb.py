"""DeepPCB: its quirks on a small made-up board, its counts on the real data where they are at hand."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from qcvl.data.formats.deeppcb import CLASSES, read_pairs, summarize, to_records, write_lists
from qcvl.data.samples import build_sample, load_photo
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import read_records
from qcvl.schema.types import Annotation

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "deeppcb"
SIDE = 200
DEFECTS = {"0001": [(20, 30, 50, 60, 1), (120, 120, 150, 160, 5)], "0002": [(60, 80, 100, 110, 2)], "0003": []}


def defect(x1, y1, x2, y2, desc="open"):
    return Annotation(Shape("bbox_2d", [[x1, y1], [x2, y2]]), desc)


@pytest.fixture
def root(tmp_path):
    """Three made-up pairs with the data set's quirks: two lists without a final line end, CRLF labels, an RGB JPEG."""
    top = tmp_path / "deeppcb" / "PCBData"
    photos, labels = top / "group9" / "9", top / "group9" / "9_not"
    photos.mkdir(parents=True)
    labels.mkdir()
    for name, boxes in DEFECTS.items():
        template = np.full((SIDE, SIDE), 250, np.uint8)
        template[:, 90:110] = 10
        photo = template.copy()
        for x1, y1, x2, y2, _ in boxes:
            photo[y1:y2, x1:x2] = 255 - photo[y1:y2, x1:x2]
        cv2.imwrite(str(photos / f"{name}_temp.jpg"), template)
        cv2.imwrite(str(photos / f"{name}_test.jpg"), cv2.merge([photo] * 3) if name == "0002" else photo)
        (labels / f"{name}.txt").write_bytes("\r\n".join(" ".join(map(str, box)) for box in boxes).encode())
    (top / "trainval.txt").write_text(
        "group9/9/0001.jpg group9/9_not/0001.txt\ngroup9/9/0003.jpg,group9/9_not/0003.txt"
    )
    (top / "test.txt").write_text("group9/9/0002.jpg group9/9_not/0002.txt")
    return top.parent


def test_pairs_come_with_their_template_defects_and_board_in_the_order_of_the_list(root):
    pairs = list(read_pairs(root, "train"))
    assert [(pair.name, pair.board, pair.template.name) for pair in pairs] == [
        ("0001", "9", "0001_temp.jpg"),
        ("0003", "9", "0003_temp.jpg"),
    ]
    assert pairs[0].defects == (defect(20, 30, 50, 60, "open"), defect(120, 120, 150, 160, "copper"))
    assert pairs[1].defects == ()
    assert [pair.name for pair in read_pairs(root, "val")] == ["0002"]


@pytest.mark.parametrize("line", ["1 2 3 4", "1 2 3 4 7", "1 2 3 4 0", "a 2 3 4 1", "9 2 3 4 1", "1.5 2 3 4 1"])
def test_a_label_line_that_is_no_defect_is_named(root, line):
    (root / "PCBData/group9/9_not/0002.txt").write_text(f"60 80 100 110 2\n{line}\n")
    with pytest.raises(DataError, match=rf"0002\.txt:2: is '{re.escape(line)}'; expected"):
        list(read_pairs(root, "val"))


def test_a_missing_photo_list_or_folder_is_named(root, tmp_path):
    (root / "PCBData/group9/9/0002_temp.jpg").unlink()
    with pytest.raises(DataError, match=r"test\.txt:1: names .*0002_temp\.jpg, which does not exist"):
        list(read_pairs(root, "val"))
    with pytest.raises(DataError, match=r"elsewhere/PCBData/test\.txt not found; expected .* holds PCBData/"):
        list(read_pairs(tmp_path / "elsewhere", "val"))


def test_a_whole_photo_is_a_record_with_its_template_board_and_summary(root):
    (record,) = to_records(root, "val", None)
    assert record.images == tuple(f"{root}/PCBData/group9/9/0002_{kind}.jpg" for kind in ("test", "temp"))
    assert (record.sizes, record.summary) == (((SIDE, SIDE),) * 2, "short x1")
    assert record.metadata == {"board": "9"}
    assert record.annotations == (defect(60, 80, 100, 110, "short"),)


def test_the_photos_may_lie_below_another_folder_than_the_lists(root, tmp_path):
    photos = tmp_path / "moved" / "PCBData" / "group9"
    photos.mkdir(parents=True)
    (root / "PCBData/group9/9").rename(photos / "9")
    (record,) = to_records(root, "val", tmp_path / "moved")
    assert record.images[0] == str(photos / "9/0002_test.jpg")
    assert record.annotations == (defect(60, 80, 100, 110, "short"),)


def test_a_summary_counts_classes_in_a_fixed_order():
    assert summarize([defect(0, 0, 1, 1, "short"), defect(0, 0, 1, 1, "open"), defect(2, 2, 3, 3, "short")]) == (
        "open x1, short x2"
    )
    assert summarize([]) == "no defects"


def test_the_lists_keep_pairs_apart_and_name_each_once(root, tmp_path):
    folder = write_lists(root, tmp_path / "lists", held_back=1)
    parts = {name: read_records(folder / f"{name}.jsonl") for name in ("train", "dev", "test")}
    names = {name: [Path(record.images[0]).stem for record in records] for name, records in parts.items()}
    assert sorted(names["train"] + names["dev"]) == ["0001_test", "0003_test"] and len(names["dev"]) == 1
    assert names["test"] == ["0002_test"]
    (record,) = parts["test"]
    photo, template = (load_photo(record, index) for index in (0, 1))
    assert photo.shape == template.shape == (SIDE, SIDE, 3)
    again = write_lists(root, tmp_path / "again", held_back=1)
    for name in parts:
        assert (again / f"{name}.jsonl").read_text() == (folder / f"{name}.jsonl").read_text()


def test_lists_are_made_once_and_another_number_held_back_replaces_them(root, tmp_path):
    folder = write_lists(root, tmp_path / "lists", held_back=1)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_lists(root, folder, held_back=1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    write_lists(root, folder, held_back=0)
    assert len(read_records(folder / "train.jsonl")) == 2 and (folder / "dev.jsonl").read_text() == ""


def test_more_pairs_held_back_than_listed_and_a_folder_of_something_else_are_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"trainval\.txt lists 2 pairs, 2 are to be held back; lower held_back"):
        write_lists(root, tmp_path / "lists", held_back=2)
    assert not (tmp_path / "lists").exists()
    with pytest.raises(DataError, match="is no DeepPCB lists"):
        write_lists(root, root, held_back=0)


real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the DeepPCB data are not at {REAL}")


@real
def test_the_official_lists_are_read_whole():
    train, val = (list(read_pairs(REAL, split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (1000, 70)
    assert not {pair.photo for pair in train} & {pair.photo for pair in val}
    labels = [line.split()[4] for pair in train for line in labels_of(pair).read_text().splitlines()]
    found = Counter(note.desc for pair in train for note in pair.defects)
    assert found == {CLASSES[number]: count for number, count in Counter(labels).items()}


def labels_of(pair):
    return pair.photo.parent.with_name(f"{pair.board}_not") / f"{pair.name}.txt"


@real
def test_real_defects_lie_inside_their_photos_and_show_in_the_difference():
    for record in islice(to_records(REAL, "val", None), 10):
        (pixels,) = build_sample(record, "dense", "fused").images
        assert pixels.shape == (640, 640, 3)
        for note in record.annotations:
            x1, y1, x2, y2 = map(int, note.shape.bounds)
            assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 640
            assert pixels[y1:y2, x1:x2, 2].max() > 128
