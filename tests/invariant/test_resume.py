"""A run that was killed and started again is the run that was never killed."""

from pathlib import Path

import pytest

from tests.invariant.conftest import Command, kill_group, metrics, rows, wait_for


@pytest.fixture
def killed_run(command, small_run, tmp_path) -> Path:
    """The directory of a run whose processes were killed in mid epoch, past step 4 of 9."""
    return kill_past_step(4, command, tmp_path / "run", *small_run)


def kill_past_step(step: int, command: Command, run: Path, *settings: str) -> Path:
    process = command.start("train", *settings, f"hydra.run.dir={run}")
    wait_for((run / f"checkpoints/step-{step}").exists, process)
    kill_group(process)
    assert "final" not in metrics(run), "the run ended before it could be killed"
    return run


def test_a_killed_run_goes_on_from_its_newest_sound_checkpoint_with_the_losses_of_an_uninterrupted_one(
    command, killed_run, finished_run, small_run
):
    started, whole = rows(killed_run), rows(finished_run)
    assert started == whole[: len(started)]  # two starts of one command see the same numbers
    newest = sorted(killed_run.glob("checkpoints/step-?"))[-1]
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (killed_run / "checkpoints/step-99.partial").mkdir()

    done = command("train", *small_run, "resume=auto", f"hydra.run.dir={killed_run}")
    assert done.code == 0, done.output
    older = newest.with_name(f"step-{int(newest.name[-1]) - 2}")
    assert f"skipped {newest.name}: {weights}: found" in done.output
    assert f"resume=auto: {older}" in done.output
    assert rows(killed_run) == whole
    assert metrics(killed_run) == metrics(finished_run)
    names = {path.name for path in (killed_run / "checkpoints").iterdir()}
    assert names == {path.name for path in (finished_run / "checkpoints").iterdir()} | {f"{newest.name}.old"}
    assert (killed_run / "checkpoints/last").resolve().name == "step-9"
