"""COCO by its definition: boxes are x, y, width, height of edges; what it cannot hold is said."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.formats.coco import write as write_coco
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

IMAGE = {"id": 7, "file_name": "a.png", "width": 100, "height": 50}
BOX = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 5.5], "area": 165, "iscrowd": 0}
GOOD = {"images": [IMAGE], "annotations": [BOX], "categories": [{"id": 3, "name": "screw", "supercategory": "part"}]}


def coco(*annotations, **top):
    return {**GOOD, "annotations": [{**BOX, **changes} for changes in annotations], **top}


def test_a_box_is_given_by_its_edges_and_a_description_is_the_category(read, write, photo, note):
    file = photo("a.png")
    (record,), notices = read("coco", write("instances.json", GOOD))
    assert record.images == (str(file),) and record.sizes == ((100, 50),)
    assert record.annotations == (note("bbox_2d", [[10, 20], [40, 25.5]], "screw"),)
    assert notices == []
    assert Record.from_json(record.to_json()) == record


def test_one_polygon_is_a_polygon_or_with_four_corners_a_quad_in_its_own_order(read, write, photo, note):
    photo("a.png")
    triangle, quad = [1, 1, 9, 1, 4, 7], [9, 1, 9, 7, 1, 7, 1, 1]
    path = write("instances.json", coco({"segmentation": [triangle]}, {"segmentation": [quad]}, {"segmentation": []}))
    (record,), notices = read("coco", path)
    assert record.annotations == (
        note("poly", [[1, 1], [9, 1], [4, 7]], "screw"),
        note("quad", [[9, 1], [9, 7], [1, 7], [1, 1]], "screw"),
        note("bbox_2d", [[10, 20], [40, 25.5]], "screw"),
    )
    assert notices == []


def test_what_is_left_out_is_said_with_its_place(read, write, photo):
    photo("a.png")
    parts = [[1, 1, 9, 1, 4, 7], [21, 1, 29, 1, 24, 7]]
    path = write(
        "instances.json",
        coco(
            {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [50, 100]}},
            {"ignore": 1},
            {"segmentation": {"counts": "abc", "size": [50, 100]}},
            {"segmentation": parts},
            {"segmentation": [[1, 1, 9, 1]]},
            {"bbox": [5, 5, 0, 9]},
            {"bbox": [500, 5, 9, 9]},
            {"keypoints": [1, 1, 2], "num_keypoints": 1},
            {"attributes": {}},
        ),
    )
    (record,), notices = read("coco", path)
    assert [item.shape.kind for item in record.annotations] == ["bbox_2d"] * 5
    assert [(reason, where.removeprefix(f"{path}: ")) for reason, where in notices] == [
        ("object marked iscrowd", "annotations[0]"),
        ("object marked ignore", "annotations[1]"),
        ("mask in run lengths; the object keeps its box", "annotations[2]"),
        ("mask of several polygons; the object keeps its box", "annotations[3]"),
        ("polygon of fewer than 3 points; the object keeps its box", "annotations[4]"),
        ("box without area", "annotations[5]"),
        ("object wholly outside its photo", "annotations[6]"),
        ("keypoints of an object", "annotations[7]"),
        ("num_keypoints of an object", "annotations[7]"),
    ]


def test_photos_without_objects_stay_and_records_are_in_the_order_of_images(read, write, photo):
    photo("b/c.png"), photo("a.png")
    images = [{**IMAGE, "id": "x", "file_name": "b/c.png"}, IMAGE]
    (empty, full), _ = read("coco", write("instances.json", {**GOOD, "images": images}))
    assert (empty.annotations, empty.annotated, empty.line) == ((), True, 1)
    assert (len(full.annotations), full.line) == (1, 2) and full.where.endswith("instances.json:2")


def test_further_keys_of_an_image_are_metadata(read, write, photo):
    photo("a.png")
    image = {**IMAGE, "license": 1, "date_captured": "today", "site": "A", "metadata": {"label": "fail"}}
    (record,), _ = read("coco", write("instances.json", {**GOOD, "images": [image]}))
    assert record.metadata == {"site": "A", "label": "fail"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: top["images"].append(IMAGE), "images[1].id is 7, as images[0] has it; expected an id of its own"),
        (lambda top: top["categories"].append(top["categories"][0]), "categories[1].id is 3, as categories[0] has it"),
        (lambda top: top.pop("images"), "images is missing; the format needs it"),
        (lambda top: top.update(images={}), "images is an object; expected a list"),
        (lambda top: top["images"][0].pop("id"), "images[0].id is missing"),
        (lambda top: top["images"][0].update(width="wide"), "images[0].width is the string 'wide'; expected a number"),
        (lambda top: top["images"][0].update(height=0), "images[0].height is the number 0; expected a whole number"),
        (lambda top: top["images"][0].update(file_name=3), "images[0].file_name is the number 3; expected text"),
        (
            lambda top: top["annotations"][0].update(image_id=8),
            "annotations[0].image_id is 8, which no entry of images",
        ),
        (lambda top: top["annotations"][0].update(category_id=4), "annotations[0].category_id is 4; expected an id of"),
        (lambda top: top["annotations"][0].update(bbox=[1, 2, 3]), "annotations[0].bbox has 3 numbers; expected 4"),
        (lambda top: top["annotations"][0].update(bbox=[1, 2, -3, 4]), "annotations[0].bbox has width -3 and height 4"),
        (lambda top: top["annotations"][0].update(bbox=[1, 2, "x", 4]), "annotations[0].bbox[2] is the string 'x'"),
        (lambda top: top["annotations"][0].update(bbox=[1, 2, 1e99, 4]), "annotations[0].bbox[2] is the number 1e+99"),
        (lambda top: top["annotations"][0].pop("bbox"), "annotations[0].bbox is missing"),
        (
            lambda top: top["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
            "annotations[0].segmentation[0] has 7 numbers; expected x, y pairs",
        ),
        (lambda top: top["categories"][0].update(name=""), "categories[0].name is empty; expected text"),
    ],
)
def test_a_broken_file_is_refused_by_entry_and_field(read, write, change, message):
    top = copy.deepcopy(GOOD)
    change(top)
    path = write("instances.json", top)
    with pytest.raises(RecordError) as caught:
        read("coco", path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_nan_and_a_missing_file_are_refused(read, write, tmp_path):
    path = write("instances.json", json.dumps(GOOD).replace("5.5", "NaN"))
    with pytest.raises(RecordError, match=r"instances\.json: is not valid JSON \(.* at line 1, column \d+\); NaN and"):
        read("coco", path)
    with pytest.raises(RecordError, match=r"none\.json: cannot be read \(No such file"):
        read("coco", tmp_path / "none.json")


def test_what_coco_has_no_place_for_is_said_when_it_is_written(tmp_path, note):
    objects = (
        note("line", [[0, 0], [9, 9]], "cable"),
        note("quad", [[0, 0], [9, 9], [9, 0], [0, 9]], "bow-tie"),
        note("poly", [[0, 0], [9, 0], [9, 9], [0, 9]], "four"),
        note("bbox_2d", [[0, 0], [9, 9]], "second", 1),
    )
    two = Record(images=("/p/a.png", "/p/b.png"), annotations=objects, sizes=((9, 9), (20, 20)))
    inside = Record(images=("data:image/png;base64,AAAA",), annotated=False)
    notices = write_coco([two, inside], tmp_path / "out.json")
    assert [(notice.reason, notice.where) for notice in notices] == [
        ("that several photos are one record, which COCO has no place for", "the record of /p/a.png"),
        ("line, which COCO has no place for", "the record of /p/a.png: objects[0]"),
        ("outline that crosses itself, which has no mask", "the record of /p/a.png: objects[1]"),
        ("polygon of 4 points, which COCO cannot tell from a quad", "the record of /p/a.png: objects[2]"),
        ("that nobody labelled the photo, which COCO has no place for", inside.where),
        ("photo inside its record; COCO names files", inside.where),
    ]
    written = json.loads((tmp_path / "out.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["/p/a.png", "/p/b.png"]
    assert [(row["image_id"], row["bbox"]) for row in written["annotations"]] == [(1, [0, 0, 9, 9]), (2, [0, 0, 9, 9])]
    assert written["categories"] == [{"id": 1, "name": "four"}, {"id": 2, "name": "second"}]


def test_photos_of_unknown_size_are_measured_when_they_are_written(tmp_path, photo):
    file = photo("photos/a.png", 31, 17)
    write_coco([Record(images=(str(file),))], tmp_path / "out.json")
    (image,) = json.loads((tmp_path / "out.json").read_text())["images"]
    assert (image["width"], image["height"], image["file_name"]) == (31, 17, "photos/a.png")
    with pytest.raises(DataError, match=r"the record of nowhere\.png: image \(nowhere\.png\) not found"):
        write_coco([Record(images=("nowhere.png",))], tmp_path / "other.json")


decimals = st.integers(0, 9_000_000).map(lambda value: value / 1000)  # three digits behind the point
points = st.tuples(decimals, decimals)


@st.composite
def outlines(draw):
    """An outline around a centre, so that it does not cross itself; three points or more, not four as a polygon."""
    count = draw(st.integers(3, 9))
    (x, y), radii = draw(points), draw(st.lists(st.integers(5, 90), min_size=count, max_size=count))
    turns = np.arange(count) * 2 * np.pi / count
    pairs = np.round(np.stack([x + radii * np.cos(turns), y + radii * np.sin(turns)], axis=1), 3)
    return Shape("quad" if count == 4 else "poly", pairs)


@st.composite
def boxes(draw):
    (x, y), width, height = draw(points), draw(st.integers(1, 10**6)), draw(st.integers(1, 10**6))
    return Shape("bbox_2d", [[x, y], [round(x + width / 1000, 3), round(y + height / 1000, 3)]])


labels = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(str.strip)


objects = st.lists(st.builds(Annotation, boxes() | outlines(), labels), max_size=4)


@given(
    photos=st.lists(objects, min_size=1, max_size=3),
    summary=st.none() | labels,
    metadata=st.dictionaries(labels, st.integers(0, 9), max_size=2),
)
def test_boxes_outlines_and_what_is_known_of_a_photo_come_back_equal(tmp_path_factory, read, photos, summary, metadata):
    folder = tmp_path_factory.mktemp("coco")
    records = [
        Record(
            images=(str(folder / f"{index}.png"),),
            annotations=tuple(items),
            sizes=((10**4, 10**4),),
            summary=summary,
            metadata=metadata,
        )
        for index, items in enumerate(photos)
    ]
    assert write_coco(records, folder / "out.json") == []
    again, notices = read("coco", folder / "out.json")
    assert again == records
    assert {reason for reason, _ in notices} == {"photo not found (root=FOLDER names another folder)"}


def test_the_evaluation_tool_loads_what_is_written_and_counts_the_same_pixels(tmp_path, note):
    faster_coco_eval = pytest.importorskip("faster_coco_eval")
    poly, box = note("poly", [[0, 0], [60, 0], [60, 30], [30, 30], [30, 60], [0, 60]], "L"), [[10, 20], [40, 25]]
    record = Record(images=("/p/a.png",), annotations=(poly, note("bbox_2d", box, "screw")), sizes=((100, 80),))
    write_coco([record], tmp_path / "out.json")
    loaded = faster_coco_eval.COCO(str(tmp_path / "out.json"))
    first, second = loaded.loadAnns(loaded.getAnnIds())
    assert loaded.loadCats([first["category_id"]])[0]["name"] == "L"
    assert (first["area"], first["bbox"], second["area"], second["bbox"]) == (
        2700,
        [0, 0, 60, 60],
        150,
        [10, 20, 30, 5],
    )
    assert loaded.annToMask(first).sum() == 2700 and loaded.annToMask(first).shape == (80, 100)
