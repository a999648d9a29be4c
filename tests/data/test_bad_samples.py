"""Samples that cannot be read: left out of their batch, never replaced, counted; and workers that are killed."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch

from qcvl.data.batch import collate, step_counts
from qcvl.data.chat import IGNORE
from qcvl.data.fetching import lost_worker
from qcvl.data.loader import TrainLoader
from qcvl.errors import ConfigError, DataError, QcvlError
from tests.augment.ops import compose, op

GONE = (1, 4)  # lines 2 and 5 of en.jsonl


@pytest.fixture
def folder(scenes, tmp_path):
    """A copy of the photos of which two of en cannot be read."""
    shutil.copytree(scenes, tmp_path / "copy")
    for number in GONE:
        (tmp_path / f"copy/en_{number}.png").write_bytes(b"no photo")
    return tmp_path / "copy"


@pytest.fixture
def dataset(make_data, make_datamodule, folder):
    """The 8 samples of en, two of them bad."""
    return make_datamodule(data=make_data(train=str(folder / "en.jsonl"), sampling="dense")).train_dataset()


def loader(dataset, **changes) -> TrainLoader:
    values = {"batch_size": 3, "token_budget": None, "keep_going": True, "accumulate": 1}
    return TrainLoader(dataset, **values | {"rank": 0, "world_size": 1, "num_workers": 0} | changes)


def planned(one: TrainLoader) -> list[list[int]]:
    return [step[0] for step in one._plan(0)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_left_out_and_named_and_the_others_are_as_they_were(dataset, folder, workers):
    one = loader(dataset, num_workers=workers)
    named = []
    for indices, batch in zip(planned(one), one, strict=True):
        good = [dataset[(0, index)] for index in indices if index not in GONE]
        assert torch.equal(batch["input_ids"], collate(good)["input_ids"])
        labels = batch["step_labels"]
        assert torch.equal(labels, step_counts([batch])["step_labels"]) and labels.sum() > 0
        bad = batch.get("bad", ())
        assert len(bad) == len(indices) - len(good) and ("bad" in batch) == bool(bad)
        named += bad
    assert sorted(sample["where"] for sample in named) == [f"{folder}/en.jsonl:{number + 1}" for number in GONE]
    assert all("is not an image Pillow can read" in sample["problem"] for sample in named)


def test_a_row_of_which_nothing_is_left_teaches_nothing_and_counts_nothing(dataset):
    one = loader(dataset, batch_size=1)
    for (index,), batch in zip(planned(one), one, strict=True):
        labels = (batch["labels"] != IGNORE).sum()
        assert (labels == 0) == (index in GONE) and batch["step_labels"].sum() == labels
        assert (batch["step_cells"] == 0) == (index in GONE)
        assert batch["pixel_values"].shape[0] > 0  # a model runs on every rank, and its vision tower too


def test_telemetry_counts_the_samples_that_are_left(dataset):
    one = loader(replace(dataset, augment=compose(flip=op("hflip", p=0.5))), batch_size=1)
    counts = [batch["telemetry"] for batch in one]
    asked = [count.get("flip/applied", 0) + count.get("flip/skipped", 0) for count in counts]
    assert asked == [int(index not in GONE) for (index,) in planned(one)]


def test_a_steps_label_count_is_that_of_the_samples_that_are_left(dataset):
    one = loader(dataset, batch_size=1, accumulate=8)
    batches = list(one)
    labels = sum(int((dataset[(0, index)].labels != IGNORE).sum()) for index in range(8) if index not in GONE)
    cells = sum(int(dataset[(0, index)].grids.prod()) // 4 for index in range(8) if index not in GONE)
    assert {int(batch["step_labels"].sum()) for batch in batches} == {labels}
    assert {int(batch["step_cells"]) for batch in batches} == {cells}


def test_a_row_of_dropped_samples_does_not_stop_an_epoch_in_which_others_fit(make_data, make_datamodule, scenes):
    data = make_data(train=str(scenes / "en.jsonl"), sampling="dense", overlong="drop")
    lengths = [len(item.input_ids) for item in map(make_datamodule(data=data).train_dataset().__getitem__, keys(8))]
    dataset = make_datamodule(data=data, max_length=sorted(lengths)[3]).train_dataset()
    batches = list(loader(dataset, batch_size=1, keep_going=False))
    assert [int(batch["dropped"]) for batch in batches].count(1) == sum(n > sorted(lengths)[3] for n in lengths)
    assert all(bool(batch["dropped"]) == (int(batch["step_labels"].sum()) == 0) for batch in batches)


def keys(count: int) -> list[tuple[int, int]]:
    return [(0, index) for index in range(count)]


def test_grounding_learns_nothing_from_a_row_of_which_nothing_is_left(make_data, make_datamodule, make_module, folder):
    data = make_data(train=str(folder / "en.jsonl"), sampling="dense")
    dataset = make_datamodule(data=data, grounding=True).train_dataset()
    one = loader(dataset, batch_size=1)
    hollow = next(b for (index,), b in zip(planned(one), one, strict=True) if index in GONE)
    module = make_module(aux_grounding=1.0)
    module.configure_model()
    sums = module.losses(hollow)
    assert not sums["sft_sum"].any() and sums["aux_sum"] == 0
    (sums["sft_sum"].sum() + sums["aux_sum"]).backward()
    gradients = [p.grad for p in module.parameters() if p.requires_grad]
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    assert module.grounding.linear.weight.grad is not None  # as on the other ranks


def test_without_leave_the_first_bad_sample_stops_the_loader(dataset):
    with pytest.raises(DataError, match=r"en.jsonl:\d: images\[0\] .*not an image"):
        list(loader(dataset, keep_going=False))


def test_an_error_that_is_not_about_data_always_stops_the_loader(make_data, make_datamodule, scenes):
    def augment(sample, key, seen):
        raise ConfigError("augment.ops.mine: draw() returned nonsense")

    augment.phases = []

    data = make_data(train=str(scenes / "en.jsonl"))
    with pytest.raises(ConfigError, match="returned nonsense"):
        list(loader(make_datamodule(data=data, augment=augment).train_dataset()))


def test_a_killed_worker_ends_the_run_with_an_error_that_names_it_and_what_it_read(dataset, folder, tmp_path):
    def augment(sample, key, seen):
        if key[2] == 6:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(600)
        return sample

    augment.phases = []
    one = loader(replace(dataset, augment=augment), num_workers=2)
    killed = []

    def kill():
        while not (found := [path for path in tmp_path.iterdir() if path.name.isdigit()]):
            time.sleep(0.05)
        killed.append(int(found[0].name))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(QcvlError) as caught:
        list(one)
    thread.join()
    text = str(caught.value)
    assert f"a worker process of the training loader (pid {killed[0]})" in text and "\n" not in text
    assert f"while it read {folder}/en.jsonl:7: the run stops" in text
    assert "data.num_workers" in text and "resume=" in text


def test_other_errors_are_not_taken_for_a_lost_worker():
    assert lost_worker(RuntimeError("CUDA out of memory"), None) is None
    assert lost_worker(ValueError("DataLoader worker (pid 3) is killed by signal: Killed. "), None) is None
    told = lost_worker(RuntimeError("DataLoader worker (pid 31) is killed by signal: Killed. "), None)
    assert "(pid 31) is killed by signal: Killed: the run stops" in str(told)
    told = lost_worker(RuntimeError("DataLoader worker (pid(s) 31, 32) exited unexpectedly"), None)
    assert "(pid 31, 32) exited unexpectedly: the run stops" in str(told)
