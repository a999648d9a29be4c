"""Conversations among the data of a run: which records are asked for what, what stops a run, and rows without image."""

import json

import pytest
import torch

from qcvl.augment.color import ColorJitter
from qcvl.augment.pair import PairShift
from qcvl.data.batch import collate, step_counts
from qcvl.data.chat import IGNORE
from qcvl.data.completeness import sampling_of
from qcvl.data.health import check_batch
from qcvl.data.sources import SceneSource
from qcvl.errors import RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import Message
from tests.augment.ops import compose, op

TALK = (Message("user", ("Q",)), Message("assistant", ("A",)))


def tasks(dataset) -> list[str]:
    return [dataset.sample((0, index))[0].task for index in range(len(dataset))]


def rewritten(path, change) -> str:
    """The text of a JSONL file after ``change(number, fields)`` of each line."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return "".join(json.dumps(change(number, row)) + "\n" for number, row in enumerate(rows))


@pytest.mark.parametrize("sampling", ["dense", "summary", "mixed", "chat"])
def test_a_record_with_messages_and_no_objects_is_chat_unless_its_source_says_otherwise(sampling):
    alone = Record(images=(), messages=TALK, annotated=False)
    labelled = Record(images=("a.png",), messages=TALK)
    unlabelled = Record(images=("a.png",), annotated=False)
    assert sampling_of(alone, sampling, fixed=False) == "chat"
    for record in (labelled, unlabelled):
        assert sampling_of(record, sampling, fixed=False) == sampling
    for record in (alone, labelled, unlabelled):
        assert sampling_of(record, sampling, fixed=True) == sampling


def test_a_bare_path_to_conversations_trains_and_validates_them(make_data, make_datamodule, conversations):
    path = str(conversations / "chat.jsonl")
    datamodule = make_datamodule(data=make_data(train=path, val=path, sampling="dense", batch_size=6))
    assert tasks(datamodule.train_dataset()) == ["chat"] * 6
    (batch,) = list(datamodule.train_dataloader())
    (validation,) = list(datamodule.val_dataloader()[0])
    assert len(batch["segments"]) == len(validation["segments"]) == 6
    assert len(batch["image_grid_thw"]) == 6  # two images in every other record


def test_one_file_may_mix_conversations_with_labelled_photos(make_data, make_datamodule, conversations, tmp_path):
    lines = [(conversations / name).read_text() for name in ("text.jsonl", "en.jsonl")]
    (tmp_path / "all.jsonl").write_text("".join(lines).replace("en_", f"{conversations}/en_"))
    datamodule = make_datamodule(data=make_data(train=str(tmp_path / "all.jsonl"), sampling="dense"))
    assert tasks(datamodule.train_dataset()) == ["chat"] * 4 + ["dense"] * 8


@pytest.mark.parametrize(("task", "expected"), [(None, "dense"), ("summary", "summary"), ("chat", "chat")])
def test_sampling_decides_for_a_record_that_has_everything(
    make_data, make_datamodule, scenes, tmp_path, task, expected
):
    talk = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    text = rewritten(scenes / "en.jsonl", lambda _, row: {**row, "messages": talk})
    (tmp_path / "all.jsonl").write_text(text.replace("en_", f"{scenes}/en_"))
    source = make_data.source(str(tmp_path / "all.jsonl"), task=task)
    datamodule = make_datamodule(data=make_data(train={"all": source}, sampling="dense"))
    assert tasks(datamodule.train_dataset()) == [expected] * 8


def test_a_source_of_chat_alone_refuses_a_record_without_messages(make_data, make_datamodule):
    data = make_data(train={"en": make_data.source("en.jsonl", task="chat")})
    with pytest.raises(RecordError, match=r"en.jsonl:1: messages is missing, but source en samples chat; add the conv"):
        make_datamodule(data=data)


def test_a_source_of_dense_samples_alone_refuses_a_conversation(make_data, make_datamodule, conversations):
    data = make_data(train={"talk": make_data.source("text.jsonl", task="dense")})
    with pytest.raises(RecordError, match=r"text.jsonl:1: objects is missing, but source talk samples dense"):
        make_datamodule(data=data)


def test_drawn_scenes_have_no_conversation(make_data, make_datamodule):
    scenes = SceneSource(count=4, seed=0, domain="demo", language="en", repeat=1, task=None, prompts=None)
    with pytest.raises(RecordError, match="messages is missing, but source drawn samples chat"):
        make_datamodule(data=make_data(train={"drawn": scenes}, sampling="chat"))


def test_nothing_is_asked_about_a_conversation_in_an_evaluation(make_data, make_datamodule, conversations, tmp_path):
    lines = [(conversations / name).read_text() for name in ("text.jsonl", "en.jsonl")]
    (tmp_path / "all.jsonl").write_text("".join(lines).replace("en_", f"{conversations}/en_"))
    val = {"all": str(tmp_path / "all.jsonl"), "chat": str(conversations / "chat.jsonl")}
    datamodule = make_datamodule(data=make_data(val=val))
    assert datamodule.evaluation_items("chat", None) == []
    items = datamodule.evaluation_items("all", 7)  # the first seven records, four of them conversations
    assert [(item.task, item.index) for item in items] == [(t, i) for t in ("dense", "summary") for i in (4, 5, 6)]


def test_a_row_of_texts_alone_and_a_mixed_row_keep_every_rule(make_data, make_datamodule, conversations, processing):
    train = {"talk": str(conversations / "text.jsonl"), "chat": str(conversations / "chat.jsonl"),
             "en": str(conversations / "en.jsonl")}  # fmt: skip
    dataset = make_datamodule(data=make_data(train=train)).train_dataset()
    features = [dataset[(0, index)] for index in range(18)]
    merge = processing.family.merge_size
    texts = collate(features[:4])
    assert texts["pixel_values"].shape[0] == 0 and texts["image_grid_thw"].shape == (0, 3)
    mixed = collate([features[0], features[10], features[1], features[4]])
    assert len(mixed["image_grid_thw"]) == 1 + 2
    for batch in (texts, mixed, collate(features)):
        check_batch(batch, merge)
    assert step_counts([texts, mixed])["step_cells"] == int((mixed["mm_token_type_ids"] > 0).sum())


def test_only_visual_tokens_with_targets_count_in_the_auxiliary_loss(make_data, make_datamodule, conversations):
    train = {"chat": str(conversations / "chat.jsonl"), "en": str(conversations / "en.jsonl")}
    dataset = make_datamodule(data=make_data(train=train), grounding=True).train_dataset()
    chat, dense = collate([dataset[(0, 0)]]), collate([dataset[(0, 6)]])
    assert set(chat["cell_classes"].tolist()) == {IGNORE} and chat["mm_token_type_ids"].any()
    known = int((dense["mm_token_type_ids"] > 0).sum())
    assert step_counts([chat])["step_cells"] == 0
    assert step_counts([chat, dense])["step_cells"] == step_counts([dense])["step_cells"] == known


def test_colours_alone_change_in_a_conversation_and_no_fused_template_is_looked_for(
    make_data, make_datamodule, conversations
):
    jitter = ColorJitter(p=1, brightness=(0.5, 0.6), contrast=(1, 1), saturation=(1, 1), hue=(0, 0))
    ops = {"hflip": op("hflip"), "shift": PairShift(p=1, max_px=5), "jitter": jitter}
    data = make_data(train=str(conversations / "chat.jsonl"))
    seen = {}
    for name, order in (("plain", []), ("moved", ["hflip", "shift"]), ("all", ["hflip", "shift", "jitter"])):
        pipeline = compose(ops=ops, order=order, share_draw=True)
        dataset = make_datamodule(data=data, augment=pipeline, pairing="fused").train_dataset()
        seen[name] = [dataset.sample((0, index))[0] for index in (0, 1)]
    assert [len(sample.images) for sample in seen["plain"]] == [2, 0]
    for plain, moved, coloured in zip(*seen.values(), strict=True):
        assert all((a == b).all() for a, b in zip(plain.images, moved.images, strict=True))
        assert all(
            a.shape == b.shape and a.mean() > b.mean() for a, b in zip(plain.images, coloured.images, strict=True)
        )
    assert seen["moved"][0].telemetry["shift/chat_photo"] == seen["moved"][0].telemetry["hflip/chat_text"] == 1


def test_equal_keys_give_the_same_conversation(make_data, make_datamodule, conversations):
    data = make_data(train=str(conversations / "chat.jsonl"))
    first, second = (make_datamodule(data=data).train_dataset()[(1, 2)] for _ in range(2))
    assert torch.equal(collate([first])["input_ids"], collate([second])["input_ids"])
