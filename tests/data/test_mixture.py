"""Several sources in one epoch: how much of each, and what each is shown like."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from qcvl.data.loader import TrainLoader
from qcvl.errors import ConfigError
from qcvl.schema.answer import parse_answer, render_answer, sort_annotations
from tests.augment.ops import compose, op


@pytest.fixture
def mixed(make_data, make_datamodule):
    """``mixed(weights=…, …)``: the training samples of zh (12 records) and en (8)."""
    return lambda augment=None, **changes: make_datamodule(data=make_data(**changes), augment=augment).train_dataset()


def shown(dataset, epoch: int) -> dict[str, int]:
    counts = Counter(dataset.rows(epoch)[:, 0].tolist())
    return {source.name: counts[number] for number, source in enumerate(dataset.sources)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"zh": 12, "en": 8}),
        ({"weights": {"zh": 1, "en": 3}}, {"zh": 5, "en": 15}),
        ({"weights": {"zh": 1, "en": 3}, "epoch_samples": 100}, {"zh": 25, "en": 75}),
        ({"epoch_samples": 10}, {"zh": 6, "en": 4}),
        ({"weights": {"zh": 2, "en": 1}, "epoch_samples": 31, "sample_limit": 2}, {"zh": 21, "en": 10}),
    ],
)
def test_an_epoch_holds_exactly_the_asked_share_of_each_source(mixed, changes, expected):
    dataset = mixed(**changes)
    assert len(dataset) == sum(expected.values())
    for epoch in range(3):
        assert shown(dataset, epoch) == expected
        used = [min(len(source.records), changes.get("sample_limit", 99)) for source in dataset.sources]
        for number, (count, length) in enumerate(zip(expected.values(), used, strict=True)):
            times = np.bincount(dataset.rows(epoch)[dataset.rows(epoch)[:, 0] == number, 1], minlength=length)
            assert len(times) == length and times.max() - times.min() <= 1  # no record twice before all came once
            assert times.sum() == count


def test_sources_are_interleaved_all_along_an_epoch(make_data, make_datamodule):
    dataset = make_datamodule(data=make_data(weights={"zh": 1, "en": 1}, epoch_samples=400)).train_dataset()
    loader = TrainLoader(
        dataset, batch_size=40, token_budget=None, keep_going=False, accumulate=1, rank=0, world_size=1, num_workers=0
    )
    for step in loader._plan(0):
        of_first = int((dataset.rows(0)[step[0], 0] == 0).sum())
        assert 8 <= of_first <= 32  # 20 on average; four standard deviations


def test_the_mixture_goes_on_exactly_where_a_run_was_stopped(mixed):
    def loader():
        dataset = mixed(weights={"zh": 1, "en": 2}, epoch_samples=17)
        values = {"batch_size": 4, "token_budget": None, "keep_going": False, "accumulate": 1}
        return TrainLoader(dataset, **values, rank=0, world_size=1, num_workers=0)

    whole, stopped, resumed = loader(), loader(), loader()
    batches = [*whole, *whole]
    list(stopped)
    list(islice(iter(stopped), 2))
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    rest = list(resumed)
    assert len(rest) == 3 and len(batches) == 10
    for batch, expected in zip(rest, batches[7:], strict=True):
        assert batch["input_ids"].tolist() == expected["input_ids"].tolist()


def test_sources_named_as_unaugmented_are_shown_as_they_are(mixed):
    varied = []

    def augment(sample, key, seen):
        varied.append(key[2])
        return replace(sample, images=tuple(255 - image for image in sample.images))

    dataset = mixed(augment, unaugmented=["zh"])
    plain = mixed()
    for index in range(20):
        same = np.array_equal(dataset.sample((0, index))[0].images[0], plain.sample((0, index))[0].images[0])
        assert same == (index < 12)
    assert varied == list(range(12, 20))


@pytest.mark.parametrize("most", [1, 2])
def test_a_sample_lists_its_first_objects_in_the_answers_order(mixed, most):
    dataset, whole = mixed(sampling="dense", max_objects={"en": most}), mixed(sampling="dense")
    capped = 0
    for index in range(20):
        sample, full = dataset.sample((0, index))[0], whole.sample((0, index))[0]
        expected = sort_annotations(full.annotations)[: most if index >= 12 else None]
        size = full.size()
        assert list(parse_answer(render_answer(sample.annotations, size), size).annotations) == list(
            parse_answer(render_answer(expected, size), size).annotations
        )
        assert [full.annotations[k] for k in sample.kept_indices] == list(sample.annotations)
        assert len(sample.coverages) == len(sample.annotations)
        capped += len(sample.annotations) < len(full.annotations)
    assert 0 < capped <= 8


def test_the_cap_counts_what_augmentation_left(mixed):
    def without_first(sample, key, seen):
        keep = slice(1, None)
        fields = {name: getattr(sample, name)[keep] for name in ("annotations", "kept_indices", "coverages")}
        return replace(sample, **fields)

    dataset = mixed(without_first, sampling="dense", max_objects={"zh": 1, "en": 1})
    whole = mixed(without_first, sampling="dense")
    for index in range(20):
        left = sort_annotations(whole.sample((0, index))[0].annotations)
        found = sort_annotations(dataset.sample((0, index))[0].annotations)
        assert found == left[:1]


def test_a_summary_is_not_touched_by_the_cap(mixed):
    dataset, whole = mixed(sampling="summary", max_objects={"zh": 1, "en": 1}), mixed(sampling="summary")
    for index in range(20):
        assert dataset[(0, index)].input_ids.tolist() == whole[(0, index)].input_ids.tolist()


def test_a_source_may_have_a_pixel_budget_of_its_own(mixed):
    cell = 32 * 32
    dataset = mixed(sampling="dense", max_pixels={"en": 2 * cell}, min_pixels={"en": cell, "zh": 16 * cell})
    whole = mixed(sampling="dense")
    for index in range(20):
        grid, before = (int(some[(0, index)].grids.prod()) // 4 for some in (dataset, whole))
        assert 1 <= grid <= 2 if index >= 12 else grid >= 16 >= before
    assert any(int(whole[(0, index)].grids.prod()) // 4 > 2 for index in range(12, 20))


def test_a_photo_that_moved_comes_in_the_size_its_own_source_is_seen_in(mixed):
    cell = 32 * 32
    dataset = mixed(compose(flip=op("hflip", word_pairs=[])), sampling="dense", max_pixels={"en": 2 * cell})
    smaller = 0
    for index in range(20):
        sample, grid = dataset.sample((0, index))[0], dataset[(0, index)].grids[0]
        assert sample.telemetry["flip/applied"] == 1
        width, height = sample.size()
        smaller += (index >= 12) and (height, width) == (16 * grid[1], 16 * grid[2]) and height * width <= 2 * cell
    assert smaller == 8


def test_a_pixel_budget_without_room_is_refused(mixed):
    with pytest.raises(ConfigError, match=r"source en would have photos of 5000 to 4000 pixels; give both"):
        mixed(min_pixels={"en": 5000}, max_pixels={"en": 4000})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"zh": 1, "eng": 2}}, r"data.weights: 'eng' is not a source of data.train \(zh, en\); .* 'en'"),
        ({"weights": {"zh": 1}}, r"data.weights: has no weight for en; give each source of data.train one"),
        ({"unaugmented": ["hz"]}, r"data.unaugmented: 'hz' is not a source of data.train \(zh, en\); .* 'zh'"),
        ({"max_objects": {"n": 1}}, r"data.max_objects: 'n' is not"),
        ({"min_pixels": {"n": 1}, "max_pixels": {"m": 1}}, r"(?s)data.min_pixels: 'n' is not.*data.max_pixels: 'm' is"),
        ({"max_pixels": {"val": 1}, "train": None}, r"'val' is not a source of data.train \(none\); data.train is nu"),
    ],
)
def test_a_name_that_is_no_training_source_is_refused_with_the_nearest(make_data, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_data(**changes)
