"""LabelMe by its definition: points in pixels, one file a photo, and what it keeps comes back equal."""

import base64
import copy
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.formats.labelme import write as write_labelme
from qcvl.data.images import load_image
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation


def shape(kind, points, label="plug", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def labelme(*shapes, **top):
    keys = {"version": "5.4.1", "flags": {}, "imagePath": "a.png", "imageData": None}
    return {**keys, "imageHeight": 50, "imageWidth": 100, "shapes": list(shapes), **top}


def test_every_shape_becomes_its_geometry_and_two_corners_may_come_in_any_order(read, write, photo, note):
    file = photo("a.png")
    corners, four, three = [[30.5, 5], [10, 25]], [[9, 1], [9, 7], [1, 7], [1, 1]], [[1, 1], [9, 1], [4, 7]]
    shapes = [
        shape("rectangle", corners),
        shape("polygon", four),
        shape("polygon", three),
        shape("linestrip", three),
        shape("line", three[:2]),
        shape("oriented_rectangle", four),
    ]
    del shapes[2]["shape_type"]  # as in the oldest files
    (record,), notices = read("labelme", write("a.json", labelme(*shapes)))
    assert record.images == (str(file),) and record.sizes == ((100, 50),)
    assert record.annotations == (
        note("bbox_2d", [[10, 5], [30.5, 25]], "plug"),
        note("quad", four, "plug"),
        note("poly", three, "plug"),
        note("line", three, "plug"),
        note("line", three[:2], "plug"),
        note("quad", four, "plug"),
    )
    assert notices == []


def test_descriptions_and_flags_that_are_set_follow_the_label(read, write, photo):
    photo("a.png")
    item = shape("rectangle", [[0, 0], [9, 9]], description="left\nport", flags={"loose": True, "rusty": False})
    (record,), _ = read("labelme", write("a.json", labelme(item, flags={"checked": True, "day": False})))
    assert record.annotations[0].desc == "plug, left port, loose"
    assert record.metadata == {"flags": {"checked": True, "day": False}}


def test_a_folder_is_read_by_name_and_other_shapes_are_said(read, write, photo):
    photo("a.png"), photo("deep/b.png")
    write("deep/b.json", labelme(shape("circle", [[5, 5], [9, 9]]), shape("point", [[5, 5]]), imagePath="b.png"))
    write("a.json", labelme(shape("rectangle", [[0, 0], [9, 9]], group_id=3)))
    folder = write("note.txt", "not a label file").parent
    (first, second), notices = read("labelme", folder)
    assert [len(record.annotations) for record in (first, second)] == [1, 0]
    assert notices == [
        ("group_id of a shape", f"{folder}/a.json: shapes[0]"),
        ("shape of type circle", f"{folder}/deep/b.json: shapes[0]"),
        ("shape of type point", f"{folder}/deep/b.json: shapes[1]"),
    ]
    with pytest.raises(DataError, match=r"has no \*\.json file"):
        read("labelme", photo("empty/a.png").parent)


def test_a_photo_of_another_place_and_of_windows_is_found_below_root(read, write, photo, tmp_path):
    file = photo("data/images/a.png")
    path = write("labels/a.json", labelme(imagePath="..\\images\\a.png"))
    (record,), notices = read("labelme", path)
    assert record.images == (f"{tmp_path}/labels/images/a.png",)
    assert notices == [
        ("photo not found (root=FOLDER names another folder)", f"{path} ({tmp_path}/labels/images/a.png)")
    ]
    for root in (tmp_path / "data", tmp_path / "data/images"):
        (record,), notices = read("labelme", path, root=root)
        assert record.images == (str(file),) and notices == []


def test_an_embedded_photo_serves_where_there_is_no_file(read, write):
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    (record,), notices = read("labelme", write("a.json", labelme(imageData=data, imageWidth=7, imageHeight=5)))
    assert record.images == (f"data:image/png;base64,{data}",) and notices == []
    assert load_image(record.images[0]).shape == (5, 7, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: top.pop("shapes"), "shapes is missing; the format needs it"),
        (lambda top: top.pop("imagePath"), "imagePath is missing"),
        (lambda top: top.update(imageWidth="x"), "imageWidth is the string 'x'; expected a number"),
        (lambda top: top.update(flags=[1]), "flags is a list; expected an object"),
        (lambda top: top["shapes"].append(3), "shapes[1] is the number 3; expected an object with the key shape_type"),
        (lambda top: top["shapes"][0].pop("points"), "shapes[0].points is missing"),
        (lambda top: top["shapes"][0].update(label="  "), "shapes[0].label is empty; expected text"),
        (lambda top: top["shapes"][0].update(points=[[1, 2], [3]]), "shapes[0].points[1] has 1 numbers; expected 2"),
        (lambda top: top["shapes"][0].update(points=[[1, 2], [3, None]]), "shapes[0].points[1][1] is null; expected a"),
        (lambda top: top["shapes"][0].update(points=[[1, 2]]), "shapes[0].points has 1 points; a rectangle needs 2"),
    ],
)
def test_a_broken_file_is_refused_by_field(read, write, change, message):
    top = copy.deepcopy(labelme(shape("rectangle", [[0, 0], [9, 9]])))
    change(top)
    path = write("a.json", top)
    with pytest.raises(RecordError) as caught:
        read("labelme", path)
    assert str(caught.value).startswith(f"{path}: {message}")


number = st.floats(0, 1000)
point = st.tuples(number, number)
kinds = {"quad": (4, 4), "poly": (5, 9), "line": (2, 9)}  # a polygon of 4 points comes back as a quad, which is said
texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(str.strip)


@st.composite
def annotations(draw):
    kind = draw(st.sampled_from(["bbox_2d", *kinds]))
    if kind == "bbox_2d":
        x, y = draw(point)
        return Annotation(
            Shape(kind, [(x, y), (x + draw(st.floats(0.5, 9)), y + draw(st.floats(0.5, 9)))]), draw(texts)
        )
    low, high = kinds[kind]
    return Annotation(Shape(kind, draw(st.lists(point, min_size=low, max_size=high, unique=True))), draw(texts))


@given(
    photos=st.lists(st.lists(annotations(), max_size=4), min_size=1, max_size=3),
    summary=st.none() | texts,
    metadata=st.dictionaries(texts, st.integers(0, 9), max_size=2).filter(lambda keys: "flags" not in keys),
)
def test_what_labelme_holds_comes_back_equal(tmp_path_factory, read, photos, summary, metadata):
    folder = tmp_path_factory.mktemp("labelme")
    records = [
        Record(
            images=(str(folder / f"{index}.png"),),
            annotations=tuple(items),
            sizes=((2000, 2000),),
            summary=summary,
            metadata={**metadata, "flags": {"checked": True}},
        )
        for index, items in enumerate(photos)
    ]
    assert write_labelme(records, folder / "out") == []
    assert read("labelme", folder / "out", root=folder)[0] == records


def test_what_labelme_cannot_hold_is_said_and_equal_names_do_not_meet(tmp_path, note, read):
    four = note("poly", [[0, 0], [9, 0], [9, 9], [0, 9]], "four", 1)
    two = Record(images=("/p/a.png", "/q/a.png"), annotations=(four,), sizes=((9, 9), (20, 20)), annotated=True)
    bare = Record(images=("/r/b.png",), sizes=((9, 9),), annotated=False)
    notices = write_labelme([two, bare], tmp_path / "out")
    assert [(notice.reason, notice.where) for notice in notices] == [
        ("that several photos are one record", two.where),
        ("polygon of 4 points, which LabelMe cannot tell from a quad", f"{two.where}: objects[0]"),
        ("that nobody labelled the photo", bare.where),
    ]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.json", "a_2.json", "b.json"]
    written = json.loads((tmp_path / "out/a_2.json").read_text())
    assert (written["imagePath"], written["imageWidth"], len(written["shapes"])) == ("/q/a.png", 20, 1)


def test_a_photo_inside_its_record_is_written_as_image_data_and_comes_back(tmp_path, read):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(buffer, "png")
    record = Record(images=(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",))
    assert write_labelme([record], tmp_path / "out") == []
    (again,), _ = read("labelme", tmp_path / "out")
    assert again.images == record.images and again.sizes == ((7, 5),)
