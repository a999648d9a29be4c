"""Lengths known without a pixel: those of the encoded samples, from the disk the second time."""

import json

import numpy as np
import pytest

from qcvl.augment.crop import SampleCrop
from qcvl.data.costs import text_cost, visual_cost
from qcvl.data.lengths import EpochLengths, sample_amount
from qcvl.schema.answer import AnswerFormat
from tests.conftest import choice


def true_lengths(dataset, epoch: int = 0) -> list[int]:
    return [len(dataset[(epoch, index)].input_ids) for index in range(len(dataset))]


@pytest.fixture
def without_sizes(scenes, tmp_path):
    """en.jsonl without the sizes of its photos."""
    lines = [json.loads(text) for text in (scenes / "en.jsonl").read_text().splitlines()]
    for item in lines:
        del item["width"], item["height"]
        item["images"] = [str(scenes / item["images"][0])]
    path = tmp_path / "unsized.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


@pytest.mark.parametrize("sampling", ["dense", "summary", "mixed"])
def test_a_length_is_that_of_the_encoded_sample(make_data, make_datamodule, sampling):
    dataset = make_datamodule(data=make_data(sampling=sampling)).train_dataset()
    lengths = EpochLengths(dataset)
    for epoch in (0, 1, 5):
        assert lengths.of(epoch).tolist() == true_lengths(dataset, epoch)
    assert len(set(lengths.of(0).tolist())) > 5


@pytest.mark.parametrize(
    "changes",
    [
        {"max_objects": {"zh": 1, "en": 2}},
        {"max_pixels": {"en": 32 * 32 * 2}, "min_pixels": {"en": 32 * 32}},
        {"weights": {"zh": 1, "en": 3}, "epoch_samples": 30},
        {"sample_limit": 3},
    ],
)
def test_a_length_follows_what_the_mixture_makes_of_a_source(make_data, make_datamodule, changes):
    plain = EpochLengths(make_datamodule(data=make_data(sampling="dense")).train_dataset())
    dataset = make_datamodule(data=make_data(sampling="dense", **changes)).train_dataset()
    lengths = EpochLengths(dataset).of(2)
    assert lengths.tolist() == true_lengths(dataset, 2) and lengths.tolist() != plain.of(2).tolist()


@pytest.mark.parametrize("emit_norm", ["norm100", "none"])
def test_a_length_follows_the_answer_format(make_data, make_datamodule, emit_norm):
    answer = AnswerFormat(**choice("answer/list.yaml") | {"emit_norm": emit_norm})
    dataset = make_datamodule(data=make_data(sampling="dense"), answer_format=answer).train_dataset()
    assert EpochLengths(dataset).of(0).tolist() == true_lengths(dataset)


def test_sizes_that_a_record_does_not_state_are_read_from_the_photos_headers(
    make_data, make_datamodule, without_sizes, monkeypatch
):
    data = make_data(train={"en": str(without_sizes)}, sampling="dense")
    dataset = make_datamodule(data=data).train_dataset()
    expected = true_lengths(dataset)
    monkeypatch.setattr("qcvl.data.samples.load_image", lambda *_: pytest.fail("decoded"))
    assert EpochLengths(dataset).of(0).tolist() == expected


def test_a_photo_that_cannot_be_read_counts_as_the_longest(make_data, make_datamodule, without_sizes):
    text = without_sizes.read_text().replace("en_3.png", "gone.png")
    without_sizes.write_text(text)
    datamodule = make_datamodule(data=make_data(train=str(without_sizes), sampling="dense"), max_length=999)
    lengths = EpochLengths(datamodule.train_dataset()).of(0)
    assert lengths[3] == 999 and max(np.delete(lengths, 3)) < 999


def test_windows_count_with_all_the_objects_of_their_photo(make_data, make_datamodule):
    crops = SampleCrop(size=64, aimed_share=0.7, empty_share=0.0, min_coverage=0.5)
    dataset = make_datamodule(data=make_data(sampling="dense", crops=crops)).train_dataset()
    for epoch in range(3):
        assert all(np.array(true_lengths(dataset, epoch)) <= EpochLengths(dataset).of(epoch))


def test_an_overlong_sample_counts_as_the_limit(make_data, make_datamodule):
    data = make_data(sampling="dense", overlong="drop")
    whole = EpochLengths(make_datamodule(data=data).train_dataset()).of(0)
    limit = int(np.median(whole))
    cut = EpochLengths(make_datamodule(data=data, max_length=limit).train_dataset()).of(0)
    assert cut.tolist() == np.minimum(whole, limit).tolist()


def test_the_longest_bound_every_epoch(make_data, make_datamodule, scenes):
    sources = {"zh": make_data.source("zh.jsonl", repeat=1.4), "en": make_data.source("en.jsonl", repeat=0.6)}
    dataset = make_datamodule(data=make_data(train=sources, dense_share=0.5)).train_dataset()
    lengths = EpochLengths(dataset)
    bounds = lengths.longest()
    assert len(bounds) == len(dataset)
    for epoch in range(20):
        assert all(np.sort(lengths.of(epoch))[::-1] <= bounds)


def test_lengths_are_measured_once_for_a_file_and_again_for_other_texts(
    make_data, make_datamodule, prompts, without_sizes, monkeypatch
):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return sample_amount(*arguments)

    monkeypatch.setattr("qcvl.data.lengths.sample_amount", counted)
    data = make_data(train=str(without_sizes), sampling="dense")
    first = EpochLengths(make_datamodule(data=data).train_dataset()).of(0)
    assert len(calls) == 8
    assert EpochLengths(make_datamodule(data=data).train_dataset()).of(0).tolist() == first.tolist()
    assert len(calls) == 8
    EpochLengths(make_datamodule(data=data, answer_format=AnswerFormat(**choice("answer/list.yaml"))).train_dataset())
    assert len(calls) == 16


@pytest.mark.parametrize("changes", [{}, {"images_per_user_turn": 2, "sampling": "dense"}])
def test_a_cost_is_that_of_the_tokens_and_the_grids_of_the_encoded_sample(make_data, make_datamodule, changes):
    dataset = make_datamodule(data=make_data(**changes)).train_dataset()
    for epoch in (0, 2):
        features = [dataset[(epoch, index)] for index in range(len(dataset))]
        expected = [text_cost(len(item.input_ids)) + visual_cost(item.grids) for item in features]
        assert EpochLengths(dataset).costs(epoch) == pytest.approx(np.array(expected))
        assert len({visual_cost(item.grids) for item in features}) > 1
