"""The rate rises, falls along half a cosine, and ends at min_lr or at a group's own lower rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import get_scheduler

from qcvl.errors import ConfigError
from qcvl.tuning.descent.schedules import constant, cosine, linear, scheduled, warmup_steps
from qcvl.tuning.descent.settings import Constant, CosineWarmupWithMinLr, LinearWarmupWithMinLr


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
    scheduler = scheduled(ours, cosine, total_steps=total, warmup_steps=warmup, min_lr=floor)
    assert np.array(rates(ours, scheduler, total)) == pytest.approx(np.array(rates(theirs, expected, total)), abs=1e-12)


@settings(deadline=None)  # results are judged, not speed
@given(
    rate=st.floats(1e-9, 1e-2), share=st.floats(0, 1), total=st.integers(2, 40), fall=st.sampled_from([cosine, linear])
)
def test_a_rate_never_exceeds_the_groups_own_and_ends_at_the_floor(rate, share, total, fall):
    optimizer, floor = optimizer_of(rate), rate * share
    scheduler = scheduled(optimizer, fall, total_steps=total, warmup_steps=total // 3, min_lr=floor)
    seen = [value for (value,) in rates(optimizer, scheduler, total + 5)]
    assert max(seen) <= rate * (1 + 1e-9)
    assert seen[total - 1 :] == pytest.approx([floor] * 6, abs=1e-15)
    fallen = seen[total // 3 :]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in zip(fallen, fallen[1:], strict=False))


def test_groups_keep_their_own_rates_over_one_floor():
    optimizer = optimizer_of(1e-4, 1e-5)
    seen = rates(optimizer, scheduled(optimizer, cosine, total_steps=10, warmup_steps=1, min_lr=1e-6), 10)
    assert seen[0] == pytest.approx([1e-4, 1e-5]) and seen[-1] == pytest.approx([1e-6, 1e-6])


@pytest.mark.parametrize("kind", [CosineWarmupWithMinLr, LinearWarmupWithMinLr])
def test_a_floor_above_a_groups_rate_is_an_error_that_names_the_group(kind):
    optimizer = optimizer_of(1e-4, 1e-7)
    optimizer.param_groups[1]["name"] = "llm/full/decay"
    with pytest.raises(ConfigError, match=r"min_lr=1e-06 is above the rate of 1 of 2 .* llm/full/decay with 1e-07"):
        kind(warmup_ratio=0.1, warmup_steps=None, min_lr=1e-6).setup(optimizer, 10)
    kind(warmup_ratio=0.1, warmup_steps=None, min_lr=1e-7).setup(optimizer, 10)


def test_a_straight_line_falls_by_the_same_amount_each_step():
    optimizer = optimizer_of(1e-3)
    scheduler = LinearWarmupWithMinLr(warmup_ratio=0.5, warmup_steps=5, min_lr=2e-4).setup(optimizer, 13)
    seen = [rate for (rate,) in rates(optimizer, scheduler, 13)]
    assert seen == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4, 1e-3, *(1e-3 - 1e-4 * step for step in range(1, 9))])


def test_a_constant_rate_stays_after_its_rise():
    optimizer = optimizer_of(1e-3, 1e-9)
    scheduler = Constant(warmup_ratio=0.0, warmup_steps=2).setup(optimizer, 6)
    assert rates(optimizer, scheduler, 8) == [[5e-4, 5e-10], *[[1e-3, 1e-9]] * 7]
    assert constant(0.3) == 1.0


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
    scheduler = scheduled(optimizer, cosine, total_steps=4, warmup_steps=1, min_lr=0.0)
    assert rates(optimizer, scheduler, 4) == [[0.0]] * 4
