"""A run that was killed and started again is the run that was never killed."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from qcvl.checkpoints.folder import commit
from tests.invariant.conftest import Command, kill_group, metrics, rows, wait_for

slow = [pytest.mark.slow, pytest.mark.timeout(900)]
FORGED = {"_target_": "os.system", "command": "touch forged"}


def kill_past_step(step: int, command: Command, run: Path, *settings: str) -> Path:
    """The directory of a run whose processes were killed as soon as it had saved ``step``."""
    process = command.start("train", *settings, f"hydra.run.dir={run}")
    wait_for((run / f"checkpoints/step-{step}").exists, process)
    kill_group(process)
    assert "final" not in metrics(run), "the run ended before it could be killed"
    return run


def step_folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def drop_rows_from(run: Path, step: int) -> None:
    """Drop what is logged after ``step`` was saved; what augmentation did in it is logged before."""
    lines = (run / "logging.jsonl").read_text().splitlines(keepends=True)
    parsed = [(json.loads(line), line) for line in lines]
    before = [line for row, line in parsed if row["step"] < step or (row["step"] == step and "augment/" in line)]
    (run / "logging.jsonl").write_text("".join(before))


def test_a_killed_run_goes_on_from_its_newest_sound_checkpoint_with_the_losses_of_an_uninterrupted_one(
    command, small_run, finished_run, tmp_path
):
    run = kill_past_step(4, command, tmp_path / "run", *small_run)  # in mid epoch, with step 2 saved as well
    started, whole = rows(run), rows(finished_run)
    assert started == whole[: len(started)]  # two starts of one command see the same numbers
    newest = sorted(run.glob("checkpoints/step-?"))[-1]
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (run / "checkpoints/step-99.partial").mkdir()
    older = newest.with_name(f"step-{int(newest.name[-1]) - 2}")
    drop_rows_from(run, int(older.name[-1]) - 1)  # as if the kill had come before the saved step was logged

    done = command("train", *small_run, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert f"skipped {newest.name}: {weights}: found" in done.output
    assert f"resume=auto: {older}" in done.output
    assert rows(run) == whole
    assert metrics(run) == metrics(finished_run)  # `initial` was measured by the part that was killed
    assert step_folders(run) == sorted([*step_folders(finished_run), f"{newest.name}.old"])
    assert (run / "checkpoints/last").resolve().name == "step-9"


@pytest.mark.parametrize("how", [pytest.param("auto", marks=slow), pytest.param("path", marks=slow)])
def test_what_is_drawn_at_random_does_not_change_when_a_run_goes_on(command, small_run, tmp_path, how):
    settings = (*small_run, "tuner.dropout=0.1", "augment=dense", "data.num_workers=1")
    whole = tmp_path / "whole"
    assert command("train", *settings, f"hydra.run.dir={whole}").code == 0
    run = kill_past_step(2, command, tmp_path / "run", *settings)
    where = ("resume=auto", f"hydra.run.dir={run}") if how == "auto" else (f"resume={run}/checkpoints/step-2",)
    done = command("train", *settings, *where)
    assert done.code == 0, done.output
    assert rows(run) == rows(whole)
    assert metrics(run) == metrics(whole)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_before_its_first_checkpoint_starts_again_as_if_it_never_had(
    command, small_run, finished_run, tmp_path
):
    run = tmp_path / "run"
    process = command.start("train", *small_run, "callbacks.checkpoint.every_n_train_steps=100", f"hydra.run.dir={run}")
    wait_for(lambda: (run / "logging.jsonl").is_file() and len(rows(run)) > 1, process)
    kill_group(process)
    done = command("train", *small_run, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0 and "starting fresh" in done.output, done.output
    assert rows(run) == rows(finished_run)
    assert metrics(run) == metrics(finished_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_finished_run_can_go_on_and_its_forged_settings_are_never_built(command, small_run, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)
    for path in (run / "config.yaml", run / ".hydra/config.yaml", run / "checkpoints/step-9/config.yaml"):
        path.write_text(yaml.safe_dump({"model": FORGED, "callbacks": {"evil": FORGED}, "job": "train"}))
    done = command("train", *small_run, f"resume={run}", "trainer.max_steps=11")
    assert done.code == 0, done.output
    trained = [row["step"] for row in rows(run) if "train/loss" in row]
    assert trained == list(range(11))
    assert metrics(run)["initial"] == metrics(finished_run)["initial"]
    done = command("evaluate", f"checkpoint={run}/checkpoints/step-9", *of_validation(small_run), "hydra.run.dir=here")
    assert done.code == 0, done.output
    assert not list(tmp_path.rglob("forged"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_that_does_not_fit_the_run_is_refused_in_one_sentence(command, small_run, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run", symlinks=True)

    def refused(*settings: str) -> str:
        return command("train", *small_run, f"resume={run}/checkpoints/step-4", *settings).error()

    assert "trained tensors are not those of step 4, first model.base_model" in refused("tuner.rank=8")
    assert "trained tensors are not those of step 4, first model.base_model" in refused("stage=1")
    assert "the checkpoint's epoch has 6 batches, this run's has 12" in refused("data.batch_size=2")
    plant_a_pickle(run / "checkpoints/step-4")
    assert "trainer/state.ckpt" in refused()
    assert not list(tmp_path.rglob("forged"))


def plant_a_pickle(folder: Path) -> None:
    """Replace the trainer's state by a pickle that runs a command when it is loaded, with a manifest to match."""
    import os
    import pickle

    class Payload:
        def __reduce__(self):
            return os.system, (FORGED["command"],)

    (folder / "trainer/state.ckpt").write_bytes(pickle.dumps(Payload()))
    (folder / "manifest.json").unlink()
    commit(folder.rename(folder.with_name("step-4.partial")))


def of_validation(settings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a run's settings that an evaluation has too."""
    return tuple(s for s in settings if s.startswith(("data=", "data.val=", "data.sampling=", "generation.")))
