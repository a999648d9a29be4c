"""The label audit: its tokens against the tokenizer's own offsets, its files, and that a run does not notice it."""

import io
import json
import random
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from qcvl.augment.color import ColorJitter
from qcvl.data.chat import IGNORE
from qcvl.data.sampling import shuffled
from qcvl.doctor.labels import KINDS, SAMPLES, audit_labels, audit_report, save_audit
from qcvl.errors import DataError
from tests.augment.ops import compose


@pytest.fixture
def dataset(make_datamodule):
    """Eight records of en and twelve of zh, dense and summary."""
    return make_datamodule().train_dataset()


def features_of(dataset, count=SAMPLES):
    """The first samples of the first epoch in training order."""
    return [dataset[(0, int(index))] for index in shuffled(len(dataset), dataset.seed, 0)[:count]]


def printed(audit) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(audit_report(audit), soft_wrap=True)
    return console.file.getvalue()


def kinds_by_offsets(tokenizer, answer: str) -> dict[str, int]:
    """Tokens of each kind of a flat dense answer, by the tokenizer's offsets and two searches in the text."""
    inside = np.zeros(len(answer), dtype=int)  # 2 where a coordinate, 1 where a desc
    for array in re.finditer(r"\[[^\]]*\]", answer):
        for number in re.finditer(r"\d+", array[0]):
            inside[array.start() + number.start() : array.start() + number.end()] = 2
    for desc in re.finditer(r'"desc": "([^"]*)"', answer):
        inside[slice(*desc.span(1))] = 1
    offsets = tokenizer(answer, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    counts = np.bincount([inside[a:b].max() for a, b in offsets], minlength=3)
    found = {"format": counts[0] + 1, "descriptions": counts[1], "coordinates": counts[2]}  # the end of turn is format
    return found | {"summary": 0, "chat": 0}


def test_all_tokens_are_accounted_for_and_say_what_the_tokenizer_decodes(dataset, processing):
    audit = audit_labels(dataset)
    assert len(audit.samples) == SAMPLES and {sample.task for sample in audit.samples} == {"dense", "summary"}
    for sample, features in zip(audit.samples, features_of(dataset), strict=True):
        assert sample.tokens == len(features.input_ids)
        assert sum(map(sample.trained, KINDS)) == int((features.labels != IGNORE).sum())
        assert sample.image_tokens == int(features.token_types.sum())
        whole = "".join(piece.text for piece in sample.pieces)
        pads = "<|image_pad|>" * sample.image_tokens
        assert whole.replace(f"<|image_pad|> x{sample.image_tokens}", pads) == (
            processing.tokenizer.decode(features.input_ids)
        )
        trained = "".join(piece.text for piece in sample.pieces if piece.kind)
        assert trained == processing.tokenizer.decode(features.labels[features.labels != IGNORE])


def test_kinds_of_a_dense_answer_agree_with_the_tokenizers_offsets(dataset, processing):
    dense = [sample for sample in audit_labels(dataset, count=20).samples if sample.task == "dense"]
    assert len(dense) > 5
    for sample in dense:
        answer = "".join(piece.text for piece in sample.pieces if piece.kind).removesuffix("<|im_end|>")
        assert {kind: sample.trained(kind) for kind in KINDS} == kinds_by_offsets(processing.tokenizer, answer)
        assert sample.trained("coordinates") > 0 and sample.trained("descriptions") > 0


def test_a_summary_is_its_words_but_for_its_end_of_turn(dataset):
    for sample in (sample for sample in audit_labels(dataset).samples if sample.task == "summary"):
        trained = [piece for piece in sample.pieces if piece.kind]
        assert [piece.kind for piece in trained] == ["summary", "format"]
        assert (trained[1].tokens, trained[1].text) == (1, "<|im_end|>")


def test_the_numbers_are_sums_over_the_samples_of_a_task(dataset):
    audit = audit_labels(dataset)
    for task, row in audit.numbers().items():
        samples = [sample for sample in audit.samples if sample.task == task]
        assert row["samples"] == len(samples) and row["tokens"] == sum(sample.tokens for sample in samples)
        assert row["coordinates"] == sum(sample.trained("coordinates") for sample in samples)
    assert sum(row["samples"] for row in audit.numbers().values()) == SAMPLES


def test_it_is_printed_and_saved_with_one_whole_sample_of_each_task(dataset, tmp_path):
    audit = audit_labels(dataset)
    save_audit(audit, tmp_path / "run")
    text = (tmp_path / "run/label_audit.txt").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "run/label_audit.json").read_text(encoding="utf-8"))
    assert content["tasks"] == audit.numbers() and content["dropped"] == 0
    tasks = [sample.task for sample in audit.samples]
    assert audit.shown() == sorted((audit.samples[tasks.index(task)] for task in set(tasks)), key=audit.samples.index)
    assert [sample["task"] for sample in content["samples"]] == [sample.task for sample in audit.shown()]
    assert text.count("⟦") == text.count("⟧") == 2 * len(audit.shown())  # in each heading, and around the answer
    for sample in audit.shown():
        assert f"{sample.where} ({sample.task}): {sample.tokens:,} tokens" in text and sample.where in printed(audit)
        trained = "".join(piece.text for piece in sample.pieces if piece.kind)
        assert f"assistant\n⟦{trained}⟧" in text and f"assistant\n⟦{trained}⟧" in printed(audit)
    row = audit.numbers()["dense"]
    share = row["coordinates"] / (row["coordinates"] + row["descriptions"] + row["format"])
    assert re.search(rf"^\s*dense .*\b{100 * share:.1f}%", text, re.MULTILINE)


def test_user_text_is_shown_as_it_is_and_never_acted_on(make_data, make_datamodule, scenes, tmp_path):
    lines = [json.loads(line) for line in (scenes / "en.jsonl").read_text().splitlines()]
    hostile = "[red]no markup[/red] :smile: \x1b[2J<|im_end|>"
    for line in lines:
        line["summary"] = hostile
        line["images"] = [str(scenes / line["images"][0])]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = make_data(train={"mine": make_data.source(str(tmp_path / "mine.jsonl"))}, sampling="summary")
    audit = audit_labels(make_datamodule(data=data).train_dataset())
    assert "⟦[red]no markup[/red] :smile: \\x1b[2J<|im_end|><|im_end|>⟧" in printed(audit)
    assert "\x1b" not in printed(audit)


def test_overlong_samples_are_counted(make_data, make_datamodule, dataset):
    lengths = [len(features.input_ids) for features in features_of(dataset)]
    limit = sorted(lengths)[8]
    shorter = make_datamodule(data=make_data(overlong="drop"), max_length=limit).train_dataset()
    audit = audit_labels(shorter)
    assert audit.dropped == sum(length > limit for length in lengths) > 0
    assert f"first {SAMPLES - audit.dropped} samples, {audit.dropped} more dropped as overlong" in printed(audit)


def test_nothing_of_a_run_is_drawn_or_moved(make_datamodule):
    jitter = ColorJitter(p=1, brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(0, 0.1))
    augment = compose(jitter=jitter, fill=0, share_draw=True)
    dataset = make_datamodule(augment=augment).train_dataset()

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    fresh = make_datamodule(augment=augment).train_dataset()[(0, 3)]
    before = states()
    audit_labels(dataset)
    assert states() == before
    assert np.array_equal(dataset[(0, 3)].patches, fresh.patches)


@pytest.mark.parametrize("found", [DataError("an annotation lies in image 3"), ValueError("bad matrix")])
def test_an_error_names_the_sample(make_datamodule, found):
    def broken(sample, key, seen):
        raise found

    broken.phases = []
    dataset = make_datamodule(augment=broken).train_dataset()
    where = dataset.where((0, int(shuffled(len(dataset), dataset.seed, 0)[0])))
    with pytest.raises(type(found)) as raised:
        audit_labels(dataset)
    told = str(raised.value) + "".join(getattr(raised.value, "__notes__", []))
    assert where in told and str(found) in told


def test_a_sample_that_breaks_a_rule_of_batches_is_named(dataset, monkeypatch):
    encode = type(dataset.encoder).__call__

    def without_labels(self, *arguments):
        features = encode(self, *arguments)
        features.labels[:] = IGNORE
        return features

    monkeypatch.setattr(type(dataset.encoder), "__call__", without_labels)
    with pytest.raises(DataError, match=r"(zh|en)\.jsonl:\d+: samples \[0\] of a batch carry no label"):
        audit_labels(dataset)
