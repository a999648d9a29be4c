"""Seconds of a step by phase, with a clock that the tests turn and in a real run."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from qcvl.callbacks import window
from qcvl.callbacks.step_times import PHASES, StepTimes
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(window.time, "perf_counter", lambda: now.seconds)
    return now


@pytest.fixture
def module():
    visual = nn.Identity()
    rows = []
    built = SimpleNamespace(model=SimpleNamespace(visual=visual))
    log = {"rows": rows, "log_dict": lambda values, batch_size: rows.append(values)}
    return SimpleNamespace(built=built, visual=visual, device=torch.device("cpu"), **log)


def trainer(step: int, **changes) -> SimpleNamespace:
    return SimpleNamespace(**{"log_every_n_steps": 2, "world_size": 1, "global_step": step} | changes)


def batch(one, clock, module, *, before: int, after: int, factor: float = 1, **changes) -> None:
    """One micro-batch of 1 + 2 + (3 + 4) + 5 + 6 seconds: load, embedding, vision, llm, backward, optimizer."""
    clock.seconds += 1 * factor
    one.on_train_batch_start(trainer(before), module, None, 0)
    clock.seconds += 3 * factor
    handle = module.visual.register_forward_pre_hook(lambda *_: setattr(clock, "seconds", clock.seconds + 2 * factor))
    module.visual(torch.zeros(1))
    handle.remove()
    clock.seconds += 4 * factor
    one.on_before_backward(trainer(before), module, None)
    clock.seconds += 5 * factor
    one.on_after_backward(trainer(before), module)
    clock.seconds += 6 * factor
    one.on_train_batch_end(trainer(after, **changes), module, None, None, 0)


def seconds(**values: float) -> dict[str, float]:
    return {f"perf/seconds/{phase}": value for phase, value in values.items()}


def test_phases_are_seconds_of_an_optimizer_step(clock, module):
    one = StepTimes()
    one.on_train_start(trainer(0), module)
    for step in range(4):
        batch(one, clock, module, before=step, after=step + 1, factor=1 + step % 2)
    each = seconds(load=1.5, vision=3, llm=3 * 1.5 + 4 * 1.5, backward=7.5, optimizer=9)
    assert module.rows == [each, each]


def test_the_micro_batches_of_a_step_add_up(clock, module):
    one = StepTimes()
    one.on_train_start(trainer(0), module)
    for number in range(6):
        batch(one, clock, module, before=number // 3, after=(number + 1) // 3)
    assert module.rows == [seconds(load=3, vision=6, llm=21, backward=15, optimizer=18)]


def test_validation_is_no_part_of_any_phase(clock, module):
    one = StepTimes()
    one.on_train_start(trainer(0), module)
    batch(one, clock, module, before=0, after=1)
    clock.seconds += 1000
    module.visual(torch.zeros(1))
    clock.seconds += 1000
    one.on_validation_end(None, module)
    batch(one, clock, module, before=1, after=2)
    assert module.rows == [seconds(load=1, vision=2, llm=7, backward=5, optimizer=6)]


def test_several_ranks_tell_their_mean_and_the_slowest(clock, module):
    def reduce(own, reduce_op):  # the other rank takes three times as long
        return own * 4 if reduce_op == "sum" else own * 3

    one = StepTimes()
    one.on_train_start(trainer(0), module)
    many = {"world_size": 2, "log_every_n_steps": 1, "strategy": SimpleNamespace(reduce=reduce)}
    batch(one, clock, module, before=0, after=1, **many)
    (row,) = module.rows
    assert (row["perf/seconds/vision"], row["perf/seconds_max/vision"]) == (4, 6)
    assert len(row) == 2 * len(PHASES)


def test_after_training_the_vision_tower_is_left_as_it_was(module):
    one = StepTimes()
    one.on_train_start(trainer(0), module)
    one.on_train_end(trainer(0), module)
    assert not module.visual._forward_hooks and not module.visual._forward_pre_hooks


def test_the_phases_of_a_real_run_add_up_to_its_time(make_module, make_datamodule, make_trainer, logged):
    module, one = make_module(), StepTimes()
    began = time.perf_counter()
    make_trainer(callbacks=[one]).fit(module, make_datamodule())
    whole = time.perf_counter() - began
    spent = {phase: sum(logged(f"perf/seconds/{phase}")) for phase in PHASES}
    assert all(value > 0 for value in spent.values())
    assert sum(spent.values()) < whole
