"""Records that share a user turn: which meet, what is asked and answered, and that all else goes on as without."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.augment.crop import SampleCrop
from qcvl.data.chat import IGNORE
from qcvl.data.grouping import grouped
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.data.lengths import EpochLengths
from qcvl.data.loader import TrainLoader
from qcvl.data.sampling import epoch_counts, expand_epoch, group_count, group_epoch
from qcvl.data.sources import SceneSource
from qcvl.errors import CheckpointError, DataError
from qcvl.models.text import decoded
from qcvl.schema.answer import parse_answer, parse_summaries
from tests.augment.ops import compose, op
from tests.conftest import write_pairs

seeds, epochs = st.integers(0, 2**32), st.integers(0, 1000)
shapes = st.lists(st.tuples(st.integers(1, 20), st.floats(0.05, 3), st.integers(1, 5)), min_size=1, max_size=4)


@given(shapes, seeds, epochs)
def test_an_epoch_groups_each_show_of_a_record_once_and_no_record_twice_in_a_sample(shapes, seed, epoch):
    lengths, repeats, together = zip(*shapes, strict=True)
    counts = epoch_counts(lengths, repeats)
    rows = expand_epoch(lengths, counts, seed, epoch)
    order, starts = group_epoch(lengths, counts, together, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(rows)))
    groups = [rows[order[a:b]].tolist() for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert len(groups) == sum(map(group_count, lengths, counts, together))
    for group in groups:
        ((source,), records) = {row[0] for row in group}, [row[1] for row in group]
        assert 1 <= len(group) <= together[source] and len(set(records)) == len(records)
    for source, (length, count, size) in enumerate(zip(lengths, counts, together, strict=True)):
        sizes = Counter(len(group) for group in groups if group[0][0] == source)
        passes = [length] * (count // length) + ([count % length] if count % length else [])
        assert sizes == Counter(s for a_pass in passes for s in [size] * (a_pass // size) + [a_pass % size] if s)
        if size == 1:
            assert [group[0] for group in groups if group[0][0] == source] == rows[rows[:, 0] == source].tolist()


def test_who_meets_whom_is_drawn_anew_in_each_epoch_and_by_the_seed():
    found = [group_epoch([100], [100], [4], seed, epoch)[0].tolist() for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert len({tuple(order) for order in found}) == 3
    assert found == [
        group_epoch([100], [100], [4], seed, epoch)[0].tolist() for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]


@pytest.fixture
def training(make_data, make_datamodule):
    """``training(images_per_user_turn=3, sampling="dense")``: the training samples of zh (12 records) and en (8)."""

    def make(augment=None, grounding=False, **changes):
        return make_datamodule(data=make_data(**changes), augment=augment, grounding=grounding).train_dataset()

    return make


def answer_of(dataset, key) -> str:
    """The text that a sample trains."""
    labels = dataset[key].labels
    return decoded(dataset.encoder.processing, labels[labels != IGNORE][:-1].tolist())


def rows_of(dataset, key) -> list[int]:
    """The rows of an epoch that a sample is of."""
    return [row for _, row in dataset.parts(key)]


def shown(dataset, epoch: int) -> list[int]:
    """How many photos each sample of an epoch shows."""
    return [len(dataset.sample((epoch, index))[0].images) for index in range(len(dataset))]


def test_the_photos_of_several_records_have_one_answer_that_reads_back_photo_by_photo(training):
    dataset, alone = training(images_per_user_turn=3, sampling="dense"), training(sampling="dense")
    assert len(dataset) == 4 + 3 and shown(dataset, 2) == [3, 3, 3, 3, 3, 3, 2]
    for index in range(len(dataset)):
        features, (sample, _, where) = dataset[(2, index)], dataset.sample((2, index))
        rows = rows_of(dataset, (2, index))
        singles = [alone.sample((2, row)) for row in rows]
        assert [image.tobytes() for image in sample.images] == [one.images[0].tobytes() for one, _, _ in singles]
        assert where == " and ".join(place for _, _, place in singles)
        assert len(features.grids) == len(rows)
        found = parse_answer(answer_of(dataset, (2, index)), [sample.size(i) for i in range(len(rows))])
        assert found.status == "strict"
        for number, row in enumerate(rows):
            one = parse_answer(answer_of(alone, (2, row)), alone.sample((2, row))[0].size())
            mine = [replace(note, image=0) for note in found.annotations if note.image == number]
            assert mine == list(one.annotations)


def test_summaries_are_keyed_by_photo_and_a_record_left_alone_is_as_without_groups(training):
    dataset = replace(training(images_per_user_turn=5, sampling="summary"), counts=[6, 1])
    for index in range(3):
        rows = rows_of(dataset, (0, index))
        expected = tuple(dataset.record((0, row)).summary for row in rows)
        text = answer_of(dataset, (0, index))
        assert (text,) == expected if len(rows) == 1 else parse_summaries(text, len(rows)) == expected
    assert [len(rows_of(dataset, (0, index))) for index in range(3)] == [5, 1, 1]


def test_a_group_is_of_one_source_and_one_task(training):
    dataset, tasks = training(images_per_user_turn=2, sampling="mixed"), Counter()
    for epoch in range(2):
        for index in range(len(dataset)):
            sample = dataset.sample((epoch, index))[0]
            names = {int(dataset.rows(epoch)[row, 0]) for row in rows_of(dataset, (epoch, index))}
            assert names == {0 if index < 6 else 1}
            text = answer_of(dataset, (epoch, index))
            as_dense = parse_answer(text, [sample.size(i) for i in range(2)]).status == "strict"
            assert as_dense == (sample.task == "dense")
            tasks[sample.task] += 1
    assert set(tasks) == {"dense", "summary"}


def test_conversations_and_records_of_several_photos_stay_samples_of_their_own(
    make_data, make_datamodule, conversations, tmp_path
):
    rows = [
        json.loads(line)
        for name in ("chat.jsonl", "en.jsonl")
        for line in (conversations / name).read_text().splitlines()
    ]
    rows[7] |= {"images": ["en_1.png", "en_2.png"], "width": None, "height": None}
    for row in rows:
        row["images"] = [str(conversations / name) for name in row.get("images", [])]
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = make_data(train=str(path), sampling="dense", images_per_user_turn=3)
    datamodule = make_datamodule(data=data)
    dataset = datamodule.train_dataset()
    found = Counter()
    for index in range(len(dataset)):
        sample = dataset.sample((0, index))[0]
        found[sample.task, len(sample.images), bool(sample.summaries)] += 1
    chats = {("chat", 2, False): 3, ("chat", 0, False): 3}
    assert found == {("dense", 3, True): 2, ("dense", 1, False): 1, ("dense", 2, False): 1} | chats
    assert EpochLengths(dataset).of(0).tolist() == [len(dataset[(0, index)].input_ids) for index in range(len(dataset))]
    (source,) = datamodule.sources("train")
    listed = replace(source, records=list(source.records))  # read one by one, without the file's index
    for one in (source, listed):
        parts, counts = grouped([one], [14], 3, None)
        assert [len(part.records) for part in parts] == [7, 7] and counts == [7, 7]
        assert [part.together for part in parts] == [3, 1]
    assert [len(dataset.epoch(epoch).starts) for epoch in range(20)] == [len(dataset) + 1] * 20
    assert grouped([source], [14 + 4], 3, None)[1] == [9, 9]


def test_scenes_are_grouped_without_being_drawn(training, monkeypatch):
    monkeypatch.setattr("qcvl.data.scenes.records.draw_scene", lambda *_: pytest.fail("drawn"))
    scenes = SceneSource(count=1000, seed=0, domain="base", language="en", repeat=1, task=None, prompts=None)
    assert len(training(train={"scenes": scenes}, images_per_user_turn=8)) == 125


@pytest.mark.parametrize("share_draw", [False, True])
def test_each_record_is_augmented_with_draws_of_its_own_unless_they_are_to_share_one(training, share_draw):
    flip = compose(flip=op("hflip", p=0.5, word_pairs=[]), share_draw=share_draw)
    dataset = training(flip, images_per_user_turn=4, sampling="dense")
    plain = training(images_per_user_turn=4, sampling="dense")
    flips = []
    for index in range(len(dataset)):
        (sample, _, _), (before, _, _) = dataset.sample((0, index)), plain.sample((0, index))
        pairs = zip(sample.images, before.images, strict=True)
        flips.append([not np.array_equal(after, image) for after, image in pairs])
        assert sample.telemetry.get("flip/applied", 0) == sum(flips[-1])
        for after, image, flipped in zip(sample.images, before.images, flips[-1], strict=True):
            assert np.array_equal(after, image[:, ::-1] if flipped else image)
    assert 0 < sum(map(sum, flips)) < 20
    assert all(len(set(group)) == 1 for group in flips) == share_draw


def test_the_cap_counts_the_objects_of_each_record(training):
    dataset = training(images_per_user_turn=4, sampling="dense", max_objects={"zh": 1, "en": 2})
    for index in range(len(dataset)):
        counts = Counter(note.image for note in dataset.sample((0, index))[0].annotations)
        assert max(counts.values()) == (1 if index < 3 else 2)


def test_grounding_targets_of_a_group_are_those_of_its_records(training):
    dataset = training(grounding=True, images_per_user_turn=3, sampling="dense")
    alone = training(grounding=True, sampling="dense")
    for index in range(len(dataset)):
        whole, parts = dataset[(0, index)], [alone[(0, row)] for row in rows_of(dataset, (0, index))]
        for name in ("cell_classes", "cell_points", "patches", "grids"):
            expected = np.concatenate([getattr(part, name) for part in parts])
            assert np.array_equal(getattr(whole, name), expected)
        assert (whole.cell_classes > 0).any()


def test_of_pairs_each_record_shows_the_window_of_its_own_photo_and_template(make_data, make_datamodule, tmp_path):
    path = str(write_pairs(tmp_path, 5, (160, 96)))

    def dataset(**changes):
        crops = SampleCrop(size=64, aimed_share=0.5, empty_share=0.0, min_coverage=0.5)
        values = {"train": path, "sampling": "dense", "pair": "fused"}
        data = make_data(**values, crops=crops, **changes)
        return make_datamodule(data=data, pairing="fused").train_dataset()

    pairs, alone = dataset(images_per_user_turn=2), dataset()
    assert shown(pairs, 0) == [2, 2, 1]
    for index in range(3):
        expected = [alone.sample((0, row))[0].images[0] for row in rows_of(pairs, (0, index))]
        assert all(map(np.array_equal, pairs.sample((0, index))[0].images, expected))


@pytest.mark.parametrize("sampling", ["dense", "summary", "mixed"])
@pytest.mark.parametrize("together", [2, 3, 100])
def test_lengths_of_groups_are_those_of_the_encoded_samples(training, sampling, together):
    dataset = training(images_per_user_turn=together, sampling=sampling, max_objects={"zh": 2})
    lengths = EpochLengths(dataset)
    bounds = lengths.longest()
    assert len(bounds) == len(dataset)
    for epoch in range(8):
        if epoch < 2:
            expected = [len(dataset[(epoch, index)].input_ids) for index in range(len(dataset))]
            assert lengths.of(epoch).tolist() == expected
        assert all(np.sort(lengths.of(epoch))[::-1] <= bounds)
        assert dataset.epoch(epoch).order.tolist() != dataset.epoch(epoch + 1).order.tolist()


def test_lengths_of_groups_are_exact_with_the_real_tokenizer_and_other_forms_of_answer(
    make_data, make_datamodule, qwen3
):
    from qcvl.schema.answer import AnswerFormat
    from tests.conftest import choice

    answer = AnswerFormat(**choice("answer/list.yaml") | {"emit_norm": "none"})
    for changes in ({}, {"answer_format": answer}):
        data = make_data(images_per_user_turn=3, epoch_samples=30)
        dataset = make_datamodule(data=data, processing=qwen3, **changes).train_dataset()
        expected = [len(dataset[(0, index)].input_ids) for index in range(len(dataset))]
        assert EpochLengths(dataset).of(0).tolist() == expected


def loader(dataset, **changes) -> TrainLoader:
    values = {"batch_size": 2, "token_budget": None, "keep_going": False, "accumulate": 1}
    return TrainLoader(dataset, **values | {"rank": 0, "world_size": 1, "num_workers": 0} | changes)


def test_within_a_token_budget_two_ranks_share_the_same_plan_of_all_groups(training):
    dataset = training(images_per_user_turn=2, sampling="dense")
    longest = int(EpochLengths(dataset).longest()[0])
    ranks = [loader(dataset, token_budget=2 * longest, rank=rank, world_size=2) for rank in (0, 1)]
    for epoch in range(3):
        plans = [one._plan(epoch) for one in ranks]
        assert plans[0] == plans[1]
        batches = [batch for step in plans[0] for batch in step]
        assert sorted(index for batch in batches for index in batch) == list(range(len(dataset)))
    for one in ranks:
        for batch in one:
            assert batch["input_ids"].shape[1] <= 2 * longest


def test_training_on_groups_goes_on_exactly_where_it_stopped_and_refuses_other_groups(training, scenes):
    def one(together: int = 3) -> TrainLoader:
        train = {"zh": str(scenes / "zh.jsonl")}
        dataset = training(images_per_user_turn=together, epoch_samples=5, train=train, sampling="dense")
        return loader(dataset, batch_size=1)

    whole, stopped, resumed = one(), one(), one()
    batches = list(whole)
    list(islice(iter(stopped), 1))
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed.load_state_dict(state)
    (rest,) = list(resumed)
    assert rest["input_ids"].tolist() == batches[1]["input_ids"].tolist()
    with pytest.raises(CheckpointError, match="but others: .*data.images_per_user_turn"):
        one(together=4).load_state_dict(state)  # five records make two groups of four, too


def test_a_source_that_promises_single_photos_and_shows_two_is_refused(training):
    dataset = training(images_per_user_turn=2, sampling="dense")
    record = dataset.sources[0].records[0]
    two = replace(record, images=record.images * 2, sizes=record.sizes * 2)
    broken = replace(dataset, sources=[replace(dataset.sources[0], records=[two] * 12), dataset.sources[1]])
    with pytest.raises(DataError, match="a record of several photos cannot share a turn"):
        broken.sample((0, 0))


def test_coordinates_and_descriptions_of_a_group_are_told_apart_as_in_its_records(training):
    dataset, alone = training(images_per_user_turn=3, sampling="dense"), training(sampling="dense")
    of_kind = {kind: 1 + LABEL_KINDS.index(kind) for kind in ("coordinates", "descriptions")}
    for index in range(len(dataset)):
        rows = rows_of(dataset, (0, index))
        for number in of_kind.values():
            parts = [int((alone[(0, row)].label_kinds == number).sum()) for row in rows]
            assert int((dataset[(0, index)].label_kinds == number).sum()) == sum(parts) > 0


@pytest.mark.parametrize("together", [None, 3])
def test_each_record_of_a_sample_is_read_once(training, together):
    reads = []

    class Counted(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    dataset = training(images_per_user_turn=together, sampling="dense")
    source = dataset.sources[0]
    records = Counted(source.records[index] for index in range(12))
    dataset = replace(dataset, sources=[replace(source, records=records), dataset.sources[1]])
    dataset.sample((0, 1))
    assert len(reads) == (together or 1) == len(set(reads))
