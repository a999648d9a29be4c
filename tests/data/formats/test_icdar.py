"""Text quads: ICDAR's text files, MMOCR's and WildReceipt's lists; what is not to be read is said."""

import copy
import json

import pytest

from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record

GT = "\ufeff1,2,30,2,30,9,1,9,Genaxis, Theatre\r\n5,5,9,5,9,9,5,9,###\r\n9,9,5,9,5,5,9,5,\u2028Café\r\n"
MMOCR = {
    "metainfo": {"category": [{"id": 0, "name": "text"}]},
    "data_list": [
        {
            "img_path": "imgs/a.png",
            "height": 50,
            "width": 100,
            "instances": [
                {"polygon": [1, 1, 9, 1, 9, 5, 1, 5], "bbox": [1, 1, 9, 5], "bbox_label": 0, "ignore": False},
                {"polygon": [1, 1, 9, 1, 9, 5, 1, 5], "bbox": [1, 1, 9, 5], "bbox_label": 0, "ignore": True},
                {"polygon": [1, 1, 9, 1, 12, 5, 9, 8, 1, 5], "bbox_label": 0, "text": "curved"},
            ],
        }
    ],
}


def test_a_text_file_gives_quads_in_reading_order_whatever_the_text_holds(read, write, photo, note):
    photo("a.png")
    path = write("gt_a.txt", GT)
    for given in (path, path.parent):
        (record,), notices = read("icdar", given)
        assert record.annotations == (
            note("quad", [[1, 2], [30, 2], [30, 9], [1, 9]], "Genaxis, Theatre"),
            note("quad", [[9, 9], [5, 9], [5, 5], [9, 5]], "Café"),  # a text that stands upside down
        )
        assert notices == [("text marked ###", f"{path}:2")]


def test_photos_may_lie_apart_from_their_text_files(read, write, photo, tmp_path):
    path, file = write("gt/gt_a.txt", GT), photo("photos/a.png")
    with pytest.raises(RecordError, match=rf"{path}: goes with a photo a\.\*, which is not in .*gt; root=FOLDER"):
        read("icdar", path.parent)
    assert read("icdar", path.parent, root=tmp_path / "photos")[0][0].images == (str(file),)
    with pytest.raises(DataError, match=r"has no gt_\*\.txt file; give such a folder"):
        read("icdar", tmp_path / "photos")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,30,2,30,9,1,9", "is '1,2,30,2,30,9,1,9'; expected x1,y1,x2,y2,x3,y3,x4,y4,text"),
        ("1,2,30,2,30,9,1,y,text", "[7] is the string 'y'; expected a number"),
        ("1,2,30,2,30,9,1,nan,text", "[7] is the string 'nan'; expected a finite number"),
        ("1,2,30,2,30,9,1,9, ", "[8] is empty; expected text"),
    ],
)
def test_a_broken_text_line_is_refused_by_its_number(read, write, photo, line, message):
    photo("a.png")
    path = write("gt_a.txt", f"1,2,30,2,30,9,1,9,a\n\n{line}\n")
    with pytest.raises(RecordError) as caught:
        read("icdar", path)
    assert str(caught.value).startswith(f"{path}:3: {message}")


def test_mmocrs_list_gives_quads_polygons_and_the_category_where_there_is_no_text(read, write, photo, note):
    photo("imgs/a.png")
    path = write("textdet_train.json", MMOCR)
    (record,), notices = read("icdar", path)
    assert record.annotations == (
        note("quad", [[1, 1], [9, 1], [9, 5], [1, 5]], "text"),
        note("poly", [[1, 1], [9, 1], [12, 5], [9, 8], [1, 5]], "curved"),
    )
    assert notices == [("text marked ignore", f"{path}: data_list[0].instances[1]")] and record.sizes == ((100, 50),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: top.pop("metainfo"), "metainfo is missing"),
        (lambda top: top["data_list"][0].pop("width"), "data_list[0].width is missing"),
        (lambda top: instance(top).update(bbox_label=3), "data_list[0].instances[0].bbox_label is 3; expected an id"),
        (lambda top: instance(top).update(polygon=[1, 2, 3]), "data_list[0].instances[0].polygon has 3 numbers"),
        (lambda top: instance(top).pop("polygon"), "data_list[0].instances[0].polygon is missing"),
    ],
)
def test_a_broken_list_of_mmocr_is_refused_by_field(read, write, change, message):
    top = copy.deepcopy(MMOCR)
    change(top)
    path = write("textdet_train.json", top)
    with pytest.raises(RecordError) as caught:
        read("icdar", path)
    assert str(caught.value).startswith(f"{path}: {message}")


def instance(top):
    return top["data_list"][0]["instances"][0]


def receipt(**changes):
    item = {"box": [1.0, 9.0, 30.0, 9.0, 30.0, 2.0, 1.0, 2.0], "text": "703-777-5833", "label": 5, **changes}
    return json.dumps({"file_name": "a.png", "height": 50, "width": 100, "annotations": [item]})


def test_a_receipts_quad_is_described_by_class_and_text(read, write, photo, note):
    photo("a.png")
    write("class_list.txt", "0 Ignore\n5 Tel_value\t\n")
    path = write("train.txt", f"{receipt()}\n{receipt(text='')}\n")
    (first, second), notices = read("icdar", path)
    corners = [[1, 9], [30, 9], [30, 2], [1, 2]]  # from the bottom left, as that data set has it
    assert first.annotations == (note("quad", corners, "Tel_value/text:703-777-5833"),)
    assert second.annotations == (note("quad", corners, "Tel_value"),)
    assert (second.line, notices) == (2, [])
    write("train.txt", receipt(label=4))
    with pytest.raises(
        RecordError, match=r"train\.txt:1: annotations\[0\]\.label is 4; expected a number of class_list"
    ):
        read("icdar", path)
    write("train.txt", '{"file_name": NaN}')
    with pytest.raises(RecordError, match=r"train\.txt:1: is not valid JSON"):
        read("icdar", path)


def test_real_photos_have_the_quads_they_are_listed_with(shared_data, read):
    quads = shared_data("quads")
    records, notices = read("icdar", quads / "icdar2015_mmocr/textdet_test.json")
    kept = sum(len(record.annotations) for record in records)
    assert (len(records), kept, len(notices)) == (5, 8, 37)
    assert {reason for reason, _ in notices} == {"text marked ignore"}
    (record,), notices = read("icdar", quads / "icdar2015_raw")
    assert [item.desc for item in record.annotations] == ["Genaxis Theatre", "[06]", "62-03", "Carpark"]
    assert len(notices) == 3
    (record,), notices = read("icdar", quads / "wildreceipt/data.txt")
    assert (len(record.annotations), notices) == (60, [])
    assert record.annotations[0].desc == "Store_name_value/text:SAFEWAY"
    assert Record.from_json(record.to_json()) == record
