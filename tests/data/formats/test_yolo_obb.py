"""YOLO labels by their definition: shares of the photo's sides, one text file a photo."""

import pytest

from qcvl.errors import DataError, RecordError

YAML = "path: .\ntrain: images/train\nval: [images/val]\nnames:\n  0: plane\n  1: ship\n"


@pytest.fixture
def data_set(write, photo):
    """Two training photos of 200x100, one with labels, and a validation photo of 50x50."""
    photo("images/train/a.jpg", 200, 100), photo("images/train/deep/b.png", 200, 100), photo("images/val/c.png", 50, 50)
    write("labels/train/a.txt", "1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n0 0.5 0.5 0.2 0.4\n\n0 0 0 0.5 0 0.25 0.3\n")
    write("labels/val/c.txt", "0 0.3 0.3 0.6 0.6\n")
    return write("data.yaml", YAML)


def test_corners_boxes_and_polygons_are_shares_of_the_sides(data_set, read, note):
    for given in (data_set, data_set.parent):
        (first, second), notices = read("yolo_obb", given)
        assert first.annotations == (
            note("quad", [[20, 20], [60, 20], [60, 60], [20, 60]], "ship"),
            note("bbox_2d", [[80, 30], [120, 70]], "plane"),
            note("poly", [[0, 0], [100, 0], [50, 30]], "plane"),
        )
        assert (first.sizes, second.annotations, second.annotated) == (((200, 100),), (), True)
        assert notices == []


def test_a_split_is_a_folder_a_list_of_folders_or_a_text_file_and_names_may_be_a_list(data_set, read, write, note):
    (record,), _ = read("yolo_obb", data_set, split="val")
    assert record.annotations == (note("bbox_2d", [[0, 0], [30, 30]], "plane"),)
    write("val.txt", "./images/val/c.png\n")
    write("data.yaml", "train: ../images/train\nval: val.txt\nnames: [plane, ship]\n")  # ../ as some downloads have it
    assert read("yolo_obb", data_set, split="val")[0] == [record]
    assert len(read("yolo_obb", data_set)[0]) == 2


def test_sizes_are_those_of_the_photo_as_it_is_seen(data_set, read, photo, note):
    turned = photo("images/val/c.png", 50, 50)
    turned.unlink()
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo("images/val/c.jpg", 60, 30, exif=exif)
    (record,), _ = read("yolo_obb", data_set, split="val")
    assert record.sizes == ((30, 60),)
    assert record.annotations == (note("bbox_2d", [[0, 0], [18, 36]], "plane"),)


def test_labels_without_a_photo_are_said(data_set, read, write):
    path = write("labels/train/gone.txt", "0 0.5 0.5 0.2 0.4\n")
    records, notices = read("yolo_obb", data_set)
    assert len(records) == 2 and notices == [("label file without a photo", str(path))]


def test_classes_txt_and_images_do_without_a_yaml(write, photo, read, note):
    photo("set/images/a.png", 10, 10)
    write("set/labels/a.txt", "1 0.5 0.5 1 1\n")
    folder = write("set/classes.txt", "plane\nship\n").parent
    (record,), _ = read("yolo_obb", folder)
    assert record.annotations == (note("bbox_2d", [[0, 0], [10, 10]], "ship"),)


def test_the_photos_may_lie_elsewhere(data_set, read, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("images", "labels"):
        (tmp_path / name).rename(moved / name)
    with pytest.raises(RecordError, match=r"data\.yaml: train names .*images/train, which is no folder"):
        read("yolo_obb", data_set)
    assert len(read("yolo_obb", data_set, root=moved)[0][0].annotations) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.2 0.4", "has class 2; expected one of 0..1"),
        ("plane 0.5 0.5 0.2 0.4", "[0] is the string 'plane'; expected a number"),
        ("0.5 0.5 0.5 0.2 0.4", "[0] is the string '0.5'; expected a whole number"),
        ("0 0.5 nan 0.2 0.4", "[2] is the string 'nan'; expected a finite number"),
        ("0 0.5 0.5 0.2 0.4 0.9", "has 5 numbers behind its class; expected 4"),
        ("0 0.5 0.5", "has 2 numbers behind its class; expected 4"),
        ("0", "has 0 numbers behind its class"),
    ],
)
def test_a_broken_line_is_refused_by_its_number(data_set, read, write, line, message):
    path = write("labels/train/a.txt", f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(RecordError) as caught:
        read("yolo_obb", data_set)
    assert str(caught.value).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]\n", "train is missing; the format needs it"),
        ("train: images/train\n", "names is missing; the format needs it"),
        ("train: images/train\nnames: 3\n", "names is the number 3; expected a list"),
        ("train: images/train\nnames: {a: b}\n", "names has no names by number; expected a list of names"),
        ("train: [\n", "is not valid YAML"),
        ("3\n", "is the number 3; expected an object with the key path"),
        ("train: /etc\nnames: [a]\n", "train is '/etc', outside"),
    ],
)
def test_a_broken_data_set_file_is_refused(data_set, read, write, text, message):
    write("data.yaml", text)
    with pytest.raises(RecordError) as caught:
        read("yolo_obb", data_set)
    assert str(caught.value).startswith(f"{data_set}: {message}")


def test_a_photo_that_cannot_be_measured_is_named_where_it_is_listed(data_set, read, write, tmp_path):
    write("data.yaml", YAML.replace("images/train", "list.txt"))
    listing = write("list.txt", "images/train/none.jpg\n")
    with pytest.raises(RecordError, match=rf"{listing}:1: needs a size: its photo \(.*none\.jpg\) not found"):
        read("yolo_obb", data_set)
    with pytest.raises(DataError, match="has neither data.yaml nor classes.txt"):
        read("yolo_obb", tmp_path / "labels")
