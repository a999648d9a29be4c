"""DeepPCB: its quirks on a small made-up board, its counts on the real data where they are at hand."""

import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from qcvl.data.formats import deeppcb
from qcvl.data.formats.deeppcb import (
    CLASSES,
    choose_window,
    fuse,
    read_pairs,
    summarize,
    to_records,
    visible_defects,
    write_crops,
)
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


@pytest.fixture
def few_crops(monkeypatch):
    monkeypatch.setattr(deeppcb, "CROPS", {"train": 41, "val": 10})


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


def test_a_whole_photo_is_a_record_with_a_path_that_is_relative_where_the_photo_lies_below_the_file(root, tmp_path):
    (record,) = to_records(root, "val", tmp_path)
    assert record.images == ("deeppcb/PCBData/group9/9/0002_test.jpg",)
    assert (record.sizes, record.summary) == (((SIDE, SIDE),), "short x1")
    assert record.metadata == {"board": "9", "template": "deeppcb/PCBData/group9/9/0002_temp.jpg"}
    assert record.annotations == (defect(60, 80, 100, 110, "short"),)
    (record,) = to_records(root, "val", tmp_path / "other")
    assert record.images == (str(root / "PCBData/group9/9/0002_test.jpg"),)


def test_a_summary_counts_classes_in_a_fixed_order():
    assert summarize([defect(0, 0, 1, 1, "short"), defect(0, 0, 1, 1, "open"), defect(2, 2, 3, 3, "short")]) == (
        "open x1, short x2"
    )
    assert summarize([]) == "no defects"


def test_the_channels_are_photo_template_and_their_difference(root):
    (pair,) = read_pairs(root, "val")
    red, green, blue = fuse(pair).transpose(2, 0, 1).astype(int)
    assert np.array_equal(blue, np.abs(red - green))
    inside, outside = blue[85:105, 65:85], blue[:60]  # of the defect, up to what JPEG rounds
    assert inside.min() > 200 and outside.max() < 40


def test_half_a_defect_is_listed_and_clipped_and_less_is_not():
    half, less, outside = defect(90, 10, 110, 30), defect(91, 40, 111, 60), defect(150, 10, 160, 20)
    assert visible_defects([half, less, outside], (0, 0), 100) == (defect(90, 10, 100, 30),)
    assert visible_defects([half], (80, 5), 100) == (defect(10, 5, 30, 25),)


def test_four_windows_in_five_hold_a_whole_defect_and_the_others_none():
    shapes = [defect(*box[:4]).shape for box in DEFECTS["0001"]]
    whole = 0
    for number in range(500):
        x, y = choose_window(shapes, (SIDE, SIDE), 64, np.random.default_rng(number))
        assert 0 <= x <= SIDE - 64 and 0 <= y <= SIDE - 64
        seen = visible_defects([Annotation(shape, "open") for shape in shapes], (x, y), 64)
        assert len(seen) <= 1
        whole += len(seen)
        if seen:
            assert np.prod(np.ptp(seen[0].shape.points, axis=0)) in (30 * 30, 30 * 40)
    assert abs(whole / 500 - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 500)  # four standard deviations


def test_a_defect_larger_than_the_window_is_shown_by_its_middle():
    (x, y) = choose_window([Shape("bbox_2d", [[20, 50], [180, 80]])], (SIDE, SIDE), 64, np.random.default_rng(0))
    assert x + 32 == 100 and y <= 50 and y + 64 >= 80


def test_crops_are_valid_records_and_the_pixels_of_their_window(root, tmp_path, few_crops):
    folder = write_crops(root, tmp_path / "crops", crop=64)
    counts = {}
    for split in ("train", "val"):
        pairs = {pair.name: pair for pair in read_pairs(root, split)}
        records = read_records(folder / f"{split}.jsonl")
        counts[split] = Counter(record.metadata["photo"] for record in records)
        for record in records:
            x, y = record.metadata["window"]
            crop = cv2.imread(str(record.image_path()))[..., ::-1]
            pair = pairs[record.metadata["photo"]]
            assert np.array_equal(crop, fuse(pair)[y : y + 64, x : x + 64])
            assert record.annotations == visible_defects(pair.defects, (x, y), 64)
            assert record.summary == summarize(record.annotations) and record.sizes == ((64, 64),)
    assert counts == {"train": {"0001": 21, "0003": 20}, "val": {"0002": 10}}


def test_crops_are_made_once_and_alike_and_another_size_replaces_them(root, tmp_path, few_crops):
    folder, other = (write_crops(root, tmp_path / name, crop=64) for name in ("crops", "other"))
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
    assert files == {path.relative_to(other): path.read_bytes() for path in other.rglob("*.*")}
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_crops(root, folder, crop=64)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    assert read_records(write_crops(root, folder, crop=32) / "val.jsonl")[0].sizes == ((32, 32),)


def test_a_crop_larger_than_a_photo_and_a_folder_of_something_else_are_refused(root, tmp_path, few_crops):
    with pytest.raises(DataError, match="0001_test.jpg is 200x200, smaller than a crop of 201 pixels"):
        write_crops(root, tmp_path / "crops", crop=201)
    assert not (tmp_path / "crops").exists()
    with pytest.raises(DataError, match="is no DeepPCB crops"):
        write_crops(root, root, crop=64)


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
    for pair in list(read_pairs(REAL, "val"))[:10]:
        pixels = fuse(pair)
        assert pixels.shape == (640, 640, 3)
        for note in pair.defects:
            x1, y1, x2, y2 = map(int, note.shape.bounds)
            assert 0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 640
            assert pixels[y1:y2, x1:x2, 2].max() > 128
