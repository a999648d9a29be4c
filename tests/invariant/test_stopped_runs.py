"""Runs that are killed or asked to stop at any moment go on as if they never had."""

import os
import random
import signal
import time

import pytest

from qcvl.checkpoints.folder import newest_complete, steps_in, verify
from tests.invariant.conftest import kill_group, metrics, rows, wait_for
from tests.invariant.test_two_processes import TWO, is_running, second_process

STOP_SECONDS = 60  # what a scheduler grants between SIGTERM and SIGKILL, at the least
OFTEN = ("callbacks.checkpoint.every_n_train_steps=1",)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_to_all_processes_of_a_run_saves_it_within_a_minute_and_it_goes_on(
    command, small_run, finished_run, tmp_path
):
    run = tmp_path / "run"
    rarely = ("callbacks.checkpoint.every_n_train_steps=100", "callbacks.checkpoint.save_top_k=0")
    process = command.start("train", *small_run, *rarely, "data.num_workers=1", f"hydra.run.dir={run}")
    wait_for(lambda: (run / "logging.jsonl").is_file() and len(rows(run)) > 2, process)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)  # the loader's worker gets it too
    assert process.wait(STOP_SECONDS) == 143, command.output(process)
    assert time.monotonic() - asked < STOP_SECONDS
    saved = newest_complete(run / "checkpoints")
    assert f"stopped by SIGTERM at step {saved.name[5:]}, saved {saved}" in command.output(process)
    assert "Traceback" not in command.output(process), command.output(process)
    verify(run / "checkpoints/last")

    done = command("train", *small_run, *rarely, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0 and f"resume=auto: {saved}" in done.output, done.output
    assert rows(run) == rows(finished_run)
    assert metrics(run) == metrics(finished_run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_that_is_killed_again_and_again_ends_with_the_losses_of_one_that_never_was(
    command, small_run, finished_run, tmp_path
):
    run, rng = tmp_path / "run", random.Random(time.time_ns())
    for workers in (0, 1, 2):
        settings = (*small_run, *OFTEN, f"data.num_workers={workers}", "resume=auto", f"hydra.run.dir={run}")
        process = command.start("train", *settings)
        start = max(steps_in(run / "checkpoints"), default=0)
        wait_for(lambda start=start: max(steps_in(run / "checkpoints"), default=0) > start, process)
        if workers == 1:  # within a save
            wait_for(lambda: any((run / "checkpoints").glob("*.partial")), process)
        else:
            time.sleep(rng.uniform(0, 0.5))
        kill_group(process)
        for folder in steps_in(run / "checkpoints").values():
            verify(folder)
    done = command("train", *small_run, *OFTEN, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert rows(run) == rows(finished_run)
    assert metrics(run) == metrics(finished_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigterm_to_the_first_of_two_processes_stops_both_and_they_go_on(command, small_run, finished_run, tmp_path):
    run = tmp_path / "run"
    process = command.start("train", *small_run, *TWO, f"hydra.run.dir={run}")
    wait_for((run / "checkpoints/step-2").exists, process)
    child = second_process(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 143, command.output(process)
    assert not is_running(child)
    assert "Traceback" not in command.output(process), command.output(process)
    done = command("train", *small_run, *TWO, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    for ours, theirs in zip(rows(run), rows(finished_run), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
