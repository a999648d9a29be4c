"""Records written as conversations of other tools: the text that is trained, and exactly what was read."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.chat import IGNORE
from qcvl.data.conversation import conversations_of
from qcvl.data.reading import told_apart
from qcvl.data.turns import TAG
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.records import Record, read_records
from qcvl.schema.types import IMAGE, VIDEO, Annotation, Message
from qcvl.schema.videos import Video
from tests.conversations import FILES, TEXTS, VIDEOS, chats
from tests.data.chat_samples import opened

WRITERS = ("qwen_conversations", "messages")
UNTAGGED = TEXTS.filter(lambda text: TAG.search(text) is None)
METADATA = st.just({}) | st.just({"id": 7, "site": {"name": "北"}})
TALK = (Message("user", (IMAGE, "What is broken?")), Message("assistant", ("The clip.",)))


def module(name: str):
    return import_module(f"qcvl.data.formats.{name}")


@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory):
    """``there_and_back(format, records)``: what is read from what was written, as a list and line by line."""
    folder = tmp_path_factory.mktemp("written")

    def run(name: str, records: list[Record]) -> list[list[Record]]:
        found = []
        for file in ("out.json", "out.jsonl"):
            assert module(name).write_chats(iter(records), folder / file) == []
            found.append(opened(name, folder / file, folder))
        return found

    return run


@given(records=st.lists(chats(metadata=METADATA, videos=VIDEOS), min_size=1, max_size=3))
def test_messages_read_back_as_the_records_they_were(there_and_back, records):
    assert there_and_back("messages", records) == [records, records]


@given(records=st.lists(chats(texts=UNTAGGED, metadata=METADATA, videos=FILES), min_size=1, max_size=3))
def test_conversations_read_back_as_the_records_they_were(there_and_back, records):
    assert there_and_back("qwen_conversations", records) == [records, records]


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<audio>"])
@pytest.mark.parametrize("turn", [0, 1])
def test_a_text_that_would_be_read_as_a_place_is_refused_by_conversations_and_kept_by_messages(
    there_and_back, tmp_path, tag, turn
):
    messages = list(TALK)
    messages[turn] = replace(messages[turn], parts=(*messages[turn].parts[:-1], f"the word {tag}"))
    record = Record(images=("a.jpg",), messages=tuple(messages), annotated=False)
    assert there_and_back("messages", [record])[0] == [record]
    named = replace(record, path=tmp_path / "all.jsonl", line=4)
    with pytest.raises(RecordError, match=rf"all\.jsonl:4: messages\[{turn}\]\.content holds the text {tag}"):
        module("qwen_conversations").write_chats([named], tmp_path / "out.json")


def test_the_forms_are_those_the_other_tools_document(tmp_path):
    more = (Message("user", ("Sure?",)), Message("assistant", ("Yes.",)))
    record = Record(images=("a.jpg",), messages=(Message("system", ("S",)), *TALK, *more), annotated=False)
    module("qwen_conversations").write_chats([record, replace(record, images=(), messages=more)], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {
            "image": "a.jpg",
            "system": "S",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is broken?"},
                {"from": "gpt", "value": "The clip."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        {"conversations": [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes."}]},
    ]
    module("messages").write_chats([record], tmp_path / "out.jsonl")
    asked = [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "What is broken?"}]
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "The clip."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes."},
        ]
    }


def test_conversations_say_which_video_they_cannot_hold_as_it_is(tmp_path):
    videos = (Video("a.mp4", {"fps": 2.0, "video_end": 3.0}), Video(("f0.jpg", "f1.jpg")))
    asked = Message("user", (VIDEO, VIDEO, "What happens?"))
    record = Record(images=(), videos=videos, messages=(asked, TALK[1]), annotated=False)
    notices = module("qwen_conversations").write_chats([record], tmp_path / "out.json")
    assert [notice.reason.split(",")[0] for notice in notices] == ["fps", "a video of single photos"]
    (read,) = opened("qwen_conversations", tmp_path / "out.json", tmp_path)
    assert read == replace(record, videos=(Video("a.mp4"), videos[1]))


@pytest.mark.parametrize("name", [*WRITERS, "jsonl"])
def test_videos_are_named_from_the_new_files_folder(tmp_path, name):
    asked = [{"type": "video"}] * 2 + [{"type": "text", "text": "Q"}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": "A"}]
    (tmp_path / "data").mkdir()
    line = json.dumps({"videos": ["clips/a.mp4", ["/elsewhere/0.jpg", "../1.jpg"]], "messages": turns})
    (tmp_path / "data/all.jsonl").write_text(line)
    records = list(module("jsonl").to_records(tmp_path / "data/all.jsonl", "train", None))
    writer = module(name).write if name == "jsonl" else module(name).write_chats
    writer(records, tmp_path / "out.jsonl")
    (record,) = opened(name, tmp_path / "out.jsonl", tmp_path)
    assert record.videos == (Video("data/clips/a.mp4"), Video(("/elsewhere/0.jpg", "1.jpg")))


@pytest.mark.parametrize("name", WRITERS)
def test_images_are_named_from_the_new_files_folder(tmp_path, name):
    images = ["photos/a.jpg", "/elsewhere/b.jpg", "https://host/c.jpg", "../d.jpg"]
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    line = json.dumps({"images": images, "messages": messages})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/all.jsonl").write_text(line)
    records = read_records(tmp_path / "data/all.jsonl")
    module(name).write_chats(records, tmp_path / "out.json")
    (record,) = opened(name, tmp_path / "out.json", tmp_path)
    assert record.images == ("data/photos/a.jpg", "/elsewhere/b.jpg", "https://host/c.jpg", "d.jpg")


@pytest.mark.parametrize("name", WRITERS)
def test_an_image_in_memory_has_no_name_to_write(tmp_path, name):
    record = Record(images=(b"\xff\xd8",), messages=TALK, annotated=False)
    with pytest.raises(DataError, match="bytes in memory; expected a path"):
        module(name).write_chats([record], tmp_path / "out.json")


BOX = Annotation(Shape("bbox_2d", np.array([[20.0, 10.0], [60.0, 40.0]])), "plate")
LINE = Annotation(Shape("line", np.array([[0.0, 0.0], [90.0, 60.0]])), "cable", 1)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("task", ["dense", "summary"])
def test_a_labelled_record_is_written_as_the_very_tokens_it_is_trained_as(
    tmp_path, make_data, make_datamodule, prompts, name, task
):
    for number, size in enumerate([(96, 64), (128, 128)]):
        Image.new("RGB", size, (90, 40, number)).save(tmp_path / f"{number}.png")
    labelled = Record(images=("0.png", "1.png"), annotations=(LINE, BOX), summary="a plate, a cable")
    if task == "summary":
        labelled = replace(labelled, annotations=(), annotated=False)
    (tmp_path / "all.jsonl").write_text(labelled.to_json() + "\n")
    records = read_records(tmp_path / "all.jsonl")
    chats, notices = told_apart(conversations_of(records, prompts, DEFAULT_FORMAT))
    assert len(notices) == (task == "dense")  # its summary
    module(name).write_chats(chats, tmp_path / "out.json")
    (chat,) = opened(name, tmp_path / "out.json", tmp_path)
    (tmp_path / "chat.jsonl").write_text(chat.to_json() + "\n")
    samples = []
    for file, sampling in (("all.jsonl", task), ("chat.jsonl", "dense")):
        data = make_data(train=str(tmp_path / file), val=None, sampling=sampling)
        samples.append(make_datamodule(data=data).train_dataset()[(0, 0)])
    ours, theirs = samples
    for field in ("input_ids", "labels", "positions", "patches", "grids"):
        assert np.array_equal(getattr(ours, field), getattr(theirs, field)), field
    assert (ours.labels != IGNORE).any()


def test_what_a_conversation_leaves_out_is_said(prompts):
    sizes = {"sizes": ((90, 60),), "images": ("a.png",), "summary": "a plate"}
    chat = Record(messages=TALK, annotations=(BOX, BOX), **sizes)
    dense = Record(annotations=(BOX,), **sizes)
    summary = Record(annotated=False, **sizes)
    chats, notices = told_apart(conversations_of([chat, dense, summary], prompts, DEFAULT_FORMAT))
    assert [notice.reason.split()[0] for notice in notices] == ["objects", "summary", "summary"]
    assert [made.messages[-1].parts[0] for made in chats] == [
        "The clip.",
        '{"object_1": {"bbox_2d": [222, 167, 667, 667], "desc": "plate"}}',
        "a plate",
    ]


def test_a_bare_photo_has_nothing_to_say(tmp_path, prompts):
    bare = Record(images=("a.png",), annotated=False, sizes=((90, 60),), path=tmp_path / "all.jsonl", line=2)
    with pytest.raises(DataError, match=r"all\.jsonl:2 has neither messages, objects nor a summary; leave it out"):
        list(conversations_of([bare], prompts, DEFAULT_FORMAT))
