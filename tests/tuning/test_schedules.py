"""The rate rises, falls along half a cosine, and ends at min_lr or at a group's own lower rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import get_scheduler

from qcvl.tuning.schedules import cosine_warmup_with_min_lr, warmup_steps
from qcvl.tuning.settings import CosineWarmupWithMinLr


def optimizer_of(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def rates(optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list:
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_rates_follow_the_formula():
    optimizer = optimizer_of(1e-4)
    scheduler = CosineWarmupWithMinLr(warmup_ratio=0.1, warmup_steps=None, min_lr=1e-6).setup(optimizer, 20)
    rise = [0.5e-4, 1e-4]
    fall = [1e-6 + (1e-4 - 1e-6) * (1 + math.cos(math.pi * k / 18)) / 2 for k in range(1, 19)]
    assert [rate for (rate,) in rates(optimizer, scheduler, 20)] == pytest.approx(rise + fall)


@settings(deadline=None)  # results are judged, not speed
@given(total=st.integers(1, 60), warmup=st.integers(0, 30), floor=st.floats(0, 1e-3))
def test_it_equals_the_schedule_of_transformers(total, warmup, floor):
    ours, theirs = optimizer_of(1e-3), optimizer_of(1e-3)
    expected = get_scheduler(
        "cosine_warmup_with_min_lr",
        theirs,
        num_warmup_steps=warmup,
        num_training_steps=total,
        scheduler_specific_kwargs={"min_lr": floor},
    )
    scheduler = cosine_warmup_with_min_lr(ours, total_steps=total, warmup_steps=warmup, min_lr=floor)
    assert np.array(rates(ours, scheduler, total)) == pytest.approx(np.array(rates(theirs, expected, total)), abs=1e-12)


@settings(deadline=None)  # results are judged, not speed
@given(rate=st.floats(1e-9, 1e-2), floor=st.floats(0, 1e-2), total=st.integers(2, 40))
def test_a_rate_never_exceeds_the_groups_own_and_ends_at_the_floor(rate, floor, total):
    optimizer = optimizer_of(rate)
    scheduler = cosine_warmup_with_min_lr(optimizer, total_steps=total, warmup_steps=total // 3, min_lr=floor)
    seen = [value for (value,) in rates(optimizer, scheduler, total + 5)]
    assert max(seen) <= rate * (1 + 1e-9)
    assert seen[total - 1 :] == pytest.approx([min(rate, floor)] * 6, abs=1e-15)


def test_groups_keep_their_own_rates_and_floors():
    optimizer = optimizer_of(1e-4, 1e-7)
    scheduler = cosine_warmup_with_min_lr(optimizer, total_steps=10, warmup_steps=0, min_lr=1e-6)
    last = rates(optimizer, scheduler, 10)[-1]
    assert last == pytest.approx([1e-6, 1e-7])


def test_warmup_steps_win_over_the_ratio_and_the_ratio_rounds_up():
    def first_rate(ratio: float, steps: int | None) -> float:
        optimizer = optimizer_of(1.0)
        CosineWarmupWithMinLr(warmup_ratio=ratio, warmup_steps=steps, min_lr=0.0).setup(optimizer, 25)
        return optimizer.param_groups[0]["lr"]

    assert warmup_steps(25, 0.1) == 3
    assert first_rate(0.1, None) == pytest.approx(1 / 3)
    assert first_rate(0.1, 5) == pytest.approx(1 / 5)


def test_a_rate_of_zero_stays_zero():
    optimizer = optimizer_of(0.0)
    scheduler = cosine_warmup_with_min_lr(optimizer, total_steps=4, warmup_steps=1, min_lr=1e-6)
    assert rates(optimizer, scheduler, 4) == [[0.0]] * 4
