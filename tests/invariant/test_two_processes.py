"""Two processes over gloo are one: the same numbers, one set of files, and one end."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from qcvl.data.packing import fixed_count
from qcvl.data.sampling import shuffled
from tests.invariant.conftest import assert_same_run, rows, wait_for

TWO = ("strategy=ddp", "trainer.devices=2", "data.batch_size=2")  # 2 x 2 photos a step, as one process with 4
END_SECONDS = 30  # DESIGN section 8: one rank's error ends all ranks within 30 s


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_that_hold_each_row_together_have_the_losses_and_metrics_of_one(
    command, small_run, finished_run, tmp_path
):
    shared = ("strategy=ddp", "trainer.devices=2", "sp_degree=2")  # 4 photos a step, both of their halves
    done = command("train", *small_run, *shared, f"hydra.run.dir={tmp_path}/run")
    assert done.code == 0, done.output
    assert_same_run(tmp_path / "run", finished_run)


def test_two_processes_have_the_losses_and_metrics_of_one(command, small_run, finished_run, tmp_path):
    # 5 photos to validate and 3 to answer: the shares are uneven.
    run = tmp_path / "run"
    backend = "trainer.strategy.process_group_backend=gloo"
    process = command.start("train", *small_run, *TWO, backend, f"hydra.run.dir={run}")
    wait_for(lambda: second_process(process.pid) is not None, process)
    assert process.wait() == 0, command.output(process)
    assert len([key for key in rows(finished_run)[0] if key.startswith("eval/val/")]) > 10
    assert_same_run(run, finished_run)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_photo_that_only_the_second_process_opens_ends_both_with_its_error(command, small_run, photos, tmp_path):
    records = [json.loads(line) for line in (photos / "train.jsonl").read_text().splitlines()]
    steps = fixed_count(shuffled(len(records), seed=0, epoch=0).tolist(), 2, 2)
    bad = steps[4][1][0]  # of the fifth step, the second process's first: behind the 16 that the label audit opens
    for record in records:
        record["images"] = [str(photos / record["images"][0])]
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(Path(records[bad]["images"][0]).read_bytes()[:1500])
    records[bad]["images"] = [str(damaged)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    run = tmp_path / "run"
    settings = (*small_run, *TWO, f"data.train={tmp_path}/train.jsonl", f"hydra.run.dir={run}")
    process = command.start("train", *settings)
    wait_for(lambda: "error: " in command.output(process), process)
    assert_ends(process)
    output = command.output(process)
    assert "Traceback" not in output, output
    told = [line for line in output.splitlines() if line.startswith("error: ")]
    assert told[0].startswith(f"error: {tmp_path}/train.jsonl:{bad + 1}: images[0] ({damaged}) is damaged")
    assert told[1:] == ["error: rank 0 stops: another rank ended, see its own error"]
    assert [row["step"] for row in rows(run) if "train/loss" in row] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_process_ends_the_other(command, small_run, tmp_path, victim):
    run = tmp_path / "run"
    process = command.start(
        "train", *small_run, *TWO, "trainer.max_steps=1000", "stage.epochs=1000", f"hydra.run.dir={run}"
    )
    wait_for((run / "checkpoints/step-2").exists, process)
    child = second_process(process.pid)
    os.kill(child if victim else process.pid, signal.SIGKILL)
    assert_ends(process)
    gone_by = time.monotonic() + END_SECONDS
    while is_running(child):
        assert time.monotonic() < gone_by, "the second process outlived the first"
        time.sleep(0.05)
    output = command.output(process)
    assert "Traceback" not in output, output
    assert f"error: rank {1 - victim} stops: another rank ended" in output


def assert_ends(process) -> None:
    assert process.wait(END_SECONDS) != 0


def second_process(parent: int) -> int | None:
    """The process with ``LOCAL_RANK=1`` that ``parent`` started, as soon as it is there."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next((int(pid) for pid in children if b"LOCAL_RANK=1" in environment(pid)), None)


def environment(pid: str) -> bytes:
    """The environment of a process; empty for one that has just ended (training asks git for its commit)."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()
