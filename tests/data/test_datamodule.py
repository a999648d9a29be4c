"""The data module: sources opened once, validation in order, questions for the evaluator."""

import json
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from qcvl.data.chat import IGNORE
from qcvl.data.datamodule import EvaluationItem
from qcvl.data.settings import DemoData
from qcvl.errors import ConfigError, DataError
from qcvl.schema.answer import DEFAULT_FORMAT, render_answer


def as_rank(datamodule, rank: int, world_size: int, accumulate: int = 1):
    """The module as one of several processes sees it."""
    limits = {"limit_train_batches": 1.0, "max_epochs": 1, "max_steps": -1}
    datamodule.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, accumulate_grad_batches=accumulate, state=None, **limits
    )
    return datamodule


def test_the_shared_records_hold_every_kind_of_shape_and_three_sizes(make_datamodule):
    records = [record for source in make_datamodule().sources("train") for record in source.records]
    assert {note.shape.kind for record in records for note in record.annotations} == {"bbox_2d", "quad", "poly", "line"}
    assert {size for record in records for size in record.sizes} == {(128, 128), (96, 64), (64, 128)}
    assert len(records) == 20 and all(record.summary for record in records)


def test_a_bare_path_is_one_source_named_after_its_split(make_data, make_datamodule, scenes):
    datamodule = make_datamodule(data=make_data(train=str(scenes / "zh.jsonl"), val=str(scenes / "en.jsonl")))
    assert [source.name for source in datamodule.sources("train")] == ["train"]
    assert datamodule.val_names() == ["val"] and len(datamodule.sources("val")[0].records) == 8


def test_a_split_that_is_not_given_has_no_sources(make_data, make_datamodule):
    assert make_datamodule(data=make_data(val=None)).val_dataloader() == []


def test_sources_are_read_once_and_all_of_them_in_setup(make_datamodule, monkeypatch):
    datamodule = make_datamodule()
    monkeypatch.setattr("qcvl.data.jsonl.JsonlRecords", lambda path: pytest.fail("opened again"))
    datamodule.setup("fit")
    datamodule.train_dataset()
    datamodule.val_dataloader()


def test_validation_needs_no_training_data(make_data, make_datamodule, monkeypatch):
    datamodule = make_datamodule(data=make_data(train=None))
    datamodule.setup("validate")
    assert len(datamodule.val_dataloader()) == 1


def test_a_bad_file_stops_setup(make_data, make_datamodule):
    with pytest.raises(DataError, match="missing.jsonl not found"):
        make_datamodule(data=make_data(val=make_data.source("missing.jsonl").path))


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_the_sample_limit_keeps_the_first_records_of_each_training_source(make_data, make_datamodule, limit):
    datamodule = make_datamodule(data=make_data(sample_limit=limit))
    assert len(datamodule.train_dataset()) == min(limit, 12) + min(limit, 8)
    assert len(datamodule.val_dataloader()[0].dataset) == 8


def test_repeat_multiplies_an_epoch_but_never_the_validation(make_data, make_datamodule):
    sources = {"en": make_data.source("en.jsonl", repeat=2.5)}
    datamodule = make_datamodule(data=make_data(train=sources, val=sources))
    assert len(datamodule.train_dataset()) == 20
    assert len(datamodule.val_dataloader()[0].dataset) == 8


def test_validation_shows_each_record_once_in_order_without_augmentation(make_datamodule, make_data):
    def augment(sample, key, seen):
        pytest.fail("validation was augmented")

    (loader,) = make_datamodule(data=make_data(val_batch_size=3), augment=augment).val_dataloader()
    batches = list(loader)
    assert [len(batch["segments"]) for batch in batches] == [3, 3, 2]
    again = list(loader)
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(batches, again, strict=True))
    where = [loader.dataset.sample((0, index))[2].rpartition(":")[2] for index in range(8)]
    assert where == [str(number) for number in range(1, 9)]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_ranks_validate_disjoint_shares_that_cover_all_records(make_datamodule, world_size):
    keys = []
    for rank in range(world_size):
        (loader,) = as_rank(make_datamodule(), rank, world_size).val_dataloader()
        keys += [key for batch in loader.batch_sampler for key in batch]
    assert sorted(keys) == [(0, index) for index in range(8)]


def test_a_rank_without_any_validation_record_is_refused(make_datamodule):
    with pytest.raises(DataError, match="data.val has no record for rank 8 of 9; add records or use fewer devices"):
        as_rank(make_datamodule(), 8, 9).val_dataloader()


def test_validating_leaves_the_global_random_state_alone(make_datamodule):
    (loader,) = make_datamodule().val_dataloader()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_training_loader_takes_ranks_and_accumulation_from_the_trainer(make_datamodule):
    loader = as_rank(make_datamodule(), 1, 2, accumulate=3).train_dataloader()
    assert (loader.rank, loader.world_size, loader.accumulate, loader.batch_size) == (1, 2, 3, 4)
    loader = make_datamodule().train_dataloader()
    assert (loader.rank, loader.world_size, loader.accumulate) == (0, 1, 1)


def test_grounding_targets_are_in_training_batches_only(make_datamodule):
    datamodule = make_datamodule(grounding=True)
    assert "cell_classes" in next(iter(datamodule.train_dataloader()))
    assert "cell_classes" not in next(iter(datamodule.val_dataloader()[0]))
    plain = make_datamodule()
    assert "cell_classes" not in next(iter(plain.train_dataloader())) and plain.classes == {}


@pytest.mark.parametrize(("limit", "count"), [(None, 8), (3, 3), (0, 0), (99, 8)])
def test_questions_are_the_first_records_once_for_every_task_they_are_sampled_for(
    make_data, make_datamodule, prompts, limit, count
):
    mixed = make_datamodule().evaluation_items("val", limit)
    assert [(item.task, item.index) for item in mixed] == [
        (task, index) for task in ("dense", "summary") for index in range(count)
    ]
    dense = make_datamodule(data=make_data(sampling="dense")).evaluation_items("val", limit)
    assert [(item.task, item.index, item.prompts) for item in dense] == [("dense", i, prompts) for i in range(count)]


def test_an_answers_length_is_the_number_of_its_label_tokens(make_data, make_datamodule, scenes, tmp_path):
    lines = [json.loads(line) for line in (scenes / "en.jsonl").read_text().splitlines()]
    for line in lines[::2]:  # sizes may come from the photos themselves
        del line["width"], line["height"]
    for line in lines:
        line["images"] = [str(scenes / line["images"][0])]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for task in ("dense", "summary"):
        data = make_data(val=str(tmp_path / "some.jsonl"), sampling=task)
        datamodule = make_datamodule(data=data)
        dataset = datamodule.val_dataloader()[0].dataset
        for item in datamodule.evaluation_items("val", None):
            labels = dataset[(0, item.index)].labels
            assert datamodule.answer_length(item) == int((labels != IGNORE).sum())


def test_an_item_holds_the_record_itself(make_datamodule):
    datamodule = make_datamodule()
    item = datamodule.evaluation_items("val", 1)[0]
    assert isinstance(item, EvaluationItem) and item.record == datamodule.sources("val")[0].records[0]
    assert render_answer(item.record.annotations, item.record.sizes[0], answer_format=DEFAULT_FORMAT) != "{}"


def test_demo_data_are_drawn_on_first_use(make_datamodule, make_data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("qcvl.data.scenes.demo.write_demo", lambda folder, seed: calls.append((folder, seed)))
    fields = vars(make_data()) | {"folder": str(tmp_path / "demo"), "seed": 7}
    make_datamodule(data=DemoData(**fields)).prepare_data()
    assert calls == [(tmp_path / "demo", 7)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": "best_fit"}, "data.packing: best_fit needs the tokens of a pack; set data.packing_length"),
        ({"packing_length": 900}, "data.packing_length: nothing is packed; set data.packing=best_fit"),
        (
            {"packing": "first_fit", "packing_length": 900, "token_budget": 900},
            "data.token_budget: is another way to make batches than data.packing; leave one of them null",
        ),
    ],
)
def test_packs_need_a_length_and_no_other_way_to_make_batches(make_data, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_data(**changes)


def test_what_a_batch_may_hold_is_that_of_its_plan(make_data, make_datamodule):
    packs = {"packing": "first_fit", "packing_length": 700}
    plans = [{}, {"token_budget": 600}, packs, packs | {"packing": "best_fit"}]
    assert [make_data(**plan).capacity for plan in plans] == [None, 600, 700, 700]
    sizes = []
    for plan in plans:
        rows = list(make_datamodule(data=make_data(sampling="dense", **plan)).train_dataloader())
        sizes.append([row["segments"].tolist() for row in rows])
    assert all(one != other for one, other in combinations(sizes, 2))
    assert all(max(map(sum, rows)) <= most for rows, most in zip(sizes[1:], (600, 700, 700), strict=True))
