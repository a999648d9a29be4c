"""A run that is stopped and goes on writes the rows, the links and the weights of a run that was never stopped."""

import json
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from qcvl.callbacks.metrics_file import MetricsFile
from qcvl.modules.sft import SFTModule
from tests.callbacks.conftest import QUIET

pytestmark = QUIET
SAVING = {"every_n_train_steps": 1, "save_top_k": -1}  # a folder each step: any of them can be gone on from
TIMES = ("perf/",)


class Killed(Exception):
    """Stands in for a signal that no handler sees."""


class Kill(pl.Callback):
    """Ends the run once ``step`` optimizer steps are done, logged and, where that is due, saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise Killed


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]


@pytest.fixture
def train(start_run, make_module, lora, tmp_path):
    """``train(name, …)``: two epochs of five micro-batches, two a step (the last step of an epoch is short)."""

    def run(name: str, **changes) -> pl.Trainer:
        metrics = MetricsFile(path=str(tmp_path / name / "metrics.json"), monitor="eval/loss", mode="min")
        callbacks = [metrics, *changes.pop("callbacks", [])]
        module = make_module(tuner=lora(dropout=0.3), rate=1e-2, aux_grounding=0.0)
        values = {"limit": 5, "batch_size": 1, "accumulate_grad_batches": 2, "max_epochs": 2, "checkpoint": SAVING}
        return start_run(name, module=module, callbacks=callbacks, **values | changes)

    return run


def weights(trainer: pl.Trainer) -> dict[str, torch.Tensor]:
    return trainer.lightning_module.state_dict()


@pytest.mark.parametrize(
    ("every", "killed", "newest", "workers"),
    [
        (1, 1, 1, 0),  # in the first epoch
        (1, 2, 2, 1),  # before its short last step
        (2, 3, 3, 0),  # between the epochs
        (2, 5, 4, 0),  # in the second epoch, with a logged step that was not saved
    ],
)
def test_a_resumed_run_has_the_losses_and_the_weights_of_one_that_was_never_stopped(
    train, step_folders, tmp_path, every, killed, newest, workers
):
    saving = SAVING | {"every_n_train_steps": every}
    straight = train("straight", checkpoint=saving)
    with pytest.raises(Killed):
        train("stopped", callbacks=[Kill(killed)], checkpoint=saving, num_workers=workers)
    folder = tmp_path / "stopped/checkpoints"
    assert max(step_folders(folder)[0]) == newest and len(rows(tmp_path / "stopped")) >= killed
    resumed = train("stopped", checkpoint=saving, resume=folder / f"step-{newest}", num_workers=workers)
    assert resumed.global_step == straight.global_step == 6
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")
    assert step_folders(folder) == step_folders(tmp_path / "straight/checkpoints")
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("straight", "stopped")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("killed", [1, 2, 5])
def test_a_kill_between_a_steps_folder_and_its_row_loses_neither(train, tmp_path, monkeypatch, killed):
    train("straight")

    def end(module, outputs, batch, batch_idx):  # after the callbacks, before Lightning hands the row to the loggers
        if module.trainer.global_step == killed:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SFTModule, "on_train_batch_end", end)
        train("stopped")
    if killed > 1:
        assert rows(tmp_path / "stopped")[-1]["step"] == killed - 2  # its own row is missing
    train("stopped", resume=tmp_path / f"stopped/checkpoints/step-{killed}")
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")


@pytest.mark.parametrize("killed", [2, 3, 4])
def test_a_run_without_validation_goes_on_in_the_right_epoch(train, tmp_path, killed):
    blind = {"limit_val_batches": 0, "checkpoint": SAVING | {"monitor": None}}
    train("straight", **blind)
    with pytest.raises(Killed):
        train("stopped", callbacks=[Kill(killed)], **blind)
    train("stopped", resume=tmp_path / f"stopped/checkpoints/step-{killed}", **blind)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")


def test_the_rows_of_a_run_are_one_a_step_with_its_evaluations(train, tmp_path):
    train("straight")
    found = rows(tmp_path / "straight")
    assert [row["step"] for row in found if "train/loss" in row] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in found if "eval/loss" in row] == [2, 5]
    assert len({row["train/loss"] for row in found if "train/loss" in row}) == 6


def test_a_validation_in_mid_epoch_does_not_move_the_losses_of_a_resumed_run(train, tmp_path):
    often = {"val_check_interval": 2}
    train("straight", **often)
    with pytest.raises(Killed):
        train("stopped", callbacks=[Kill(5)], **often)
    train("stopped", resume=tmp_path / "stopped/checkpoints/step-4", **often)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")


def test_a_finished_run_that_may_go_on_for_another_epoch_does(train, tmp_path):
    train("run")
    resumed = train("run", resume=tmp_path / "run/checkpoints/step-6", max_epochs=3)
    assert resumed.global_step == 9
    assert [row["step"] for row in rows(tmp_path / "run") if "train/loss" in row] == list(range(9))


def test_the_auxiliary_head_goes_on_from_where_it_was(start_run, make_module, lora, tmp_path):
    def run(name, **changes):
        module = make_module(tuner=lora(), rate=1e-2, aux_grounding=0.5)
        return start_run(name, module=module, limit=4, batch_size=1, checkpoint=SAVING, **changes)

    straight = run("straight")
    with pytest.raises(Killed):
        run("stopped", callbacks=[Kill(3)])
    resumed = run("stopped", resume=tmp_path / "stopped/checkpoints/step-2")
    heads = [weights(trainer)["grounding.linear.weight"] for trainer in (straight, resumed)]
    assert torch.equal(*heads)


@pytest.mark.parametrize("killed", [1, 2, 3, 4])
def test_a_run_goes_on_with_other_micro_batches_where_its_steps_have_the_same_samples(
    start_run, make_module, lora, tmp_path, killed
):
    def run(name, batch_size, accumulate, **changes):  # two epochs of three steps: 2, 2 and 1 samples
        module = make_module(tuner=lora(), rate=1e-2)
        sizes = {"limit": 5, "batch_size": batch_size, "accumulate_grad_batches": accumulate, "max_epochs": 2}
        return start_run(name, module=module, checkpoint=SAVING, **sizes | changes)

    straight = run("straight", 2, 1)
    for one, other in (((1, 2), (2, 1)), ((2, 1), (1, 2))):
        name = f"from-{one[0]}"
        with pytest.raises(Killed):
            run(name, *one, callbacks=[Kill(killed)])
        resumed = run(name, *other, resume=tmp_path / name / f"checkpoints/step-{killed}")
        assert resumed.global_step == 6
        found, expected = (rows(tmp_path / folder) for folder in (name, "straight"))
        assert [row["step"] for row in found] == [row["step"] for row in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
        for parameter, value in weights(straight).items():
            torch.testing.assert_close(weights(resumed)[parameter], value, rtol=1e-3, atol=1e-4)
