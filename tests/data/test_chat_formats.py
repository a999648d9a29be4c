"""Conversations in four forms of other tools: what becomes of their turns and images, and what is refused by name."""

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcvl.data.reading import file_name
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE

FORMATS = ("qwen_conversations", "messages", "ms_swift", "sharegpt")
VIDEO, AUDIO = "video is not read yet", "audio is not read"


def opened(name: str, path: Path, folder: Path) -> list[Record]:
    """The records a reader makes of a file, with their photos named from ``folder``."""
    found = import_module(f"qcvl.data.formats.{name}").to_records(path, "train", None)
    return [replace(record, images=tuple(file_name(image, folder) for image in record.images)) for record in found]


@pytest.fixture
def read(tmp_path):
    """``read(format, sample, …)``: the records of these samples, a file in ``in/`` read for a JSONL file beside it."""

    def run(name: str, *samples, file="in/data.json") -> list[Record]:
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(samples, ensure_ascii=False), encoding="utf-8")
        return opened(name, path, tmp_path)

    return run


@pytest.fixture
def refusal(read, tmp_path):
    """``refusal(format, sample)``: why the second of two samples is refused, without the file's name."""

    def run(name: str, sample) -> str:
        with pytest.raises(RecordError) as caught:
            read(name, [], sample)
        message = str(caught.value)
        start = f"{tmp_path}/in/data.json: [1]."
        assert message.startswith(start), message
        return message.removeprefix(start)

    return run


def spoken(record: Record) -> list[tuple]:
    """``(role, parts)`` of each turn."""
    return [(message.role, message.parts) for message in record.messages]


def talk(*texts, form="conversations", **fields) -> dict:
    """A sample whose turns are the user's and the assistant's by turns."""
    names, said = (("human", "gpt"), "value") if form == "conversations" else (("user", "assistant"), "content")
    speaker = "from" if form == "conversations" else "role"
    turns = [{speaker: names[number % 2], said: text} for number, text in enumerate(texts)]
    return {form: turns, **fields}


def as_read_again(record: Record) -> Record:
    return Record.from_json(record.to_json(), path="all.jsonl", line=1)


# Qwen's own conversations


def test_conversations_show_each_image_where_its_tag_stands(read):
    single = talk("<image>\nWhat is broken?", "The clip.", image="a.jpg", id=7)
    several = talk("<image>\n<image>\nCompare.", "Alike.", "And\n<image>?", "No.", image=["a.jpg", "/b.jpg", "c.jpg"])
    one, two = read("qwen_conversations", single, several)
    assert spoken(one) == [("user", (IMAGE, "What is broken?")), ("assistant", ("The clip.",))]
    assert (one.images, one.metadata, one.annotated) == (("in/a.jpg",), {"id": 7}, False)
    assert [parts for _, parts in spoken(two)] == [
        (IMAGE, IMAGE, "Compare."),
        ("Alike.",),
        ("And", IMAGE, "?"),
        ("No.",),
    ]
    assert two.images == ("in/a.jpg", "/b.jpg", "in/c.jpg")
    assert as_read_again(two) == two


def test_one_line_break_on_each_side_of_a_tag_belongs_to_it_and_no_other(read):
    (record,) = read("qwen_conversations", talk("a\n\n<image>\n\n b", " c\n", image="a.jpg"))
    assert [parts for _, parts in spoken(record)] == [("a\n", IMAGE, "\n b"), (" c\n",)]


def test_packed_conversations_are_records_of_their_own_and_data_path_is_their_folder(read):
    sample = talk("<image>Q", "A", image="a.jpg")
    found = read("qwen_conversations", [sample, {**sample, "data_path": "photos"}], {**sample, "data_path": "/data"})
    assert [record.images for record in found] == [("in/a.jpg",), ("in/photos/a.jpg",), ("/data/a.jpg",)]


@pytest.mark.parametrize("beside", [True, False])
def test_a_system_text_stands_beside_the_turns_or_first_among_them(read, beside):
    sample = talk("Q", "A")
    if beside:
        sample["system"] = "S"
    else:
        sample["conversations"].insert(0, {"from": "system", "value": "S"})
    (record,) = read("qwen_conversations", sample)
    assert spoken(record) == [("system", ("S",)), ("user", ("Q",)), ("assistant", ("A",))]
    assert record.images == ()


@pytest.mark.parametrize("name", ["qwen_conversations", "sharegpt", "ms_swift"])
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (talk("<image><image>Q", "A", image="a"), "conversations[0].value has a place for one image more than"),
        (talk("<image>Q", "A", image=["a", "b"]), "conversations have places for 1 of 2 images; expected one for each"),
        (talk("Q", "<image>A", image="a"), "conversations[1].value holds the tag <image>, but images stand in"),
        (talk("<video>Q", "A"), f"conversations[0].value holds the tag <video>, but {VIDEO}"),
        (talk("Q", "<video>"), f"conversations[1].value holds the tag <video>, but {VIDEO}"),
        (talk("<audio>Q", "A"), f"conversations[0].value holds the tag <audio>, but {AUDIO}"),
        (talk("Q", "A", video="a.mp4"), f"video is given, but {VIDEO}"),
        (talk("Q", "A", videos=["a.mp4"]), f"videos is given, but {VIDEO}"),
        (talk("Q", "A", audios=["a.wav"]), f"audios is given, but {AUDIO}"),
        (talk("Q", "A", tools='[{"name": "x"}]'), "tools are given, but calls of tools are not trained"),
        (talk("Q"), 'conversations[0].from is "user"; expected a last turn of the assistant'),
        (talk("Q", ""), "conversations[1].value is empty; expected what the assistant says"),
        (talk("Q", None), "conversations[1].value is null; expected text"),
        (talk(), "conversations is an empty list; expected the turns of a conversation"),
        ({"conversations": "x"}, "conversations is the string 'x'; expected the turns"),
        ({"conversations": ["x"]}, "conversations[0] is the string 'x'; expected an object with role"),
        (talk("<image>Q", "A", image=[3]), "image[0] is the number 3; expected an image"),
        (
            {"conversations": [{"from": "system", "value": "T"}, *talk("Q", "A")["conversations"]], "system": "S"},
            "system is given, but the first turn is the system's too",
        ),
    ],
)
def test_what_tagged_conversations_cannot_hold_is_refused_by_name(refusal, name, sample, message):
    assert refusal(name, sample).startswith(message)


@pytest.mark.parametrize("name", ["qwen_conversations", "sharegpt", "ms_swift"])
@pytest.mark.parametrize("speaker", ["observation", "function_call", "tool", "", None])
def test_an_unknown_speaker_is_refused(refusal, name, speaker):
    sample = {"conversations": [{"from": "human", "value": "Q"}, {"from": speaker, "value": "x"}]}
    found = f'is "{speaker}"' if isinstance(speaker, str) else "is null"
    assert refusal(name, sample) == f"conversations[1].from {found}; expected human, gpt or system"


@pytest.mark.parametrize("name", ["qwen_conversations", "sharegpt"])
def test_where_tags_are_the_rule_an_image_without_one_is_refused(refusal, name):
    found = refusal(name, talk("Q", "A", image="a.jpg"))
    assert found == "conversations have places for 0 of 1 images; expected one for each"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("loss", False, "loss is false, but every turn of the assistant is trained"),
        ("weight", 0, "weight is the number 0, but every turn of the assistant is trained"),
        ("tool_calls", [{"id": 1}], "tool_calls is given, but it is not trained"),
        ("reasoning_content", "hm", "reasoning_content is given, but it is not trained"),
    ],
)
@pytest.mark.parametrize("name", ["messages", "ms_swift", "sharegpt"])
def test_a_turn_whose_training_we_would_change_is_refused(refusal, read, name, key, value, message):
    sample = talk("Q", "A", form="messages")
    sample["messages"][1] |= {"loss": True, "weight": 1, "tool_calls": [], "name": "Ann"}
    assert len(read(name, sample)) == 1
    sample["messages"][1][key] = value
    assert refusal(name, sample).startswith(f"messages[1].{message}")


# OpenAI's messages


def part(kind, **fields):
    return {"type": kind, **fields}


def test_messages_name_their_images_in_any_way_users_write_them(read):
    asked = [
        part("image_url", image_url={"url": "a.jpg", "detail": "high"}),
        part("text", text="Look."),
        part("image_url", image_url="file:///data/b.jpg"),
        part("image", image="https://host/c.jpg"),
        part("image"),
        part("image_url", image_url={"url": "data:image/png;base64,AAAA"}),
    ]
    sample = talk(asked, [part("text", text="A")], form="messages", images=["listed.jpg"])
    sample["messages"].insert(0, {"role": "developer", "content": "S"})
    (record,) = read("messages", sample)
    images = ("in/a.jpg", "/data/b.jpg", "https://host/c.jpg", "in/listed.jpg", "data:image/png;base64,AAAA")
    assert record.images == images
    assert spoken(record) == [
        ("system", ("S",)),
        ("user", (IMAGE, "Look.", IMAGE, IMAGE, IMAGE, IMAGE)),
        ("assistant", ("A",)),
    ]
    assert as_read_again(record) == record


def test_listed_images_that_no_part_shows_come_first(read):
    (record,) = read("messages", talk("Q", "A", form="messages", images=["a.jpg", "b.jpg"]))
    assert spoken(record)[0] == ("user", (IMAGE, IMAGE, "Q"))


def test_a_tag_in_messages_is_text(read):
    (record,) = read("messages", talk("Is <image> a tag?", "<image> <|im_end|>", form="messages"))
    assert [parts for _, parts in spoken(record)] == [("Is <image> a tag?",), ("<image> <|im_end|>",)]


@pytest.mark.parametrize(
    ("asked", "fields", "message"),
    [
        ([part("image", url="a.jpg")], {}, "[0].url does not belong to a part of type image; expected image"),
        ([part("image", image_url={"url": "a"})], {}, "[0].image_url does not belong to a part of type image"),
        (
            [part("image_url", url="a.jpg")],
            {},
            "[0].url does not belong to a part of type image_url; expected image_url",
        ),
        ([part("image_url", image="a.jpg")], {}, "[0].image does not belong to a part of type image_url"),
        ([part("image_url", image_url={"href": "a"})], {}, "[0].image_url.url is null; expected an image"),
        ([part("text", content="Q")], {}, "[0].content does not belong to a part of type text; expected text"),
        ([part("text")], {}, "[0].text is null; expected text"),
        ([part("text", text="Q", image="a.jpg")], {}, "[0].image does not belong to a part of type text"),
        ([{"text": "Q"}], {}, "[0].type is missing; expected text, image, image_url"),
        ([part("input_image", image_url="a.jpg")], {}, '[0].type is "input_image"; expected text, image, image_url'),
        ([part("video", video="a.mp4")], {}, f'[0].type is "video", but {VIDEO}'),
        ([part("video_url", video_url={"url": "a.mp4"})], {}, f'[0].type is "video_url", but {VIDEO}'),
        ([part("input_audio", input_audio={})], {}, f'[0].type is "input_audio", but {AUDIO}'),
        ([part("audio", audio="a.wav")], {}, f'[0].type is "audio", but {AUDIO}'),
        (["Q"], {}, "[0] is the string 'Q'; expected a part with a type"),
        ([part("image")], {}, "[0] has a place for one image more than the 0 listed images; expected one for each"),
        ("<image>Q", {"images": ["a.jpg"]}, " holds tags in place of image parts; read the file with format=ms_swift"),
        (3, {}, " is the number 3; expected text or a list of parts"),
        ([], {}, " is empty; expected what the user says"),
    ],
)
def test_what_messages_cannot_hold_is_refused_by_name(refusal, asked, fields, message):
    sample = talk(asked, "A", form="messages", **fields)
    assert refusal("messages", sample).startswith(f"messages[0].content{message}")


def test_images_in_answers_and_images_left_over_are_refused(refusal):
    shown = [part("image", image="a.jpg")]
    found = refusal("messages", talk("Q", shown, form="messages"))
    assert found == "messages[1].content[0] is an image in a turn of the assistant; images stand in user turns"
    found = refusal("messages", talk([*shown, part("image")], "A", form="messages", images=["b.jpg", "c.jpg"]))
    assert found == "messages have places for 2 of 3 images; expected one for each"
    assert refusal("messages", {"text": "x"}) == "messages is missing; expected the turns of a conversation"


def test_messages_are_read_from_a_table_with_the_bytes_of_their_images(read, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "a.png")
    image = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    samples = [
        talk([part("image"), part("text", text="Q")], [part("text", text="A")], form="messages", images=[image]),
        talk([part("text", text="Q")], [part("text", text="A")], form="messages", images=[]),
    ]
    parquet.write_table(pa.Table.from_pylist(samples), tmp_path / "train.parquet")
    shown, alone = opened("messages", tmp_path, tmp_path)
    assert spoken(shown) == [("user", (IMAGE, "Q")), ("assistant", ("A",))] and alone.images == ()
    from qcvl.data.samples import load_photo

    assert load_photo(as_read_again(shown), 0).shape == (4, 6, 3)


# ms-swift


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


def grounding(answer, objects, asked="<image>Find the <ref-object>", images=("board.png",)) -> dict:
    return talk(asked, answer, form="messages", images=list(images), objects=objects)


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


# LLaMA-Factory


@pytest.mark.parametrize("form", ["conversations", "messages"])
def test_sharegpt_keeps_the_text_around_a_tag_as_it_is(read, form):
    sample = talk("<image>\nWho? ", "Ann.", "And <image>?", "Bob.", form=form, images=["a.jpg", "b.jpg"], system="S")
    (record,) = read("sharegpt", {**sample, "tools": "", "videos": []})
    assert [parts for _, parts in spoken(record)] == [
        ("S",), (IMAGE, "\nWho? "), ("Ann.",), ("And ", IMAGE, "?"), ("Bob.",)
    ]  # fmt: skip
    assert record.images == ("in/a.jpg", "in/b.jpg")
    assert record.metadata == {"tools": "", "videos": []}


# Files as users have them


@pytest.mark.parametrize(
    ("name", "file", "records", "turns"),
    [
        ("qwen_conversations", "qwen-vl-finetune/demo/single_images.json", 3, 6),
        ("sharegpt", "llama-factory/mllm_demo.json", 6, 24),
        ("sharegpt", "ms-swift/conversations.jsonl", 3, 11),
        ("ms_swift", "llama-factory/mllm_demo.json", 6, 24),
        ("ms_swift", "ms-swift/alpaca.jsonl", 3, 9),
        ("ms_swift", "ms-swift/chatml.jsonl", 3, 11),
        ("ms_swift", "ms-swift/conversations.jsonl", 3, 11),
        ("ms_swift", "ms-swift/multi_modal_1.jsonl", 3, 12),
        ("ms_swift", "ms-swift/multi_modal_2.jsonl", 3, 10),
        ("messages", "ms-swift/chatml.jsonl", 3, 11),
    ],
)
def test_the_files_of_other_tools_are_read_unchanged(shared_data, tmp_path, name, file, records, turns):
    path = shared_data("formats") / file
    found = opened(name, path, tmp_path)
    assert (len(found), sum(len(record.messages) for record in found)) == (records, turns)
    assert [as_read_again(record) for record in found] == found


def read_line_by_line(path, tmp_path) -> list:
    """Of each line of an ms-swift file, the record or why it is refused."""
    found = []
    for line in path.read_text().splitlines():
        (tmp_path / "line.jsonl").write_text(line)
        try:
            found += opened("ms_swift", tmp_path / "line.jsonl", tmp_path)
        except DataError as problem:
            found.append(str(problem).removeprefix(f"{tmp_path}/line.jsonl:1: "))
    return found


def test_of_the_multimodal_examples_of_ms_swift_each_is_read_or_refused_by_name(shared_data, tmp_path):
    found = read_line_by_line(shared_data("formats") / "ms-swift/multimodal_en.jsonl", tmp_path)
    refused = {number: reason for number, reason in enumerate(found) if isinstance(reason, str)}
    starts = {
        0: "messages[1].loss is false",
        6: 'messages[0].role is "assistant"; expected "user"',
        7: f"videos is given, but {VIDEO}",
        9: f"videos is given, but {VIDEO}",
        10: "messages[2].content holds the tag <image>, but images stand in user turns",
    }
    assert refused.keys() == starts.keys() and len(found) == 11
    assert all(reason.startswith(starts[number]) for number, reason in refused.items())
    assert found[1].metadata.keys() == {"rejected_messages", "rejected_images"}


def test_the_grounding_examples_of_ms_swift_are_filled_once_their_photos_are_there(shared_data, tmp_path):
    path = shared_data("formats") / "ms-swift/grounding_en.jsonl"
    found = read_line_by_line(path, tmp_path)
    assert [isinstance(item, Record) for item in found] == [True] * 3 + [False] * 4
    assert all("not found" in reason for reason in found[3:])
    Image.new("RGB", (1500, 1800)).save(tmp_path / "x.jpg")
    Image.new("RGB", (900, 800)).save(tmp_path / "cat.png")
    (tmp_path / "all.jsonl").write_text(path.read_text().replace("/xxx/", ""))
    records = opened("ms_swift", tmp_path / "all.jsonl", tmp_path)
    answers = [record.messages[-1].parts[0] for record in records]
    assert answers[3] == "a dog[221, 423, 569, 886] and a woman[451, 381, 733, 793] are playing on the beach"
    assert answers[5] == "Action: click(start_box='[410, 126]')"
    boxes = [[101, 201, 150, 266], [401, 601, 550, 666]]  # as the second example has them, rendered by hand
    assert json.loads(answers[6]) == [{"bbox_2d": box, "label": "sheep"} for box in boxes]


def test_of_the_printed_examples_of_qwen_the_sound_ones_are_read(shared_data, tmp_path):
    text = (shared_data("formats") / "qwen-vl-finetune/README_data_examples.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    found = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.json"
        path.write_text(block)
        try:
            found.append(len(opened("qwen_conversations", path, tmp_path)))
        except RecordError as problem:
            found.append(str(problem).removeprefix(f"{path}:"))
    assert found[:2] + found[4:] == [1, 1, 2]
    assert found[2].startswith(f" video is given, but {VIDEO}")
    assert found[3].startswith("10: is not valid JSON")  # quotes inside a text, as printed


def test_the_video_examples_of_qwen_are_refused_by_name(shared_data, tmp_path):
    path = shared_data("formats") / "qwen-vl-finetune/demo/video.json"
    with pytest.raises(RecordError, match=rf"video\.json: \[0\]\.video is given, but {VIDEO}"):
        opened("qwen_conversations", path, tmp_path)


def test_every_reader_is_a_format_of_convert():
    from pkgutil import iter_modules

    from qcvl.data import formats

    assert set(FORMATS) <= {module.name for module in iter_modules(formats.__path__)}


JUNK = (None, True, 0, -1, 1.5, "", "x", "<image>", [], ["x"], [[]], [3], {}, {"x": 1}, {"bytes": 1}, {"path": "a"})
TALK = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": [part("image"), part("image_url", image_url={"url": "a.png"}), part("text", text="Q")]},
    {"role": "assistant", "content": "A", "loss": True},
]
TAGGED = {"system": "S", "image": ["a.png"], "data_path": "x", "metadata": {}, **talk("<image>Q", "A")}
GROUNDED = grounding("<bbox>", {"ref": ["x"], "bbox": [[0.1, 0.2]], "bbox_type": "norm1", "image_id": [0]})
ASKED = {"query": "Q", "response": "A", "history": [["q", "a"]], "system": "S", "images": ["a.png"]}


def spoilt(value):
    """The value with one of its parts, at any depth, replaced by something else."""
    yield from JUNK
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        for other in spoilt(value[key]):
            changed = value.copy()
            changed[key] = other
            yield changed


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("sample", [{"messages": TALK, "images": ["b.png"]}, TAGGED, GROUNDED, ASKED], ids=range(4))
def test_a_sample_spoilt_anywhere_is_a_record_or_a_record_error(tmp_path, name, sample):
    refused = 0
    for changed in spoilt(sample):
        (tmp_path / "any.json").write_text(json.dumps([changed]))
        try:
            records = opened(name, tmp_path / "any.json", tmp_path)
        except RecordError:
            refused += 1
        else:
            assert [as_read_again(record) for record in records] == records
    assert refused > 50
