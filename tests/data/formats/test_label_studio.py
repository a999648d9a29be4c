"""Label Studio's JSON export by its definition: percent of the photo's sides, turned about the top left corner."""

import copy

import numpy as np
import pytest

from qcvl.errors import RecordError

SIZES = {"original_width": 200, "original_height": 100, "image_rotation": 0}


def rectangle(key="r1", label="plug", turn=0, **more):
    value = {"x": 10, "y": 20, "width": 25, "height": 10, "rotation": turn, "rectanglelabels": [label]}
    return {
        "id": key,
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "value": value,
        **SIZES,
        **more,
    }


def polygon(points, key="p1"):
    value = {"points": points, "closed": True, "polygonlabels": ["plate"]}
    return {"id": key, "type": "polygonlabels", "from_name": "label", "to_name": "image", "value": value, **SIZES}


def words(kind, value, key="w1"):
    return {"id": key, "type": kind, "from_name": "about", "to_name": "image", "value": value}


def task(*results, image="/data/upload/3/1a2b-a.png", **more):
    return {"id": 5, "data": {"image": image}, "annotations": [{"id": 9, "result": list(results)}], **more}


def test_rectangles_and_polygons_are_percent_of_the_sides(read, write, photo, note):
    file = photo("1a2b-a.png", 200, 100)
    shapes = (rectangle(), polygon([[0, 0], [50, 0], [50, 50], [0, 50]]), polygon([[0, 0], [50, 0], [10, 30]], "p2"))
    (record,), notices = read("label_studio", write("export.json", [task(*shapes)]))
    assert record.images == (str(file),) and record.sizes == ((200, 100),)
    assert record.annotations == (
        note("bbox_2d", [[20, 20], [70, 30]], "plug"),
        note("quad", [[0, 0], [100, 0], [100, 50], [0, 50]], "plate"),
        note("poly", [[0, 0], [100, 0], [20, 30]], "plate"),
    )
    assert notices == [] and record.summary is None


def test_a_turned_rectangle_turns_clockwise_about_its_top_left_corner(read, write, photo):
    photo("1a2b-a.png", 200, 100)
    (record,), _ = read("label_studio", write("export.json", [task(rectangle(turn=90), rectangle("r2", turn=30))]))
    quarter, tilted = (item.shape for item in record.annotations)
    # 50 by 10 pixels from 20, 20: turned by a quarter it hangs down from there, to the left
    np.testing.assert_allclose(quarter.points, [[20, 20], [20, 70], [10, 70], [10, 20]], atol=1e-9)
    np.testing.assert_allclose(tilted.points[0], [20, 20])
    np.testing.assert_allclose(tilted.points[1], [20 + 50 * np.sqrt(3) / 2, 45])
    assert np.linalg.norm(tilted.points[2] - tilted.points[1]) == pytest.approx(10)


def test_words_about_a_region_follow_its_label_and_words_about_the_photo_are_the_summary(read, write, photo):
    photo("1a2b-a.png", 200, 100)
    separate = rectangle("r2")
    separate = {**separate, "type": "rectangle", "value": {k: v for k, v in separate["value"].items() if k[0] != "r"}}
    results = [
        rectangle(),
        words("choices", {"choices": ["loose", "bent"], "x": 10, "y": 20, "width": 25, "height": 10}, "r1"),
        words("textarea", {"text": ["two\nlines"], "x": 10, "y": 20, "width": 25, "height": 10}, "r1"),
        separate,
        words("labels", {"labels": ["wire"], "x": 10, "y": 20, "width": 25, "height": 10}, "r2"),
        words("choices", {"choices": ["fail"]}, "w1"),
        words("textarea", {"text": "one plug is loose"}, "w2"),
        words("taxonomy", {"taxonomy": [["board", "front"]]}, "w3"),
    ]
    (record,), notices = read("label_studio", write("export.json", [task(*results)]))
    assert [item.desc for item in record.annotations] == ["plug, loose, bent, two lines", "wire"]
    assert record.summary == "fail, one plug is loose, board/front" and notices == []


def test_what_is_left_out_is_said_and_tasks_nobody_did_are_not_labelled(read, write, photo):
    photo("1a2b-a.png", 200, 100), photo("b.png", 200, 100)
    brush = words("brushlabels", {"format": "rle", "rle": [1, 2], "brushlabels": ["x"]}, "b1")
    bare = rectangle("r2")
    del bare["value"]["rectanglelabels"]
    relation = {"type": "relation", "from_id": "r1", "to_id": "b1", "direction": "right"}
    done = task(rectangle(), brush, bare, rectangle("r3", image_rotation=90), relation)
    done["annotations"] = [
        {"result": [rectangle()], "was_cancelled": True},
        *done["annotations"],
        {"result": [rectangle()]},
    ]
    done["predictions"] = [{"result": []}]
    todo = task(image="b.png")
    todo["data"]["site"] = "A"
    todo["annotations"] = []
    path = write("export.json", [done, todo])
    (first, second), notices = read("label_studio", path)
    assert (len(first.annotations), first.annotated, second.annotated) == (1, True, False)
    assert (first.metadata, second.metadata) == ({}, {"site": "A"})
    assert [(reason, where.removeprefix(f"{path}: [0].annotations")) for reason, where in notices] == [
        ("annotation of another annotator", "[2]"),
        ("predictions of a model", f"{path}: [0]"),
        ("result of type brushlabels", "[1].result[1]"),
        ("shape without a label", "[1].result[2]"),
        ("shape on a photo that was turned in Label Studio", "[1].result[3]"),
        ("result of type relation", "[1].result[4]"),
    ]


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/a.png",
        "/data/local-files/?d=shots%2Fa.png",
        "/data/local-files/?d=old/shots/a.png",
        "https://host.example/bucket/a.png?token=1",
        "s3://bucket/deep/shots/a.png",
        "a.png",
    ],
)
def test_urls_of_photos_lead_to_files_below_the_root(read, write, photo, image):
    file = photo("shots/a.png", 200, 100)
    path = write("export.json", [task(rectangle(), image=image)])
    (record,), notices = read("label_studio", path, root=file.parent)
    assert record.images == (str(file),) and notices == []


def test_a_size_that_is_missing_is_read_from_the_photo_which_must_be_there(read, write, photo, note):
    bare = {key: value for key, value in rectangle().items() if not key.startswith("original")}
    path = write("export.json", [task(bare)])
    with pytest.raises(RecordError) as caught:
        read("label_studio", path)
    assert str(caught.value).startswith(f"{path}: [0].annotations[0].result[0] needs a size: its photo (")
    photo("1a2b-a.png", 100, 50)
    (record,), _ = read("label_studio", path)
    assert record.annotations == (note("bbox_2d", [[10, 10], [35, 15]], "plug"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: top[0].pop("data"), "[0].data is missing"),
        (lambda top: top[0].update(data={"a": "x", "b": "y"}), "[0].data has the texts a, b; expected image, the name"),
        (lambda top: top[0].update(data={"image": 3}), "[0].data has the texts none; expected image"),
        (lambda top: top[0].pop("annotations"), "[0].annotations is missing"),
        (lambda top: top[0]["annotations"].append(3), "[0].annotations[1] is the number 3; expected an object"),
        (lambda top: top[0]["annotations"][0].pop("result"), "[0].annotations[0].result is missing"),
        (lambda top: result(top).update(value=[]), "[0].annotations[0].result[0].value is a list; expected an object"),
        (
            lambda top: result(top).update(original_width=0),
            "[0].annotations[0].result[0].original_width is the number 0",
        ),
        (
            lambda top: result(top)["value"].update(x="left"),
            "[0].annotations[0].result[0].value.x is the string 'left'",
        ),
        (
            lambda top: result(top)["value"].update(rotation={}),
            "[0].annotations[0].result[0].value.rotation is an object",
        ),
        (
            lambda top: result(top)["value"].update(rectanglelabels=[""]),
            "[0].annotations[0].result[0].value.rectanglelabels[0] is empty",
        ),
    ],
)
def test_a_broken_export_is_refused_by_entry_and_field(read, write, photo, change, message):
    photo("1a2b-a.png", 200, 100)
    top = copy.deepcopy([task(rectangle())])
    change(top)
    path = write("export.json", top)
    with pytest.raises(RecordError) as caught:
        read("label_studio", path)
    assert str(caught.value).startswith(f"{path}: {message}")


def result(top):
    return top[0]["annotations"][0]["result"][0]
