"""Rows of ms-swift: several ways to say the same, and grounding objects in their placeholders."""

import pytest
from PIL import Image

from qcvl.schema.types import IMAGE
from tests.data.chat_samples import as_read_again, grounding, spoken, talk


@pytest.mark.parametrize(
    ("sample", "turns"),
    [
        ({"query": "Q", "response": "A"}, ["Q", "A"]),
        ({"query": "Q", "response": "A", "history": [["q", "a"]], "system": "S"}, ["S", "q", "a", "Q", "A"]),
        ({"instruction": "I", "input": "N", "output": "A", "history": []}, ["I\nN", "A"]),
        ({"instruction": "I", "input": "", "output": "A"}, ["I", "A"]),
        (talk("Q", "A"), ["Q", "A"]),
        (talk("Q", "A", form="messages", system="S"), ["S", "Q", "A"]),
    ],
)
def test_ms_swift_has_several_ways_to_say_the_same(read, sample, turns):
    (record,) = read("ms_swift", {**sample, "channel": "x"})
    assert [parts for _, parts in spoken(record)] == [(turn,) for turn in turns]
    roles = ["system"] * (len(turns) % 2) + ["user", "assistant"] * (len(turns) // 2)
    assert [role for role, _ in spoken(record)] == roles and record.metadata == {"channel": "x"}


def test_ms_swift_images_are_listed_named_in_the_text_or_all_in_front(read):
    listed, named, front = read(
        "ms_swift",
        talk("a <image>\nb", "A", form="messages", images="x.jpg"),
        {"query": "<img>https://host/y.jpg</img>Q", "response": "A", "history": [["<img>x.jpg</img>", "a"]]},
        {"query": "Q", "response": "A", "history": [["q", "a"]], "images": ["x.jpg", "y.jpg"]},
    )
    assert listed.messages[0].parts == ("a ", IMAGE, "\nb") and listed.images == ("in/x.jpg",)
    assert named.images == ("in/x.jpg", "https://host/y.jpg")
    assert [message.parts for message in named.messages] == [(IMAGE,), ("a",), (IMAGE, "Q"), ("A",)]
    assert [message.parts for message in front.messages] == [(IMAGE, IMAGE, "q"), ("a",), ("Q",), ("A",)]


@pytest.fixture
def board(tmp_path):
    """``in/board.png``, 200 px wide and 100 high, and ``in/strip.png``, 1000 by 10."""
    (tmp_path / "in").mkdir()
    for name, size in (("board", (200, 100)), ("strip", (1000, 10))):
        Image.new("RGB", size).save(tmp_path / f"in/{name}.png")


def test_names_and_boxes_fill_their_placeholders_in_thousandths_of_the_image(read, board):
    answer = '[{"bbox_2d": <bbox>, "label": "<ref-object>"}, {"bbox_2d": <bbox>, "label": "<ref-object>"}]'
    objects = {"ref": ["clip", "clip <image>", "<bbox>"], "bbox": [[20, 10.1, 100, 99.96], [0, 0, 200, 101]]}
    (record,) = read("ms_swift", grounding(answer, objects))
    assert record.messages[0].parts == (IMAGE, "Find the clip")
    assert record.messages[1].parts == (
        '[{"bbox_2d": [100, 101, 500, 1000], "label": "clip <image>"}, '
        '{"bbox_2d": [0, 0, 1000, 1000], "label": "<bbox>"}]',
    )
    assert as_read_again(record) == record and record.metadata == {}


def test_boxes_may_be_shares_points_or_in_another_image(read, board):
    shares = grounding("<bbox>", {"bbox": [[0.1, 0.25, 0.5, 1]], "bbox_type": "norm1"}, "<image>Q", ["absent.png"])
    points = grounding("<bbox><bbox>", {"bbox": [[50, 5], [50, 5]], "image_id": [1]}, "<image><image>Q",
                       ["board.png", "strip.png"])  # fmt: skip
    found = read("ms_swift", shares, points)
    assert [record.messages[1].parts for record in found] == [("[100, 250, 500, 1000]",), ("[50, 500][250, 50]",)]


@pytest.mark.parametrize(
    ("answer", "objects", "message"),
    [
        (
            "<bbox><bbox>",
            {"ref": ["x"], "bbox": [[1, 2, 3, 4]]},
            "messages[1] has more <bbox> than the 1 of objects.bbox",
        ),
        ("<bbox>", {"bbox": [[1, 2, 3, 4]]}, "messages[0] has more <ref-object> than the 0 of objects.ref"),
        ("none", {"ref": ["x"], "bbox": [[1, 2, 3, 4]]}, "objects.bbox has 1 entries for 0 <bbox>"),
        ("<bbox>", {"ref": ["x", "y"], "bbox": [[1, 2, 3, 4]]}, "objects.ref has 2 entries for 1 <ref-object>"),
        ("<bbox>", {"ref": ["x"], "bbox": [[1, 2, 3]]}, "objects.bbox[0] is [1, 2, 3]; expected x, y pairs"),
        ("<bbox>", {"ref": ["x"], "bbox": ["1,2"]}, "objects.bbox[0] is '1,2'; expected x, y pairs"),
        ("<bbox>", {"ref": ["x"], "bbox": [[9, 2, 3, 4]]}, "objects.bbox[0] is [9, 2, 3, 4]; a box needs x1 <= x2"),
        (
            "<bbox>",
            {"ref": ["x"], "bbox": [[1, 2]], "bbox_type": "pix"},
            "objects.bbox_type is 'pix'; expected real or n",
        ),
        (
            "<bbox>",
            {"ref": ["x"], "bbox": [[1, 2]], "image_id": [1]},
            "objects.image_id[0] is 1; expected the number of",
        ),
        ("<bbox>", [], "objects is a list; expected an object with ref and bbox"),
    ],
)
def test_objects_that_do_not_fit_their_placeholders_are_refused(refusal, board, answer, objects, message):
    assert refusal("ms_swift", grounding(answer, objects)).startswith(message)


def test_pixels_need_the_image_they_are_pixels_of(refusal):
    found = refusal("ms_swift", grounding("<bbox>", {"ref": ["x"], "bbox": [[1, 2, 3, 4]]}))
    assert found.startswith("images[0] (") and "board.png) not found" in found
    assert "its size turns pixels into thousandths" in found


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"query": "Q"}, "response is missing; expected messages, conversations, query and response, or instruction"),
        ({"response": "A"}, "instruction is missing; expected messages"),
        (
            {"query": "Q", "response": "A", "history": ["x"]},
            "history[0] is no pair; expected a question and its answer",
        ),
        ({"query": "Q", "response": "A", "history": "x"}, "history is the string 'x'; expected pairs"),
        ({"query": 3, "response": "A"}, "query is the number 3; expected text"),
        (
            {"query": "Q", "response": "<img>a.jpg</img>"},
            "response holds the tag <img>, but images stand in user turns",
        ),
    ],
)
def test_what_ms_swift_rows_lack_is_refused_by_name(refusal, sample, message):
    assert refusal("ms_swift", sample).startswith(message)
