"""The conversation of a record: which turns it may have, where its images stand, and how anything else is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.errors import RecordError
from qcvl.schema.messages import read_messages, write_messages
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE, Message
from tests.conftest import problems_in
from tests.conversations import chats
from tests.data.hostile import HOSTILE

SYSTEM = {"role": "system", "content": "S"}
QUESTION, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
PLACE, VIDEO_PLACE = {"type": "image"}, {"type": "video"}
BOX = {"bbox_2d": [1, 2, 3, 4], "desc": "clip"}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def line(*messages, **fields):
    return json.dumps({"messages": list(messages), **fields}, ensure_ascii=False)


def refusal(text):
    with pytest.raises(RecordError) as caught:
        Record.from_json(text, path="train.jsonl", line=4)
    message = str(caught.value)
    assert message.startswith("train.jsonl:4: ")
    return message.removeprefix("train.jsonl:4: ")


def test_a_conversation_is_read_turn_by_turn_with_its_places():
    record = Record.from_json(
        line(
            SYSTEM,
            user({"type": "text", "text": "one "}, PLACE, {"type": "text", "text": "two"}),
            ANSWER,
            user(PLACE, PLACE),
            ANSWER,
            images=["a.jpg", "b.jpg", "c.jpg"],
        )  # fmt: skip
    )
    assert record.messages == (
        Message("system", ("S",)),
        Message("user", ("one ", IMAGE, "two")),
        Message("assistant", ("A",)),
        Message("user", (IMAGE, IMAGE)),
        Message("assistant", ("A",)),
    )
    assert record.images == ("a.jpg", "b.jpg", "c.jpg") and not record.annotated


@pytest.mark.parametrize("content", ["Q", [{"type": "text", "text": "Q"}]])
def test_without_any_place_all_images_come_before_the_text_of_the_first_user_turn(content):
    asked = {"role": "user", "content": content}
    record = Record.from_json(line(SYSTEM, asked, ANSWER, QUESTION, ANSWER, images=["a.jpg", "b.jpg"]))
    assert record.messages[1] == Message("user", (IMAGE, IMAGE, "Q"))
    assert record.messages[3] == Message("user", ("Q",))


@pytest.mark.parametrize("images", [{}, {"images": []}, {"images": None}])
def test_a_conversation_may_be_text_alone(images):
    record = Record.from_json(line(QUESTION, ANSWER, **images))
    assert record.images == () and record.where == "a record without images"
    assert json.loads(record.to_json()) == {"messages": [QUESTION, ANSWER]}


def test_a_record_may_have_messages_beside_objects_and_a_summary():
    text = line(user(PLACE), ANSWER, images=["a.jpg"], width=9, height=9, summary="one clip", objects=[BOX])
    record = Record.from_json(text)
    assert record.annotated and record.summary == "one clip" and len(record.messages) == 2
    assert json.loads(record.to_json()) == json.loads(text)


def test_neighbouring_texts_are_one_and_empty_ones_nothing():
    texts = [{"type": "text", "text": text} for text in ("", "a", "b", "")]
    assert read_messages([user(*texts, PLACE), ANSWER], 1)[0].parts == ("ab", IMAGE)


@given(chats(metadata=st.just({}) | st.just({"id": 7})))
def test_a_written_conversation_reads_back_equal(record):
    text = record.to_json()
    assert "\n" not in text
    assert Record.from_json(text, path="x.jsonl", line=1) == record
    assert read_messages(write_messages(record.messages), len(record.images)) == record.messages


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_other_tools_read_as_a_tag_is_text(text):
    record = Record.from_json(line({"role": "user", "content": text}, {"role": "assistant", "content": text}))
    assert [message.parts for message in record.messages] == [(text,), (text,)]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((), "messages is an empty list; expected a list of turns that ends with the assistant's"),
        (("x",), "messages[0] is the string 'x'; expected an object with role and content"),
        (
            (QUESTION, ANSWER, {"role": "tool", "content": "x"}),
            'messages[2].role is "tool"; expected system, user or assistant',
        ),
        (({"content": "x"}, ANSWER), "messages[0].role is missing; expected system, user or assistant"),
        (({"role": 3}, ANSWER), "messages[0].role is the number 3; expected system, user or assistant"),
        (({**QUESTION, "loss": False}, ANSWER), "messages[0].loss is not a known key; expected role, content"),
        ((QUESTION, QUESTION, ANSWER), 'messages[1].role is "user"; expected "assistant": a system turn may come'),
        ((QUESTION, SYSTEM, ANSWER), 'messages[1].role is "system"; expected "assistant"'),
        ((ANSWER,), 'messages[0].role is "assistant"; expected "user"'),
        ((SYSTEM, ANSWER), 'messages[1].role is "assistant"; expected "user"'),
        ((QUESTION,), 'messages[0].role is "user"; expected a last turn of the assistant, the answer that is trained'),
        ((SYSTEM,), 'messages[0].role is "system"; expected a last turn of the assistant'),
        ((QUESTION, {"role": "assistant"}), "messages[1].content is null; expected text, or a list of text"),
        ((QUESTION, {"role": "assistant", "content": " \n"}), "messages[1].content is empty; expected what the assist"),
        ((user(), ANSWER), "messages[0].content is empty; expected what the user says"),
        ((user("x"), ANSWER), "messages[0].content[0] is the string 'x'; expected a part with a type: text"),
        ((user({"text": "x"}), ANSWER), "messages[0].content[0].type is missing; expected text, image or video"),
        (
            (user({"type": "image_url"}), ANSWER),
            'messages[0].content[0].type is "image_url"; expected text, image or video',
        ),
        ((user({"type": "text"}), ANSWER), "messages[0].content[0].text is null; expected text"),
        (
            (user({"type": "text", "text": "x", "url": "y"}), ANSWER),
            "messages[0].content[0].url is not a known key of a part of type text",
        ),
        (
            (user({"type": "image", "url": "a.jpg"}), ANSWER),
            "messages[0].content[0].url is not a known key of a part of type image; such a place holds nothing, "
            "its file is the next of images",
        ),
        (
            (user(PLACE), {"role": "assistant", "content": [PLACE]}),
            "messages[1].content[0] is an image in a turn of the assistant; images stand in user turns",
        ),
        ((user({"type": "audio"}), ANSWER), 'messages[0].content[0].type is "audio"; expected text, image or video'),
        (
            (user(VIDEO_PLACE), {"role": "assistant", "content": [VIDEO_PLACE]}),
            "messages[1].content[0] is a video in a turn of the assistant; videos stand in user turns",
        ),
        ((user(VIDEO_PLACE), ANSWER), "messages has 1 video place but videos has 0; expected one place for each"),
        ((user(PLACE), ANSWER), "messages has 1 image place but images has 0; expected one place for each"),
    ],
)
def test_a_broken_conversation_is_refused_by_turn_and_field(messages, message):
    assert refusal(line(*messages)).startswith(message)


@pytest.mark.parametrize("messages", ["hi", 3, {"role": "user"}])
def test_messages_that_are_no_list_are_refused(messages):
    assert "expected a list of turns" in refusal(json.dumps({"messages": messages}))


def test_places_and_images_must_be_as_many():
    asked = user(PLACE, PLACE)
    found = refusal(line(asked, ANSWER, images=["a.jpg"]))
    assert found == "messages has 2 image places but images has 1; expected one place for each"
    assert refusal(line(asked, ANSWER, images=["a"] * 3)).startswith("messages has 2 image places but images has 3")


@pytest.mark.parametrize(
    "fields", [{"objects": [BOX]}, {"objects": []}, {"summary": "one clip"}, {"width": 9, "height": 9}]
)
def test_what_only_says_something_about_images_needs_some(fields):
    found = refusal(line(QUESTION, ANSWER, **fields))
    assert found == f"{next(iter(fields))} is given but images is not; expected images, or messages alone"


def test_images_are_still_needed_without_messages():
    assert refusal("{}") == refusal('{"messages": null}') == "images is missing; expected a list of image paths"
    assert refusal(line(QUESTION, ANSWER, images=[3])).startswith("images[0] is the number 3")


def test_a_check_names_a_broken_conversation_beside_what_else_is_wrong(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(line(QUESTION, images=[], videos=[3], metadata=3) + "\n" + line(QUESTION, ANSWER) + "\n")
    problems = [str(problem).removeprefix(f"{path}:") for problem in problems_in(path)]
    assert [problem.split()[1] for problem in problems] == ["metadata", "videos[0]", "messages[0].role"]
    assert all(problem.startswith("1: ") for problem in problems)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["image", "text", "user", "assistant", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_conversation_or_a_record_error(value):
    try:
        record = Record.from_json(json.dumps({"images": ["a.jpg"], "messages": value}))
    except RecordError:
        return
    assert record.messages == () or record.messages[-1].role == "assistant"
