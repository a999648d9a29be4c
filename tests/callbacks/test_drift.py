"""The alarm of a rising divergence: when it is due, when not, and over a resumed run."""

from types import SimpleNamespace

import pytest

from qcvl.callbacks.drift import KEY, DriftAlarm


def run(alarm: DriftAlarm, values, start: int = 0, accumulate: int = 1) -> None:
    """Optimizer steps whose divergence is ``values``, each of so many micro-batches."""
    for index, value in enumerate(values):
        step = start + index + 1
        for _ in range(accumulate):
            trainer = SimpleNamespace(global_step=step, callback_metrics={KEY: value})
            alarm.on_train_batch_end(trainer, None, None, None, 0)


@pytest.fixture
def alarm():
    return DriftAlarm(window=3, ratio=1.5, floor=0.1)


@pytest.mark.parametrize(
    ("values", "warnings"),
    [
        ([0.2] * 3 + [0.31] * 3, 1),
        ([0.2] * 3 + [0.29] * 3, 0),  # less than half as much again
        ([0.001] * 3 + [0.09] * 3, 0),  # below the floor, as at the start
        ([0.4, 0.2, 0.1, 0.05, 0.05, 0.05], 0),
        ([0.2] * 5, 0),  # not two spans yet
        ([0.2] * 3 + [0.4] * 3 + [0.4] * 6, 1),  # once, and not for what stays
        ([0.2] * 3 + [0.4] * 3 + [0.4] * 3 + [0.8] * 3, 2),
    ],
)
def test_a_span_whose_mean_rose_is_warned_of_once(alarm, caplog, values, warnings):
    run(alarm, values)
    assert caplog.text.count("moves away from its teacher") == warnings


def test_the_warning_says_from_where_to_where(alarm, caplog):
    run(alarm, [0.2] * 3 + [0.4] * 3)
    assert "step 6: train/llm_kd_loss rose from 0.200 to 0.400 nats a token in 3 steps" in caplog.text


def test_micro_batches_of_a_step_count_once(alarm, caplog):
    run(alarm, [0.2, 0.4], accumulate=3)
    assert not caplog.text


def test_an_objective_without_a_divergence_is_never_warned_of(alarm, caplog):
    for step in range(1, 20):
        alarm.on_train_batch_end(SimpleNamespace(global_step=step, callback_metrics={}), None, None, None, 0)
    assert not caplog.text


def test_a_resumed_run_is_warned_where_one_that_was_never_stopped_would_be(alarm, caplog):
    run(alarm, [0.2] * 3 + [0.4])
    resumed = DriftAlarm(window=3, ratio=1.5, floor=0.1)
    resumed.load_state_dict(alarm.state_dict())
    run(resumed, [0.4] * 2, start=4)
    assert "step 6:" in caplog.text
