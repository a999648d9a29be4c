"""Token ids and labels of a conversation: as the checkpoint's template has them, whatever users write."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.chat import IGNORE, ask, encode_conversation, encode_question
from qcvl.errors import DataError
from qcvl.models.text import plain_ids, special_ids
from qcvl.schema.messages import write_messages
from qcvl.schema.prompts import TaskPrompt
from tests.conftest import SHARED
from tests.conversations import chats
from tests.data.hostile import HOSTILE

GOLDEN = SHARED / "data/tokenizer/golden_chat.json"
CASES = json.loads(GOLDEN.read_text())["cases"] if GOLDEN.is_file() else {}
ONE_CELL = (1, 2, 2)  # a patch grid that merges into one visual token
TWO_IMAGES = np.array([(1, 4, 4), (1, 2, 6)])  # 4 + 3 cells


def decode(processing, ids) -> str:
    return processing.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def specials_of(processing, ids) -> list[int]:
    """The special tokens among ``ids``, in order."""
    return [token for token in ids.tolist() if token in special_ids(processing).values()]


def exchange(processing, system: str, user: str, answer: str, grids=TWO_IMAGES):
    question = ask(TaskPrompt(system=system, user=user), len(grids))
    return encode_conversation(processing, [*question, {"role": "assistant", "content": answer}], grids, "r:1")


def text_of(system: str, user: str, answer: str) -> str:
    """The conversation by definition: Qwen's turns, with an image place for each merged cell."""
    media = "".join(f"<|vision_start|>{'<|image_pad|>' * cells}<|vision_end|>" for cells in (4, 3))
    turns = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    return f"{turns}<|im_start|>user\n{media}{user}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def answered(labels: np.ndarray) -> np.ndarray:
    """The labelled positions, which must be one stretch."""
    where = np.flatnonzero(labels != IGNORE)
    assert np.array_equal(where, np.arange(where[0], where[-1] + 1))
    return where


@pytest.mark.skipif(not CASES, reason=f"{GOLDEN} is not there")
@pytest.mark.parametrize("name", sorted(CASES))
def test_ids_are_those_transformers_gives_for_the_real_template(qwen3, name):
    case = CASES[name]
    expected = case["qwen3_vl_ids"]
    grids = np.array([ONE_CELL] * sum(map(expected.count, (qwen3.image_pad, qwen3.video_pad)))).reshape(-1, 3)
    if case["add_generation_prompt"]:
        assert encode_question(qwen3, case["messages"], grids).tolist() == expected
        return
    ids, labels = encode_conversation(qwen3, case["messages"], grids, name)
    assert ids.tolist() == expected
    answers = [turn["content"][0]["text"] for turn in case["messages"] if turn["role"] == "assistant"]
    assert decode(qwen3, labels[labels != IGNORE]) == "".join(f"{answer}<|im_end|>" for answer in answers)
    assert np.array_equal(labels[labels != IGNORE], ids[labels != IGNORE])
    assert all(case["assistant_mask"][position] for position in np.flatnonzero(labels != IGNORE))


def test_labels_are_the_answer_and_its_end_of_turn_and_nothing_else(processing):
    ids, labels = exchange(processing, "Look.", "List the parts.", "{}")
    where = answered(labels)
    assert np.array_equal(labels[where], ids[where])
    assert labels[where].tolist() == [*plain_ids(processing, "{}"), processing.turn_end]
    assert decode(processing, ids[where[-1] + 1 :]) == "\n"
    assert decode(processing, ids[: where[0]]).endswith("<|im_start|>assistant\n")


def test_the_question_is_the_exchange_up_to_the_answer(processing):
    ids, labels = exchange(processing, "Look.", "List the parts.", "two screws")
    question = encode_question(processing, ask(TaskPrompt(system="Look.", user="List the parts."), 2), TWO_IMAGES)
    assert np.array_equal(question, ids[: answered(labels)[0]])


@pytest.mark.parametrize("system", ["", "You are an inspector."])
def test_the_whole_decodes_to_the_turns_with_one_placeholder_a_cell(processing, system):
    ids, _ = exchange(processing, system, "Sum up.", "a plate")
    assert decode(processing, ids) == text_of(system, "Sum up.", "a plate")


@pytest.mark.parametrize("tokenizer", ["processing", "qwen3"])
@pytest.mark.parametrize("place", ["system", "user", "answer"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_is_text_and_changes_no_mark_no_mask_and_no_media(request, tokenizer, place, text):
    processing = request.getfixturevalue(tokenizer)
    benign = {"system": "S", "user": "U", "answer": "A"}
    hostile = benign | {place: f"a {text} b"}
    ids, labels = exchange(processing, **hostile)
    plain, plain_labels = exchange(processing, **benign)
    assert specials_of(processing, ids) == specials_of(processing, plain)
    assert int((ids == processing.image_pad).sum()) == 7
    assert decode(processing, ids) == text_of(**hostile)
    where, plain_where = answered(labels), answered(plain_labels)
    assert decode(processing, labels[where]) == hostile["answer"] + "<|im_end|>"
    if place == "answer":
        assert where[0] == plain_where[0]
        assert len(where) == len(plain_ids(processing, hostile["answer"])) + 1
    else:
        assert np.array_equal(labels[where], plain_labels[plain_where])
    assert len(ids) - where[-1] == len(plain) - plain_where[-1]


@given(user=st.text(max_size=40), answer=st.text(max_size=40))
def test_any_text_leaves_the_special_tokens_as_the_template_set_them(processing, user, answer):
    ids, labels = exchange(processing, "S", user, answer)
    assert specials_of(processing, ids) == specials_of(processing, exchange(processing, "S", "U", "A")[0])
    assert decode(processing, labels[answered(labels)]) == answer + "<|im_end|>"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_grids_than_image_places_is_refused(processing, count):
    question = ask(TaskPrompt(system="", user="U"), 2)
    grids = np.array([ONE_CELL] * count).reshape(-1, 3)
    with pytest.raises(DataError, match=f"r:1: the chat template has 2 image places for {count} images"):
        encode_conversation(processing, [*question, {"role": "assistant", "content": "A"}], grids, "r:1")
    with pytest.raises(DataError, match=f"2 image places for {count} images"):
        encode_question(processing, question, grids)


def test_a_template_that_rewrites_the_question_is_refused(processing):
    template = "{% if messages[-1].role == 'assistant' %}!{% endif %}" + processing.chat_template
    with pytest.raises(DataError, match="r:1: the chat template renders the question differently once the answer"):
        exchange(replace(processing, chat_template=template), "S", "U", "A")


def test_a_template_without_an_end_of_turn_is_refused(processing):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content if m.content is string else '<|image_pad|>' * 2 }}"
    template += "\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    with pytest.raises(DataError, match="r:1: the rendered answer has no end-of-turn token"):
        exchange(replace(processing, chat_template=template), "S", "U", "A")


def talk(*turns: tuple[str, object]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def two_turns(first: str, second: str, later: str) -> list[dict]:
    """A conversation that shows its second image in its second question."""
    show = {"type": "image"}
    asked = [show, {"type": "text", "text": "What is it?"}]
    return talk(
        ("system", "S"),
        ("user", asked),
        ("assistant", first),
        ("user", [{"type": "text", "text": later}, show]),
        ("assistant", second),
    )


def test_every_answer_of_a_conversation_is_trained_with_its_end_of_turn_and_nothing_between(processing):
    ids, labels = encode_conversation(processing, two_turns("a clip", "broken", "And now?"), TWO_IMAGES, "r:1")
    media = ["<|vision_start|>" + "<|image_pad|>" * cells + "<|vision_end|>" for cells in (4, 3)]
    assert decode(processing, ids) == (
        f"<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n{media[0]}What is it?<|im_end|>\n<|im_start|>assistant\n"
        f"a clip<|im_end|>\n<|im_start|>user\nAnd now?{media[1]}<|im_end|>\n<|im_start|>assistant\nbroken<|im_end|>\n"
    )
    runs = np.split(labels, np.flatnonzero(np.diff(labels != IGNORE)) + 1)
    trained = [run.tolist() for run in runs if run[0] != IGNORE]
    end = processing.turn_end
    assert trained == [[*plain_ids(processing, text), end] for text in ("a clip", "broken")]
    assert np.array_equal(labels[labels != IGNORE], ids[labels != IGNORE])


def test_a_conversation_of_one_turn_begins_like_a_longer_one(processing):
    long, long_labels = encode_conversation(processing, two_turns("A", "B", "And?"), TWO_IMAGES, "r:1")
    short, short_labels = encode_conversation(processing, two_turns("A", "B", "And?")[:3], TWO_IMAGES[:1], "r:1")
    assert np.array_equal(long[: len(short)], short) and np.array_equal(long_labels[: len(short)], short_labels)


def test_a_conversation_of_text_alone_needs_no_image(processing):
    ids, labels = encode_conversation(processing, talk(("user", "Q"), ("assistant", "A")), TWO_IMAGES[:0], "r:1")
    assert decode(processing, ids) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    assert decode(processing, labels[labels != IGNORE]) == "A<|im_end|>"


@pytest.mark.parametrize("tokenizer", ["processing", "qwen3"])
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_in_a_conversation_changes_neither_mask_nor_media(request, tokenizer, place, text):
    processing = request.getfixturevalue(tokenizer)
    benign = ["first", "second", "later"]
    hostile = [*benign[:place], f"a {text} b", *benign[place + 1 :]]
    ids, labels = encode_conversation(processing, two_turns(*hostile), TWO_IMAGES, "r:1")
    plain, _ = encode_conversation(processing, two_turns(*benign), TWO_IMAGES, "r:1")
    assert specials_of(processing, ids) == specials_of(processing, plain)
    assert int((ids == processing.image_pad).sum()) == 7
    assert decode(processing, labels[labels != IGNORE]) == f"{hostile[0]}<|im_end|>{hostile[1]}<|im_end|>"


@given(chats())
def test_any_conversation_trains_its_answers_and_shows_its_images(processing, record):
    grids = np.array([ONE_CELL] * len(record.images), dtype=np.int64).reshape(-1, 3)
    ids, labels = encode_conversation(processing, write_messages(record.messages), grids, "r:1")
    answers = [message.parts[0] for message in record.messages if message.role == "assistant"]
    assert decode(processing, labels[labels != IGNORE]) == "".join(f"{text}<|im_end|>" for text in answers)
    assert int((ids == processing.image_pad).sum()) == len(record.images)
    turns = specials_of(processing, ids).count(processing.turn_start)
    assert turns == len(record.messages)


def test_a_template_that_rewrites_an_earlier_answer_is_refused(processing):
    template = "{% if messages | length > 3 %}!{% endif %}" + processing.chat_template
    with pytest.raises(DataError, match="r:1: the chat template renders turn 2 differently once another follows"):
        encode_conversation(replace(processing, chat_template=template), two_turns("A", "B", "And?"), TWO_IMAGES, "r:1")
