"""Files with any value in any place are read or refused by name, never by a traceback of another kind."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.reading import find_reader, told_apart
from qcvl.errors import DataError

RESULT = {"id": "r", "type": "rectanglelabels", "original_width": 99, "original_height": 99, "image_rotation": 0}
VALUE = {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 5, "rectanglelabels": ["a"]}
SHAPE = {"label": "a", "points": [[1, 2], [3, 4]], "shape_type": "rectangle", "flags": {"b": True}, "description": "c"}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 7]]}
TEXT = {"polygon": [1, 1, 9, 1, 9, 5, 1, 5], "bbox_label": 0, "ignore": False}
FILES = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.png", "width": 99, "height": 99}],
        "annotations": [{**BOX, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}],
    },
    "labelme": {
        "shapes": [{**SHAPE, "group_id": None}],
        "imagePath": "a.png",
        "imageWidth": 99,
        "imageHeight": 99,
        "flags": {},
        "imageData": None,
        "summary": "s",
        "metadata": {"k": 1},
    },
    "label_studio": [{"data": {"image": "a.png"}, "annotations": [{"result": [{**RESULT, "value": VALUE}]}]}],
    "icdar": {
        "metainfo": {"category": [{"id": 0, "name": "text"}]},
        "data_list": [{"img_path": "a.png", "width": 99, "height": 99, "instances": [TEXT]}],
    },
    "tusimple": {"raw_file": "a.png", "lanes": [[1, 2]], "h_samples": [1, 2]},
    "older": {"images": ["a.png"], "objects": [{"bbox": [1, 2, 3, 4], "desc": "a=b"}], "summary": {"a": 1}},
    "jsonl": {"images": ["a.png"], "objects": [{"bbox_2d": [1, 2, 3, 4], "desc": "a"}], "width": 9, "height": 9},
}
scalars = st.none() | st.booleans() | st.integers(-3, 200) | st.floats(-1e12, 1e12) | st.text(max_size=4)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


TEXTS = {  # a file of each text format, and what else must be there
    "yolo_obb": ("labels/a.txt", "0 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6\n0 0.5 0.5 0.2 0.4\n", {"classes.txt": "plane\n"}),
    "dota": ("labelTxt/a.txt", "gsd:0.1\n1 2 9 2 9 7 1 7 plane 0\n", {}),
    "icdar": ("gt_a.txt", "1,2,30,2,30,9,1,9,text\n", {}),
    "culane": ("images/a.lines.txt", "1 2 3 4 5 6\n", {"list/train.txt": "images/a.png\n"}),
    "cvat": (
        "annotations.xml",
        '<annotations><image name="a.png" width="9" height="9"><box label="a" xtl="1" ytl="2" xbr="3" ybr="4" '
        'rotation="5"><attribute name="b">c</attribute></box><polygon label="a" points="1,2;3,4;5,7"/></image>'
        "</annotations>",
        {},
    ),
}
scraps = st.text(st.sampled_from("0123456789.,;:-<>/=\"' \n\r\tanife&é\x00\u2028"), max_size=5)


def places(value, above=()):
    """The way to every value of a JSON tree."""
    yield above
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*above, key))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=50)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_by_name(tmp_path_factory, name, data):
    top = {"top": copy.deepcopy(FILES[name])}
    for _ in range(data.draw(st.integers(1, 2))):
        way = data.draw(st.sampled_from([place for place in places(top) if place]))
        above = top
        for key in way[:-1]:
            above = above[key]
        above[way[-1]] = data.draw(values)
    path = tmp_path_factory.getbasetemp() / f"mangled_{name}.json"
    path.write_text(json.dumps(top["top"]), encoding="utf-8")
    try:
        records, _ = told_apart(find_reader(name)(path, "train", None))
        for record in records:
            assert type(record).from_json(record.to_json()).annotations == record.annotations
    except DataError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=80)
@given(data=st.data())
def test_any_scrap_in_any_place_of_a_text_is_read_or_refused_by_name(tmp_path_factory, name, data):
    file, text, others = TEXTS[name]
    folder = tmp_path_factory.getbasetemp() / f"mangled_{name}"
    for other, content in ({"images/a.png": None, "a.png": None} | others | {file: None}).items():
        path = folder / other
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            path.write_text(content)
        elif path.suffix == ".png" and not path.exists():
            Image.new("L", (60, 40)).save(path)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(scraps) + text[start + data.draw(st.integers(0, 4)) :]
    (folder / file).write_text(text, encoding="utf-8", newline="")
    try:
        records, _ = told_apart(find_reader(name)(folder, "train", None))
        for record in records:
            assert type(record).from_json(record.to_json()).annotations == record.annotations
    except DataError as error:
        assert str(error).startswith(str(folder / file))
