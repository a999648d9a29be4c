"""A file that says what a run is doing, and since when."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import torch

from qcvl.callbacks import heartbeat
from qcvl.callbacks.heartbeat import Heartbeat
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


def trainer(step: int, **changes) -> SimpleNamespace:
    state = {"is_global_zero": True, "fast_dev_run": False, "global_step": step, "current_epoch": 2}
    return SimpleNamespace(**state | {"callback_metrics": {"train/loss": torch.tensor(0.5)}} | changes)


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def beats(tmp_path):
    return lambda: json.loads((tmp_path / "run/heartbeat.json").read_text())


@pytest.fixture
def one(tmp_path):
    return Heartbeat(path=str(tmp_path / "run/heartbeat.json"), every_seconds=10)


def test_a_beat_says_step_epoch_time_and_loss(one, beats, tmp_path):
    one.on_train_batch_end(trainer(7), None, None, None, 0)
    beat = beats()
    told = datetime.fromisoformat(beat.pop("time"))
    assert abs(datetime.now(UTC) - told) < timedelta(seconds=60)
    assert beat == {"step": 7, "epoch": 2, "doing": "train", "loss": 0.5}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["heartbeat.json"]  # no draft is left


def test_beats_are_as_rare_as_asked_for(one, beats, clock):
    one.on_train_start(trainer(0), None)
    clock.seconds += 9
    one.on_train_batch_end(trainer(5), None, None, None, 0)
    assert beats()["step"] == 0
    clock.seconds += 1
    one.on_train_batch_end(trainer(6), None, None, None, 0)
    assert beats()["step"] == 6


def test_a_change_of_what_is_done_is_told_at_once(one, beats, clock):
    told = []
    for event in (one.on_validation_start, one.on_validation_end, one.on_train_start, one.on_validation_start):
        event(trainer(3), None)
        told.append(beats()["doing"])
    one.on_train_end(trainer(9), None)
    told.append(beats()["doing"])
    for event in (one.on_validation_start, one.on_validation_end):
        event(trainer(9), None)
        told.append(beats()["doing"])
    assert told == ["validation", "train", "train", "validation", "finished", "validation", "finished"]


def test_before_the_first_loss_there_is_none(one, beats):
    one.on_train_start(trainer(0, callback_metrics={}), None)
    assert beats()["loss"] is None


@pytest.mark.parametrize("state", [{"is_global_zero": False}, {"fast_dev_run": True}])
def test_other_ranks_and_trial_runs_write_nothing(one, tmp_path, state):
    one.on_train_start(trainer(0, **state), None)
    assert not (tmp_path / "run").exists()


def test_a_real_run_beats_until_its_end(one, beats, make_module, make_datamodule, make_trainer, logged):
    module = make_module()
    make_trainer(callbacks=[one]).fit(module, make_datamodule())
    beat = beats()
    assert (beat["doing"], beat["step"]) == ("finished", len(logged("train/loss")))
    assert beat["loss"] == pytest.approx(logged("train/loss")[-1])


def test_a_run_that_failed_says_so(one, beats, make_module, make_datamodule, make_trainer, monkeypatch):
    module = make_module()
    monkeypatch.setattr(module, "losses", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_trainer(callbacks=[one]).fit(module, make_datamodule())
    assert beats()["doing"] == "failed"
