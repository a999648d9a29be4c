"""Conversations whose texts hold tags (Qwen, ShareGPT), and what no format may do: what is refused by name."""

import json
from pkgutil import iter_modules

import pytest

from qcvl.data import formats
from qcvl.errors import RecordError
from qcvl.schema.types import IMAGE, VIDEO
from qcvl.schema.videos import Video
from tests.data.chat_samples import AUDIO, FORMATS, as_read_again, grounding, opened, part, spoken, talk


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
        (talk("<video>Q", "A"), "conversations[0].value has a place for one video more than the 0 listed videos"),
        (talk("<video>Q", "A", video=["a", "b"]), "conversations have places for 1 of 2 videos; expected one for each"),
        (talk("<image>Q", "A", video="a.mp4"), "conversations[0].value has a place for one image more than the 0"),
        (talk("Q", "<video>", video="a"), "conversations[1].value holds the tag <video>, but videos stand in user"),
        (talk("<audio>Q", "A"), f"conversations[0].value holds the tag <audio>, but {AUDIO}"),
        (talk("<video>Q", "A", video=3), "video is the number 3; expected the path of a video"),
        (talk("<video>Q", "A", videos=[["a.jpg", 3]]), "videos[0][1] is the number 3; expected the path of a frame"),
        (talk("<video>Q", "A", video="http://h/a.mp4"), "video is a URL (http://h/a.mp4); download the video first"),
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


@pytest.mark.parametrize("form", ["conversations", "messages"])
def test_sharegpt_keeps_the_text_around_a_tag_as_it_is(read, form):
    sample = talk("<image>\nWho? ", "Ann.", "And <image>?", "Bob.", form=form, images=["a.jpg", "b.jpg"], system="S")
    (record,) = read("sharegpt", {**sample, "tools": "", "videos": []})
    assert [parts for _, parts in spoken(record)] == [
        ("S",), (IMAGE, "\nWho? "), ("Ann.",), ("And ", IMAGE, "?"), ("Bob.",)
    ]  # fmt: skip
    assert record.images == ("in/a.jpg", "in/b.jpg")
    assert record.metadata == {"tools": ""} and record.videos == ()


@pytest.mark.parametrize("name", ["qwen_conversations", "sharegpt", "ms_swift"])
@pytest.mark.parametrize(
    "listed", [{"videos": ["a.mp4", ["f0.jpg", "f1.jpg"]]}, {"video": ["a.mp4", ["f0.jpg", "f1.jpg"]]}]
)
def test_a_video_tag_shows_the_next_video_a_file_or_its_frames(read, name, listed):
    (record,) = read(name, talk("<video><image> and <video>?", "A", image="b.jpg", **listed))
    assert record.videos == (Video("in/a.mp4"), Video(("in/f0.jpg", "in/f1.jpg"))) and record.images == ("in/b.jpg",)
    assert [part for part in record.messages[0].parts if part in (IMAGE, VIDEO)] == [VIDEO, IMAGE, VIDEO]
    assert as_read_again(record) == record


def test_of_ms_swift_videos_without_a_tag_come_first(read):
    (record,) = read("ms_swift", talk("Q", "A", form="messages", videos=["a.mp4"], images=["b.jpg"]))
    assert spoken(record)[0] == ("user", (IMAGE, VIDEO, "Q"))


def test_every_reader_is_a_format_of_convert():
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
