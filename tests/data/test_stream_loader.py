"""The loader of streams: its order is a law of the seed, its state resumes exactly and reads no more than a block."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from qcvl.augment.schedule import Phase
from qcvl.data.course import Course
from qcvl.data.fetching import Guarded, lost_worker
from qcvl.data.packs import Packing
from qcvl.data.shards import JsonlShard
from qcvl.data.sources import FormatPart, JsonlPart, SceneSource
from qcvl.data.stream_loader import StreamLoader
from qcvl.errors import CheckpointError, ConfigError, DataError, RecordError
from tests.augment.ops import compose, op
from tests.data.test_loader import labels, photos, same

SHARDS = {"zh": (5, 4, 3), "en": (2, 6)}  # records of each


@pytest.fixture(scope="module")
def shards(scenes, tmp_path_factory):
    """A folder with shards of ``scenes`` in ``zh`` and ``en``; the last of zh is a Parquet file."""
    folder = tmp_path_factory.mktemp("shards")
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, sizes in SHARDS.items():
        rows = [json.loads(text) for text in (scenes / f"{name}.jsonl").read_text().splitlines()]
        for row in rows:
            row["images"] = [str(scenes / image) for image in row["images"]]
        (folder / name).mkdir()
        parts = np.split(np.array(rows, dtype=object), np.cumsum(sizes)[:-1])
        for number, part in enumerate(parts):
            if (name, number) == ("zh", 2):
                parquet.write_table(pa.Table.from_pylist(list(part)), folder / name / "part-2.parquet", 2)
            else:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
                (folder / name / f"part-{number}.jsonl").write_text(text)
    return folder


@pytest.fixture
def dataset_of(shards, make_data, make_datamodule):
    """``dataset_of(augment, weights=…, …)``: the training samples of streams of zh and en, in blocks of 7."""

    def make(augment=None, seed=3, grounding=False, **changes):
        values = {"train": {name: str(shards / name) for name in SHARDS}, "weights": {"zh": 1, "en": 2}}
        data = make_data(**values | {"shuffle_buffer": 7} | changes)
        return make_datamodule(data=data, augment=augment, seed=seed, grounding=grounding).train_dataset()

    return make


def loader(dataset, **changes) -> StreamLoader:
    values = {"batch_size": 3, "token_budget": None, "keep_going": False, "accumulate": 1, "batches": 12}
    values |= {"rank": 0, "world_size": 1, "num_workers": 0}
    return StreamLoader(dataset, **values | changes)


def kept(one: StreamLoader) -> dict:
    """The state as a checkpoint gives it back: plain data."""
    return json.loads(json.dumps(one.state_dict()))


def plain_keys(dataset, blocks: int) -> list[list[int]]:
    """Numbers of the samples of each batch of 3, by the rule: blocks of 7, each in an order of its own."""
    shown = []
    for block in range(blocks):
        order = (7 * block + np.random.default_rng([7, dataset.seed, block]).permutation(7)).tolist()
        shown += [order[:3], order[3:6], order[6:]]
    return shown


def test_batches_are_the_blocks_of_the_seed_each_in_its_own_order(dataset_of):
    dataset = dataset_of()
    planned = [[placed.key.number for placed in batch] for batch in loader(dataset).coming()]
    assert planned == plain_keys(dataset, 4)
    by_number, positions = {}, dataset.blocks.start
    for number in range(4):
        block = dataset.blocks.read(number, positions)
        positions = block.after
        by_number |= {key.number: key for key in block.keys}
    for numbers, batch in zip(planned, loader(dataset), strict=True):
        expected = [dataset[by_number[number]] for number in numbers]
        assert batch["input_ids"][0].tolist() == [token for item in expected for token in item.input_ids]


def test_the_batches_are_the_same_with_any_number_of_workers(dataset_of):
    dataset = dataset_of(compose(flip=op("hflip", p=0.5)))
    expected = list(loader(dataset))
    assert len(expected) == 12
    for workers in (1, 2):
        assert same(list(loader(dataset, num_workers=workers)), expected)
    other = list(loader(dataset_of(compose(flip=op("hflip", p=0.5)), seed=4)))
    assert photos(other) != photos(expected)


@pytest.mark.parametrize("handed", [0, 1, 3, 5, 11])
def test_a_state_taken_anywhere_continues_with_the_same_batches_and_other_workers(dataset_of, handed):
    dataset = dataset_of()
    whole = list(loader(dataset))
    stopped = loader(dataset, num_workers=handed % 2)
    assert same(list(islice(iter(stopped), handed)), whole[:handed])
    resumed = loader(dataset_of(), num_workers=1 - handed % 2)
    resumed.load_state_dict(kept(stopped))
    resumed.sampler.set_epoch(0)  # as Lightning does
    assert same(list(resumed), whole[handed:])
    assert kept(resumed)["handed_over"] == 12


def test_the_state_counts_batches_handed_over_not_those_fetched_ahead(dataset_of):
    one = loader(dataset_of(), accumulate=4, num_workers=2)
    batches = iter(one)
    next(batches)  # four were fetched for the step's counts, more by the workers, from three blocks
    state = kept(one)
    assert (state["handed_over"], state["block"], state["batches"]) == (1, 0, 1)
    next(batches), next(batches)
    state = kept(one)
    assert (state["handed_over"], state["block"], state["batches"]) == (3, 1, 0)  # no block is read to find it done


def test_a_resumed_run_reads_one_block_however_far_it_had_got(dataset_of, monkeypatch):
    dataset = dataset_of()
    read, places = [], JsonlShard.places

    def counted(shard, *start):
        for place in places(shard, *start):
            read.append((shard.path, place))
            yield place

    parsed, record = [], JsonlShard.record
    monkeypatch.setattr(JsonlShard, "places", counted)
    monkeypatch.setattr(JsonlShard, "record", lambda shard, place: parsed.append(place) or record(shard, place))
    for handed in (1, 40, 401):
        stopped = loader(dataset, batches=999)
        list(islice(stopped.coming(), handed))
        for _ in range(handed):
            stopped.passed()
        resumed = loader(dataset, batches=999)
        resumed.load_state_dict(kept(stopped))
        read.clear(), parsed.clear()
        batch = next(iter(resumed))
        assert len(read) <= 7 + 2  # of a block; a shard is asked for one place more than is taken
        assert len(parsed) <= len(batch["segments"])


@pytest.mark.parametrize(("batch_size", "steps"), [(3, [7]), (1, [2, 2, 3]), (2, [4, 3])])  # no rank gets nothing
def test_two_ranks_share_each_block_without_overlap_and_leave_nothing(dataset_of, batch_size, steps):
    dataset = dataset_of()
    count = 3 * len(steps)  # batches of three blocks
    ranks = [
        list(loader(dataset, batch_size=batch_size, batches=count, rank=rank, world_size=2).coming()) for rank in (0, 1)
    ]
    shown = [[placed.key.number for batch in pair for placed in batch] for pair in zip(*ranks, strict=True)]
    assert [len(numbers) for numbers in shown] == 3 * steps
    assert all(abs(len(one) - len(other)) <= 1 for one, other in zip(*ranks, strict=True))
    together = [number for numbers in shown for number in numbers]
    for block in range(3):  # the ranks' batches of a step are together the next samples of the block's order
        order = (7 * block + np.random.default_rng([7, dataset.seed, block]).permutation(7)).tolist()
        ends = np.cumsum(steps)[:-1]
        expected = [sorted(part.tolist()) for part in np.split(np.array(order), ends)]
        assert [sorted(numbers) for numbers in shown[block * len(steps) : (block + 1) * len(steps)]] == expected
    assert sorted(together) == list(range(21))


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_each_micro_batch_knows_the_tokens_of_its_whole_step_across_blocks(dataset_of, accumulate):
    batches = list(loader(dataset_of(), accumulate=accumulate, batches=10))
    for start in range(0, 10, accumulate):
        step = batches[start : start + accumulate]
        for batch in step:
            assert batch["step_labels"].sum() == sum(map(labels, step))


@pytest.mark.parametrize("plan", [{"token_budget": 700}, {"packing": Packing("best_fit", 700)}])
def test_a_block_is_cut_by_length_and_packed_alike_by_all_ranks_and_resumes_exactly(dataset_of, plan):
    dataset = dataset_of()
    budget = {"batches": 10, **plan}
    whole = list(loader(dataset, **budget))
    assert all(batch["input_ids"].numel() <= 700 for batch in whole) and max(len(b["segments"]) for b in whole) > 1
    ranks = [list(loader(dataset, rank=rank, world_size=2, **budget).coming()) for rank in (0, 1)]
    numbers = [placed.key.number for own in ranks for batch in own for placed in batch]
    assert len(set(numbers)) == len(numbers) and set(range(7)) <= set(numbers)
    stopped = loader(dataset, **budget)
    list(islice(iter(stopped), 4))
    resumed = loader(dataset, num_workers=1, **budget)
    resumed.load_state_dict(kept(stopped))
    assert same(list(resumed), whole[4:])


def test_a_sample_is_the_one_an_indexed_source_gives_for_the_same_draw(
    dataset_of, make_data, make_datamodule, scenes, monkeypatch
):
    """All that is not order: tasks, augmentation, prompts, caps and pixel budgets are those of sources read whole."""
    augment = compose(flip=op("hflip", p=0.5), rotate=op("rotate", p=0.5))
    changes = {"unaugmented": ["zh"], "max_objects": {"en": 1}, "max_pixels": {"en": 2 * 32 * 32}, "dense_share": 0.5}
    stream = dataset_of(augment, **changes)
    data = make_data(train={name: str(scenes / f"{name}.jsonl") for name in SHARDS}, **changes)
    whole = make_datamodule(data=data, augment=augment).train_dataset()
    places = {
        str(record.image_path()): (number, index)
        for number, source in enumerate(whole.sources)
        for index, record in enumerate(source.records)
    }
    tasks = set()
    for key in stream.blocks.read(0, stream.blocks.start).keys:
        record = stream.record(key)
        place = places[str(record.image_path())]
        monkeypatch.setattr(type(whole), "place", lambda dataset, key, place=place: place)
        found, expected = stream[key], whole[(0, key.number)]
        tasks.add((stream.sources[key.source].name, stream.task(key, record)))
        assert found.input_ids.tolist() == expected.input_ids.tolist()
        assert np.array_equal(found.patches, expected.patches) and found.telemetry == expected.telemetry
    assert {task for _, task in tasks} == {"dense", "summary"} and {name for name, _ in tasks} == {"zh", "en"}


def test_only_the_first_records_of_each_source_are_shown(dataset_of):
    dataset = dataset_of(sample_limit=3)
    shown = {dataset.where(placed.key) for batch in loader(dataset, batches=30).coming() for placed in batch}
    ends = sorted("/".join(where.rsplit("/", 2)[1:]) for where in shown)
    assert ends == [
        "en/part-0.jsonl:1",
        "en/part-0.jsonl:2",
        "en/part-1.jsonl:1",
        *(f"zh/part-0.jsonl:{n}" for n in (1, 2, 3)),
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_line_in_mid_stream_is_named_and_follows_the_rule_for_bad_samples(
    shards, make_data, make_datamodule, tmp_path, workers
):
    lines = (shards / "en/part-1.jsonl").read_text().splitlines()
    lines = (lines * 100)[:560]
    lines[530] = '{"images": ["a.png"], "objects": [{"bbox_2d": [1, 2, 3], "desc": "x"}]}'
    lines[540] = ""
    lines[550] = '{"images": ["a.png"], "summary": "nobody labelled it"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    data = make_data(train=str(tmp_path / "a.jsonl"), shuffle_buffer=20, sampling="dense")
    dataset = make_datamodule(data=data).train_dataset()  # the first 500 are looked at before training, and are good

    def from_line_521(**changes):
        one = loader(dataset, batch_size=4, batches=10, num_workers=workers, **changes)
        state = kept(one)
        start = sum(len(text.encode()) + 1 for text in lines[:520])
        one.load_state_dict(state | {"block": 26, "positions": [[0, 0, start, 521]]})
        return one

    with pytest.raises(RecordError) as caught:
        list(from_line_521())
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl:531: objects[0].bbox_2d has 3 numbers")
    one = from_line_521(keep_going=True)
    named, problems, parts = [], [], set()
    for batch in one:
        named += [(sample["where"], one.part) for sample in batch.get("bad", ())]
        problems += [sample["problem"] for sample in batch.get("bad", ())]
        parts.add(one.part)
    assert [where for where, _ in named] == [f"{tmp_path}/a.jsonl:{number}" for number in (531, 541, 551)]
    assert [part for _, part in named] == [("block", number, 20) for number in (26, 27, 27)]
    assert {part.number for part in parts} == {26, 27} and "objects is missing, but source train" in problems[-1]


def test_a_bad_line_in_what_is_looked_at_first_stops_the_run_before_it_starts(
    make_data, make_datamodule, scenes, tmp_path
):
    lines = (scenes / "en.jsonl").read_text().splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"images": ["a.png"]}', *lines]) + "\n")
    with pytest.raises(RecordError, match=rf"{tmp_path}/a.jsonl:9: objects is missing, but source train samples dense"):
        make_datamodule(data=make_data(train=str(tmp_path / "a.jsonl"), shuffle_buffer=2, sampling="dense"))


def test_a_lost_worker_is_told_with_the_line_it_read(dataset_of):
    dataset = dataset_of()
    one = loader(dataset, num_workers=1)
    key = next(iter(one.coming()))[0].key
    one.guarded.reading.rows[0] = torch.tensor([77, *key])
    told = str(lost_worker(RuntimeError("DataLoader worker (pid 77) is killed by signal: Killed. "), one.guarded))
    assert f"while it read {dataset.where(key)}: the run stops" in told
    assert isinstance(one.guarded, Guarded) and dataset.where(key).endswith(f":{key.line}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4}, "data.batch_size was 3 and is 4; resume with what the run had then"),
        ({"token_budget": 500}, "data.batch_size was 3 and is None, data.token_budget was None and is 500"),
        ({"packing": Packing("best_fit", 500)}, "data.packing was None and is best_fit, data.packing_length was None"),
        ({"world_size": 2}, "the number of ranks was 1 and is 2"),
    ],
)
def test_a_state_of_other_batches_is_refused(dataset_of, changes, message):
    dataset = dataset_of()
    with pytest.raises(CheckpointError, match=message):
        loader(dataset, **changes).load_state_dict(kept(loader(dataset)))


def test_a_state_of_other_data_or_of_no_stream_is_refused(dataset_of, make_datamodule):
    state = kept(loader(dataset_of()))
    for changes, name in (({"seed": 4}, "seed was 3"), ({"shuffle_buffer": 8}, "data.shuffle_buffer was 7")):
        with pytest.raises(CheckpointError, match=name):
            loader(dataset_of(**changes)).load_state_dict(state)
    with pytest.raises(CheckpointError, match=r"the data was \{.*\} and is \{"):
        loader(dataset_of(sample_limit=4)).load_state_dict(state)
    indexed = make_datamodule().train_dataloader()
    with pytest.raises(CheckpointError, match="read streams; set data.shuffle_buffer to what it was"):
        indexed.load_state_dict(state)
    with pytest.raises(CheckpointError, match="read its sources whole; set data.shuffle_buffer=null"):
        loader(dataset_of()).load_state_dict(indexed.state_dict())


def test_a_curriculum_follows_the_steps_of_the_run(dataset_of):
    phases = [Phase(start="0%", end="100%", ramps={"rotate.max_rotation_degrees": (0.0, 60.0)})]
    augment = compose(rotate=op("rotate", max_rotation_degrees=0.0), min_coverage=0.0, phases=phases)
    one = loader(dataset_of(augment, sampling="dense"), accumulate=2)
    one.course = Course(6, 6)
    assert [{placed[1:] for placed in batch} for batch in one.coming()] == [{(n // 2, 6)} for n in range(12)]
    grey = [batch["telemetry"].get("moves/padding", 0) / len(batch["segments"]) for batch in one]
    assert grey[0] == grey[1] == 0 and np.mean(grey[8:]) > np.mean(grey[2:6]) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": None}, "data.weights: streams have no lengths to mix them by; give each source"),
        ({"epoch_samples": 9}, "data.epoch_samples: streams have no epochs; leave it null and set trainer.max_steps"),
        ({"images_per_user_turn": 2}, "data.images_per_user_turn: a stream shows one record a sample"),
        ({"train": "a.jsonl%30", "weights": None}, "data.train: nobody counts the lines of a stream, as a.jsonl%30"),
        ({"train": "a.json", "format": "coco", "weights": None}, "a.json of format coco is no stream, .* convert it"),
    ],
)
def test_settings_that_a_stream_cannot_have_are_refused(make_data, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_data(**{"shuffle_buffer": 7, "train": {"a": "a", "b": "b"}, "weights": {"a": 1, "b": 1}} | changes)


def test_sources_that_are_no_streams_or_repeat_are_refused(make_data):
    scenes = SceneSource(count=3, seed=0, domain="base", language="en", repeat=1, task=None, prompts=None)
    part = JsonlPart(path="a.jsonl", percent=30, repeat=1, task=None, prompts=None)
    rows = {"format": "messages", "split": "train", "root": None}
    other = FormatPart(path="a.parquet", percent=30, repeat=1, task=None, prompts=None, **rows)
    for source, message in (
        (scenes, "data.train: a SceneSource is no stream; set data.shuffle_buffer=null"),
        (make_data.source("en.jsonl", repeat=2), "en.jsonl with repeat 2: streams mix by data.weights alone"),
        (part, "as a.jsonl%30 asks for"),
        (other, "as a.parquet%30 asks for"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_data(train={"a": source}, shuffle_buffer=7)


def test_validation_sources_stay_whole_and_a_streams_own_task_and_prompts_count(make_data, make_datamodule, prompts):
    other = replace(prompts, dense=replace(prompts.dense, user="List them."))
    source = make_data.source("en.jsonl", task="dense", prompts=other)
    module = make_datamodule(data=make_data(train={"en": source}, shuffle_buffer=4))
    (val,) = module.sources("val")
    assert len(val.records) == 8 and type(val.records).__name__ == "JsonlRecords"
    dataset = module.train_dataset()
    (train,) = dataset.sources
    assert train.prompts == other and train.sampling == "dense"
    assert len(train.records) == 8  # all there is, of the 500 that are looked at


def test_grounding_classes_are_those_of_the_first_records(make_datamodule, make_data, shards, scenes):
    whole = make_datamodule(data=make_data(train=str(scenes / "en.jsonl")), grounding=True).classes
    data = make_data(train=str(shards / "en"), shuffle_buffer=3)
    module = make_datamodule(data=data, grounding=True)
    assert module.classes == whole and len(whole) > 1
    assert "cell_classes" in next(iter(module.train_dataloader()))


def test_a_source_without_records_is_refused(make_data, make_datamodule, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DataError, match="source train has no records"):
        make_datamodule(data=make_data(train=str(tmp_path / "a.jsonl"), shuffle_buffer=3))
