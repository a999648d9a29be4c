"""Lines of older contracts, and today's, as today's: no word and no number is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.formats import older as older_format
from qcvl.errors import RecordError
from qcvl.schema.records import Record


def older(*objects, **fields):
    return json.dumps({"images": ["a.jpg"], "objects": list(objects), **fields}, ensure_ascii=False)


def item(desc, **geometry):
    return {**(geometry or {"bbox_2d": [1, 2, 3, 4]}), "desc": desc}


def test_polygons_without_a_count_and_other_names_are_todays_geometries(read, write, note):
    three = [1, 1, 9, 1, 4, 7]
    raw = {
        "image": "a.jpg",
        "objects": [
            item("a", poly=three),
            item("b", polygon=[[1, 1], [9, 1], [4, 7]]),
            item("c", polyline=three),
            {"bbox": [1, 2, 3, 4], "label": "d"},
            item("e", quad=[1, 1, 9, 1, 9, 9, 1, 9]),
        ],
    }
    (record,), notices = read("older", write("old.jsonl", json.dumps(raw)))
    points = [[1, 1], [9, 1], [4, 7]]
    assert record.annotations[:4] == (
        note("poly", points, "a"),
        note("poly", points, "b"),
        note("line", points, "c"),
        note("bbox_2d", [[1, 2], [3, 4]], "d"),
    )
    assert json.loads(record.to_json())["objects"][0] == {"poly_points": 3, "poly": three, "desc": "a"}
    assert notices == []


@pytest.mark.parametrize(
    ("desc", "today"),
    [
        ("类别=光纤,颜色=黄色", "光纤/颜色:黄色"),
        ("类别=BBU设备，品牌=华为，可见性=部分", "BBU设备/品牌:华为,可见性:部分"),
        ("type=cable, note=bent, near the plug, state=ok", "cable/note:bent, near the plug,state:ok"),
        ("类别=光纤", "光纤"),
        ({"类别": "光纤", "颜色": "黄色"}, "光纤/颜色:黄色"),
        ("光纤/黄色/显示完整", "光纤/黄色/显示完整"),
        ("光纤/颜色:黄色", "光纤/颜色:黄色"),
        ("a cable where 2+2=4", "a cable where 2+2=4"),
        ("name=1,name=2", "name=1,name=2"),
        ("E=mc2", "E=mc2"),
        ("颜色=黄色,品牌=华为", "颜色=黄色,品牌=华为"),
        ({"颜色": "黄色", "品牌": "华为"}, "颜色:黄色,品牌:华为"),
        ("plain", "plain"),
    ],
)
def test_descriptions_keep_every_word(read, write, desc, today):
    (record,), _ = read("older", write("old.jsonl", older(item(desc))))
    assert record.annotations[0].desc == today


@pytest.mark.parametrize(
    ("summary", "today"),
    [
        ({"光纤": 2, "统计": [{"颜色": "黄色"}]}, '{"光纤": 2, "统计": [{"颜色": "黄色"}]}'),
        ('{\n "光纤": 2\n}', '{"光纤": 2}'),
        ("光纤×2\n铭牌×1", "光纤×2 铭牌×1"),
        ("光纤×2，铭牌×1", "光纤×2，铭牌×1"),
        ("12", "12"),
        (None, None),
    ],
)
def test_summaries_are_one_line_and_json_stays_that_json(read, write, summary, today):
    (record,), _ = read("older", write("old.jsonl", older(summary=summary)))
    assert record.summary == today
    if isinstance(summary, dict):
        assert json.loads(record.summary) == summary


KIND_KEYS = set(older_format.KIND_KEYS)
names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6)


@given(names, st.dictionaries(names, names, max_size=4).filter(lambda pairs: not KIND_KEYS & pairs.keys()))
def test_pairs_can_be_read_back_from_what_they_become(tmp_path_factory, read, kind, others):
    pairs = {"category": kind, **others}
    desc = ",".join(f"{key}={value}" for key, value in pairs.items())
    path = tmp_path_factory.mktemp("older") / "old.jsonl"
    path.write_text(older(item(desc)) + "\n", encoding="utf-8")
    (record,), _ = read("older", path)
    label, _, attributes = record.annotations[0].desc.partition("/")
    assert label == kind
    assert dict(pair.split(":") for pair in attributes.split(",") if pair) == others


def test_a_line_of_today_stays_equal_and_photos_are_found_below_root(read, write, tmp_path):
    text = older(item("光纤/颜色:黄色", line=[0, 0, 5, 5], line_points=2), width=100, height=50, metadata={"k": 1})
    path = write("old.jsonl", text)
    for format_name in ("older", "jsonl"):
        (record,), _ = read(format_name, path)
        assert record.images == (f"{tmp_path}/a.jpg",)
        given = Record.from_json(text)
        assert (record.annotations, record.sizes, record.metadata) == (given.annotations, given.sizes, given.metadata)
        (record,), _ = read(format_name, path, root=tmp_path / "photos")
        assert record.images == (f"{tmp_path}/photos/a.jpg",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "2: is no JSON object; expected one record a line"),
        ('{"images": [NaN]}', "2: is not valid JSON"),
        ('{"images": []}', "2: images is an empty list"),
        ('{"images": ["a.jpg"], "objects": {}}', "2: objects is an object; expected a list"),
        ('{"images": ["a.jpg"], "objects": [3]}', "2: objects[0] is the number 3"),
        (older(item("", bbox_2d=[1, 2, 3, 4])), "2: objects[0].desc is empty"),
        (older(item("x", bbox=[1, 2, 3])), "2: objects[0].bbox_2d has 3 numbers; a box needs 4 numbers"),
        (older(item("x", bbox=[1, 2, 3, 4], bbox_2d=[1, 2, 3, 4])), "2: objects[0].bbox is not a known key"),
        (older(summary=3), "2: summary is the number 3"),
    ],
)
def test_a_broken_line_is_refused_in_the_words_of_todays_contract(read, write, text, message):
    path = write("old.jsonl", older() + "\n" + text + "\n")
    with pytest.raises(RecordError) as caught:
        read("older", path)
    assert str(caught.value).startswith(f"{path}:{message}")
