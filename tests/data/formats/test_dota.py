"""DOTA labelTxt, and the real tile where it is at hand."""

import pytest

from qcvl.errors import DataError, RecordError

LABELS = (
    "imagesource:GoogleEarth\ngsd:0.146\n1.0 2.0 9.5 2.0 9.0 7.0 1.0 7.0 plane 0\n5 5 9 5 9 9 5 9 large-vehicle 1\n"
)


@pytest.fixture
def tile(write, photo):
    photo("set/images/P1.png", 20, 10)
    write("set/labelTxt/P1.txt", LABELS)
    return write("set/labelTxt/P2.txt", "").parents[1]


def test_quads_keep_their_order_and_headers_and_difficulties_are_metadata(tile, read, note):
    (record,), notices = read("dota", tile)
    assert record.annotations == (
        note("quad", [[1, 2], [9.5, 2], [9, 7], [1, 7]], "plane"),
        note("quad", [[5, 5], [9, 5], [9, 9], [5, 9]], "large-vehicle"),
    )
    assert record.metadata == {"imagesource": "GoogleEarth", "gsd": "0.146", "difficulty": [0, 1]}
    assert record.sizes == ((20, 10),) and record.images[0].endswith("set/images/P1.png")
    assert notices == [("label file without objects and without photo", f"{tile}/labelTxt/P2.txt")]


def test_difficulties_go_with_the_objects_that_are_kept(tile, read, write):
    write("set/labelTxt/P1.txt", "90 2 99 2 99 7 90 7 a 0\n5 5 9 5 9 9 5 9 b 2\n1 1 4 1 4 4 1 4 c\n")
    (record,), notices = read("dota", tile)
    assert [note.desc for note in record.annotations] == ["b", "c"]
    assert record.metadata == {"difficulty": [2, 0]}
    assert ("object wholly outside its photo", f"{tile}/labelTxt/P1.txt:1") in notices


def test_a_folder_of_the_split_wins_and_photos_may_lie_above_the_labels_or_elsewhere(tile, read, write, photo):
    photo("set/val/Q1.png", 20, 10)
    write("set/val/labelTxt/Q1.txt", LABELS)
    assert read("dota", tile, split="val")[0][0].images[0].endswith("set/val/Q1.png")
    assert read("dota", tile, split="train")[0][0].images[0].endswith("P1.png")
    photo("other/P1.png", 30, 30)
    assert read("dota", tile, root=tile.parent / "other")[0][0].sizes == ((30, 30),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 9 2 9 7 1 7", "has 8 fields ('1 2 9 2 9 7 1 7'); expected 8 coordinates, a category and a difficulty"),
        ("1 2 9 2 9 7 1 x plane 0", "[7] is the string 'x'; expected a number"),
        ("1 2 9 2 9 7 1 inf plane 0", "[7] is the string 'inf'; expected a finite number"),
        ("1 2 9 2 9 7 1 7 plane hard", "[9] is the string 'hard'; expected a number"),
    ],
)
def test_a_broken_line_is_refused_by_its_number(tile, read, write, line, message):
    path = write("set/labelTxt/P1.txt", f"gsd:null\n{line}\n")
    with pytest.raises(RecordError) as caught:
        read("dota", tile)
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_labels_without_their_photo_and_a_folder_without_labels_are_refused(tile, read, write, tmp_path):
    write("set/labelTxt/P2.txt", LABELS)
    with pytest.raises(RecordError, match=r"P2\.txt: has no photo P2\.\* in .*images; root=FOLDER names another"):
        read("dota", tile)
    with pytest.raises(DataError, match=r"has no labelTxt folder with \*\.txt files"):
        read("dota", tmp_path / "set/images")


def test_two_photos_for_one_label_file_are_refused(tile, read, photo):
    photo("set/images/P1.jpg", 20, 10)
    with pytest.raises(DataError, match=r"P1\.png and P1\.jpg go with the same labels"):
        read("dota", tile)


def test_the_real_tile_gives_the_quads_that_lie_on_it(shared_data, read):
    (record,), notices = read("dota", shared_data("quads/dota_mmrotate"))
    assert [note.desc for note in record.annotations] == ["plane"]  # it crosses itself, and is kept as it is
    assert record.annotations[0].shape.points.tolist() == [[126, 191], [128, 171], [123, 178], [221, 199]]
    reasons = [reason for reason, _ in notices]  # the tile is 285x294, three of its four quads lie beyond
    assert reasons.count("object wholly outside its photo") == 3
    assert reasons.count("label file without objects and without photo") == 1
