"""Rates from counts and a clock that the tests turn."""

from types import SimpleNamespace

import pytest
import torch

from qcvl.callbacks import throughput
from qcvl.callbacks.throughput import Throughput


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(throughput.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def module():
    rows = []
    return SimpleNamespace(
        logged=rows, log_dict=lambda values, batch_size: rows.append(values), rows=SimpleNamespace(degree=1)
    )


BATCH = {
    "input_ids": torch.zeros(1, 300),
    "segments": torch.tensor([100, 120, 80]),
    "pixel_values": torch.zeros(64, 8),
}


FIXED = SimpleNamespace(data=SimpleNamespace(capacity=None))
STATE = {"log_every_n_steps": 2, "world_size": 1, "global_step": 1, "datamodule": FIXED}


def step(one, clock, module, *, wait: float, work: float, **trainer) -> None:
    """One micro-batch that takes ``wait`` seconds to come and ``work`` seconds to train on."""
    state = SimpleNamespace(**STATE | trainer)
    clock.now += wait
    one.on_train_batch_start(state, module, BATCH, 0)
    clock.now += work
    one.on_train_batch_end(state, module, None, BATCH, 0)


def test_rates_are_counts_by_seconds_since_the_last_row(clock, module):
    one = Throughput()
    for number in (1, 2, 3, 4):
        step(one, clock, module, wait=1, work=3 if number < 3 else 4, global_step=number)
    first, second = module.logged
    assert first == {
        "perf/tokens_per_s": 600 / 8,
        "perf/samples_per_s": 6 / 8,
        "perf/patches_per_s": 128 / 8,
        "perf/loader_wait": 2 / 8,
    }
    assert second["perf/tokens_per_s"] == 600 / 10 and second["perf/loader_wait"] == 0.2


def test_all_ranks_count(clock, module):
    one = Throughput()
    step(one, clock, module, wait=0, work=3, global_step=2, world_size=4)
    assert module.logged[0]["perf/tokens_per_s"] == 4 * 300 / 3


def test_ranks_that_hold_rows_together_count_as_one(clock, module):
    module.rows.degree = 2
    step(Throughput(), clock, module, wait=0, work=3, global_step=2, world_size=4)
    assert module.logged[0]["perf/tokens_per_s"] == 2 * 300 / 3


def test_validation_and_the_time_between_epochs_do_not(clock, module):
    one = Throughput()
    for pause in (one.on_validation_end, one.on_train_epoch_start):
        clock.now += 1000
        pause(None, module)
        step(one, clock, module, wait=1, work=1, global_step=2 * len(module.logged) + 2)
    assert [row["perf/samples_per_s"] for row in module.logged] == [1.5, 1.5]


def test_the_micro_batches_of_a_step_make_one_row(clock, module):
    one = Throughput()
    for number in range(16):  # four micro-batches a step: the counter moves with the fourth
        step(one, clock, module, wait=0, work=1, global_step=(number + 1) // 4)
    assert len(module.logged) == 2
    assert [row["perf/tokens_per_s"] for row in module.logged] == [300.0, 300.0]


@pytest.mark.parametrize(("capacity", "fill"), [(400, 0.75), (300, 1.0), (200, 1.0)])
def test_fill_is_the_share_of_the_tokens_that_packs_may_hold(clock, module, capacity, fill):
    one, packed = Throughput(), SimpleNamespace(data=SimpleNamespace(capacity=capacity))
    for number in (1, 2):
        step(one, clock, module, wait=1, work=1, global_step=number, datamodule=packed)
    (row,) = module.logged
    assert row["perf/pack_fill"] == fill  # a sample longer than a pack is a full one


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_a_run_over_packs_logs_how_full_its_rows_are(make_module, make_datamodule, make_data, make_trainer, logged):
    data = make_data(val=None, packing="best_fit", packing_length=900)
    module, datamodule = make_module(), make_datamodule(data=data)
    rows = [row["input_ids"].numel() for row in datamodule.train_dataloader()]
    make_trainer(callbacks=[Throughput()]).fit(module, datamodule)
    assert len(rows) > 2 and logged("perf/pack_fill") == pytest.approx([tokens / 900 for tokens in rows])
