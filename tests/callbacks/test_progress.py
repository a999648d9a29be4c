"""What stands beside the bar."""

from types import SimpleNamespace

import pytest
import torch

from qcvl.callbacks import progress
from qcvl.callbacks.progress import Progress, total_steps
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


def trainer(**changes) -> SimpleNamespace:
    state = {"max_steps": -1, "max_epochs": 2, "num_training_batches": 10, "accumulate_grad_batches": 4}
    return SimpleNamespace(**state | {"global_step": 0, "callback_metrics": {}} | changes)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 2 * 3),  # the last step of an epoch has two micro-batches
        ({"max_steps": 4}, 4),
        ({"max_steps": 40}, 6),
        ({"max_epochs": -1, "max_steps": 40}, 40),
        ({"max_epochs": -1}, None),
    ],
)
def test_a_run_ends_with_its_steps_or_epochs(changes, steps):
    assert total_steps(trainer(**changes)) == steps


def test_loss_speed_and_the_time_left_at_the_pace_since_the_start(monkeypatch):
    monkeypatch.setattr(progress.RichProgressBar, "on_train_start", lambda *_: None)
    now = SimpleNamespace(seconds=50.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    one, logged = Progress(refresh_rate=1), {"train/loss": torch.tensor(1.23456), "perf/tokens_per_s": 12345.6}
    one.on_train_start(trainer(max_steps=1000, global_step=400), None)
    assert one.get_metrics(trainer(max_steps=1000, global_step=400), None) == {}
    now.seconds += 100
    later = trainer(max_steps=1000, max_epochs=-1, global_step=410, callback_metrics=logged)
    left = "1:38:20"  # 590 steps of 10 s
    assert one.get_metrics(later, None) == {"loss": "1.235", "tokens/s": "12,346", "left": left}


def test_a_real_run_shows_them(make_module, make_datamodule, make_trainer, capsys, monkeypatch):
    shown = []
    plain = Progress.get_metrics
    monkeypatch.setattr(Progress, "get_metrics", lambda *args: shown.append(plain(*args)) or shown[-1])
    bar = Progress(refresh_rate=1)
    make_trainer(callbacks=[bar], enable_progress_bar=True, max_steps=3).fit(make_module(), make_datamodule())
    assert float(shown[-1]["loss"]) > 0 and shown[-1]["left"] == "0:00:00"
