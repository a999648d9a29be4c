"""Files with any value in any place are read or refused by name, never by a traceback of another kind."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def places(value, above=()):
    """The way to every value of a JSON tree."""
    yield above
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*above, key))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=80)
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
