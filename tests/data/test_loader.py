"""The training loader: its order is a law of (seed, epoch), its state resumes exactly, its steps know their tokens."""

import json
from dataclasses import replace
from itertools import chain, islice

import pytest
import torch

from qcvl.data.chat import IGNORE
from qcvl.data.images import load_image
from qcvl.data.loader import TrainLoader
from qcvl.data.packs import Packing
from qcvl.errors import CheckpointError, DataError, RecordError


@pytest.fixture
def dataset(make_datamodule):
    return make_datamodule().train_dataset()


def loader(dataset, **changes) -> TrainLoader:
    values = {"batch_size": 3, "token_budget": None, "keep_going": False, "accumulate": 1}
    values |= {"rank": 0, "world_size": 1, "num_workers": 0}
    return TrainLoader(dataset, **values | changes)


def same(first: list[dict], second: list[dict]) -> bool:
    """Whether two lists of batches hold the same tensors and counts."""
    return len(first) == len(second) and all(
        a.keys() == b.keys()
        and a["telemetry"] == b["telemetry"]
        and all(torch.equal(a[name], b[name]) for name in a if name != "telemetry")
        for a, b in zip(first, second, strict=True)
    )


def stopped_at(dataset, epoch: int, handed_over: int, **changes) -> dict:
    """The state of a loader that has handed over so many batches of an epoch."""
    one = loader(dataset, **changes)
    one.epoch, one.handed_over = epoch, handed_over
    return one.state_dict()


def photos(batches: list[dict]) -> list[bytes]:
    """Each sample's own patches, as something to compare and sort by."""
    found = []
    for batch in batches:
        counts = batch["image_grid_thw"].prod(1).tolist()
        found += [part.numpy().tobytes() for part in batch["pixel_values"].split(counts)]
    return found


def labels(batch: dict) -> int:
    return int((batch["labels"] != IGNORE).sum())


def test_the_order_is_that_of_seed_and_epoch_whatever_the_number_of_workers(dataset):
    one = loader(dataset)
    expected = [list(one), list(one)]
    for workers in (0, 1, 2):
        again = loader(dataset, num_workers=workers)
        assert same(list(again), expected[0]) and same(list(again), expected[1])


def test_another_seed_is_another_order(dataset):
    other = replace(dataset, seed=dataset.seed + 1)
    assert photos(list(loader(dataset))) != photos(list(loader(other)))


def test_each_epoch_is_complete_and_in_another_order(dataset):
    one = loader(dataset)
    epochs = [photos(list(one)) for _ in range(3)]
    whole = sorted(photos(list(loader(dataset, batch_size=20))))
    assert len(whole) == len(dataset) == 20 and len(one) == 7
    assert all(sorted(epoch) == whole for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("handed", [0, 1, 4, 6, 7])
def test_a_state_taken_anywhere_in_an_epoch_continues_with_the_same_batches(dataset, handed, workers):
    whole = loader(dataset)
    first, second = list(whole), list(whole)
    stopped = loader(dataset, num_workers=workers)
    batches = iter(stopped)
    assert same(list(islice(batches, handed)), first[:handed])
    state = json.loads(json.dumps(stopped.state_dict()))  # what a checkpoint holds is plain data
    resumed = loader(dataset, num_workers=workers)
    resumed.load_state_dict(state)
    if handed < len(first):
        assert same(list(resumed), first[handed:])
    assert same(list(resumed), second)


def test_the_state_counts_batches_handed_over_not_those_fetched_ahead(dataset):
    one = loader(dataset, accumulate=4, num_workers=2)
    batches = iter(one)
    next(batches)  # four were fetched for the step's counts, more by the workers
    state = one.state_dict()
    assert (state["epoch"], state["handed_over"], state["length"]) == (0, 1, 7)


def test_an_epoch_set_by_the_trainer_starts_there_and_one_that_goes_on_is_left_alone(dataset):
    whole = loader(dataset)
    epochs = [list(whole), list(whole), list(whole)]
    jumped = loader(dataset)
    jumped.sampler.set_epoch(2)  # as Lightning does before each epoch
    assert same(list(jumped), epochs[2])
    resumed = loader(dataset)
    resumed.load_state_dict(stopped_at(dataset, 1, 4))
    resumed.sampler.set_epoch(1)
    assert same(list(resumed), epochs[1][4:])
    resumed.sampler.set_epoch(2)
    assert same(list(resumed), epochs[2])


def test_a_state_of_an_epoch_of_another_length_is_refused(dataset):
    state = loader(dataset).state_dict()
    with pytest.raises(CheckpointError, match="has 7 batches, this run's has 10: .* data.batch_size, .* changed"):
        loader(dataset, batch_size=2).load_state_dict(state)


def test_a_state_of_an_epoch_of_equally_many_other_batches_is_refused(dataset):
    state = loader(dataset).state_dict()
    with pytest.raises(CheckpointError, match="has as many batches as this run's, but others: .* changed"):
        loader(replace(dataset, seed=dataset.seed + 1)).load_state_dict(state)


@pytest.mark.parametrize("budget", [400, 900])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_token_budget_too_is_resumed_exactly_and_with_another_number_of_workers(dataset, budget, workers):
    whole = loader(dataset, token_budget=budget)
    first, second = list(whole), list(whole)
    assert len(first) == len(second) == len(whole)
    for handed in (1, len(first) - 1):
        stopped = loader(dataset, token_budget=budget, num_workers=workers)
        assert same(list(islice(iter(stopped), handed)), first[:handed])
        resumed = loader(dataset, token_budget=budget, num_workers=2 - workers)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert same(list(resumed), first[handed:]) and same(list(resumed), second)


def test_a_token_budget_fills_batches_within_it_with_each_sample_once_an_epoch(dataset):
    one = loader(dataset, token_budget=900)
    whole = sorted(photos(list(loader(dataset))))
    epochs = [list(one) for _ in range(3)]
    for batches in epochs:
        assert sorted(photos(batches)) == whole
        assert all(batch["input_ids"].numel() <= 900 for batch in batches)
    assert len({tuple(photos(batches)) for batches in epochs}) == 3
    assert len(list(loader(dataset, token_budget=400))) > len(epochs[0])


@pytest.mark.parametrize("budget", [500, 1200])
def test_two_ranks_share_a_token_budgets_epoch_in_equally_many_batches(dataset, budget):
    ranks = [list(loader(dataset, token_budget=budget, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    assert sorted(photos(ranks[0]) + photos(ranks[1])) == sorted(photos(list(loader(dataset))))


@pytest.mark.parametrize("fit", ["best_fit", "first_fit"])
def test_packs_hold_each_sample_once_an_epoch_and_are_made_anew_in_the_next(dataset, fit):
    one = loader(dataset, packing=Packing(fit, 900))
    epochs = [list(one), list(one)]
    for batches in epochs:
        assert sorted(photos(batches)) == sorted(photos(epochs[0])) and len(photos(batches)) == len(dataset)
        assert all(batch["input_ids"].shape[1] <= 900 for batch in batches)
    assert len(epochs[0]) == len(epochs[1]) == len(one) < len(dataset) / 2
    assert [set(photos([batch])) for batch in epochs[0]] != [set(photos([batch])) for batch in epochs[1]]
    assert len(list(loader(dataset, packing=Packing(fit, 450)))) > len(one)


@pytest.mark.parametrize("workers", [0, 2])
def test_packs_are_resumed_exactly_within_an_epoch_and_with_another_number_of_workers(dataset, workers):
    packing = Packing("best_fit", 600)
    whole = loader(dataset, packing=packing)
    expected = [*whole, *whole]
    for taken in (1, len(whole) + 2):
        stopped = loader(dataset, packing=packing, num_workers=workers)
        first = list(islice(chain(stopped, stopped), taken))
        resumed = loader(dataset, packing=packing, num_workers=2 - workers)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        rest = [*resumed, *resumed][: len(expected) - taken]
        assert same(first + rest, expected)


@pytest.mark.parametrize("other", [{}, {"token_budget": 600}, {"packing": Packing("best_fit", 900)}])
def test_a_state_of_other_packs_is_refused(dataset, other):
    state = stopped_at(dataset, 0, 2, packing=Packing("best_fit", 600))
    with pytest.raises(
        CheckpointError, match=r"data\.packing, data\.packing_length, data\.images_per_user_turn or the"
    ):
        loader(dataset, **other).load_state_dict(state)


def test_two_ranks_share_an_epochs_packs_in_equally_many_batches(dataset):
    ranks = [list(loader(dataset, packing=Packing("best_fit", 600), rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    alone = list(loader(dataset))
    assert sorted(photos(ranks[0] + ranks[1])) == sorted(photos(alone))


@pytest.mark.parametrize("changes", [{}, {"token_budget": 900}])
@pytest.mark.parametrize("handed", [0, 3, 5])
def test_what_comes_first_after_a_resume_is_decoded_first(dataset, monkeypatch, changes, handed):
    resumed = loader(dataset, **changes)
    resumed.load_state_dict(stopped_at(dataset, 0, handed, **changes))
    decoded = []

    def counted(*arguments):
        decoded.append(arguments)
        return load_image(*arguments)

    monkeypatch.setattr("qcvl.data.samples.load_image", counted)
    batch = next(iter(resumed))
    assert len(decoded) == len(batch["segments"])  # whatever came before it in the epoch is not touched


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 7, 9])
def test_each_micro_batch_knows_the_tokens_of_its_whole_step(dataset, accumulate):
    one = loader(dataset, accumulate=accumulate)
    for _ in range(2):  # a step never spans two epochs
        batches = list(one)
        for start in range(0, len(batches), accumulate):
            step = batches[start : start + accumulate]  # the last one is short: 7 batches an epoch
            for batch in step:
                assert batch["step_labels"].sum() == sum(map(labels, step))
                assert batch["step_cells"] == sum(int((b["mm_token_type_ids"] == 1).sum()) for b in step)


def test_looking_ahead_changes_no_batch(dataset):
    plain, ahead = list(loader(dataset)), list(loader(dataset, accumulate=3))
    names = plain[0].keys() - {"step_labels", "step_cells"}
    assert same([{n: b[n] for n in names} for b in plain], [{n: b[n] for n in names} for b in ahead])


def test_a_resumed_step_grid_is_that_of_the_whole_epoch(dataset):
    first = list(loader(dataset, accumulate=3))
    resumed = loader(dataset, accumulate=3)
    resumed.load_state_dict(stopped_at(dataset, 0, 3))
    assert same(list(resumed), first[3:])


@pytest.mark.parametrize(("batch_size", "steps"), [(3, 4), (4, 3), (1, 10), (9, 2)])
def test_two_ranks_share_an_epoch_without_overlap_in_equally_many_batches(dataset, batch_size, steps):
    ranks = [list(loader(dataset, batch_size=batch_size, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [len(batches) for batches in ranks] == [steps, steps]
    seen = [photos(batches) for batches in ranks]
    assert sorted(seen[0] + seen[1]) == sorted(photos(list(loader(dataset))))
    single = list(loader(dataset, batch_size=2 * batch_size))
    for step, whole in enumerate(single[:-1]):  # together the ranks' batches are the single process's batch
        assert sorted(photos([ranks[0][step]]) + photos([ranks[1][step]])) == sorted(photos([whole]))


def test_a_tail_smaller_than_the_ranks_joins_the_batch_before_it(make_datamodule, make_data):
    dataset = make_datamodule(data=make_data(sample_limit=9)).train_dataset()  # 9 of zh, 8 of en
    ranks = [list(loader(dataset, batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [[len(batch["segments"]) for batch in batches] for batches in ranks] == [[4, 5], [4, 4]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_stops_the_loader_with_its_own_error_also_from_a_worker(
    make_data, make_datamodule, scenes, tmp_path, workers
):
    line = json.loads((scenes / "en.jsonl").read_text().splitlines()[0]) | {"images": ["gone.png"]}
    (tmp_path / "bad.jsonl").write_text(json.dumps(line) + "\n")
    data = make_data(train={"bad": make_data.source(str(tmp_path / "bad.jsonl"))}, sampling="dense")
    one = loader(make_datamodule(data=data).train_dataset(), num_workers=workers)
    with pytest.raises(RecordError) as caught:
        list(one)
    assert str(caught.value).startswith(f"{tmp_path}/bad.jsonl:1: images[0] ")
    assert "not found" in str(caught.value) and "\n" not in str(caught.value)
    assert (caught.value.line, caught.value.field) == (1, "images[0]")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_of_which_nothing_is_left_stops_the_loader(make_data, make_datamodule, workers):
    datamodule = make_datamodule(data=make_data(overlong="drop"), max_length=20)
    with pytest.raises(DataError, match="^every sample of a batch was dropped as overlong"):
        list(loader(datamodule.train_dataset(), num_workers=workers))


def test_iterating_leaves_the_global_random_state_alone(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(dataset))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("steps_done", [0, 2, 4])
@pytest.mark.parametrize(
    "now", [{"batch_size": 2, "accumulate": 2}, {"batch_size": 4}, {"batch_size": 1, "accumulate": 4}]
)
def test_two_ranks_states_continue_in_one_rank_with_the_same_samples_in_each_step(dataset, steps_done, now):
    two = [loader(dataset, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    steps = [sorted(photos(list(pair))) for pair in zip(*two, strict=True)]
    state = stopped_at(dataset, 0, steps_done, batch_size=2, world_size=2)
    one = loader(dataset, **now)
    one.load_state_dict(json.loads(json.dumps(state)))
    batches, accumulate = list(one), now.get("accumulate", 1)
    found = [sorted(photos(batches[i : i + accumulate])) for i in range(0, len(batches), accumulate)]
    assert found == steps[steps_done:]

    back = loader(dataset, batch_size=2, rank=1, world_size=2)
    back.load_state_dict(stopped_at(dataset, 0, steps_done * accumulate, **now))
    assert same(list(back), list(loader(dataset, batch_size=2, rank=1, world_size=2))[steps_done:])


def test_a_state_in_the_middle_of_a_step_or_of_other_steps_is_refused_by_another_number_of_ranks(dataset):
    told = "changed; resume with what the run was started with, or with as many samples a step"
    for state in (
        stopped_at(dataset, 0, 3, batch_size=2, accumulate=2),
        stopped_at(dataset, 0, 2, batch_size=3, accumulate=1),
    ):
        with pytest.raises(CheckpointError, match=told):
            loader(dataset, batch_size=2, rank=0, world_size=2).load_state_dict(state)
