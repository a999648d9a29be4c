"""A run that is asked to stop finishes its step, saves, and goes on as if it had never stopped."""

import os
import signal
import subprocess
import sys
import time

import lightning.pytorch as pl
import pytest
import torch

from qcvl.checkpoints.folder import newest_complete
from qcvl.data.fetching import obey_parent_alone
from tests.callbacks.conftest import QUIET
from tests.callbacks.test_resume import rows, train, weights  # noqa: F401 (a fixture)

pytestmark = QUIET


class Signal(pl.Callback):
    """Sends this process a signal at a hook, once ``step`` optimizer steps are done."""

    def __init__(self, hook: str, step: int, number: signal.Signals = signal.SIGTERM) -> None:
        self.step, self.number, self.state = step, number, None
        setattr(self, hook, self.send)

    def send(self, trainer, *rest) -> None:
        if trainer.global_step == self.step and trainer.state.fn == "fit" and self.number:
            number, self.number = self.number, None
            os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    """The test process keeps its own signal handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# Two epochs of five micro-batches, two a step: steps 1, 2, 3 (validated), 4, 5, 6 (validated).
@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    [
        ("on_train_batch_start", 1, 2),  # the step it comes in is finished, whichever of its micro-batches it is
        ("on_before_zero_grad", 1, 2),
        ("on_train_batch_end", 2, 2),
        ("on_train_batch_start", 2, 3),  # step 3 is saved before its validation, which is done on resuming
        ("on_validation_start", 3, 3),
        ("on_validation_batch_start", 3, 3),
        ("on_validation_epoch_end", 3, 3),
        ("on_validation_end", 3, 3),
        ("on_train_epoch_start", 3, 4),
    ],
)
def test_a_stopped_run_is_saved_exits_with_143_and_goes_on_with_the_same_losses(
    train,  # noqa: F811
    tmp_path,
    capfd,
    straight,
    hook,
    step,
    saved,
):
    quiet = {"every_n_train_steps": 100, "save_top_k": 0, "save_async": step % 2 == 0}
    with pytest.raises(SystemExit) as stopped:
        train("stopped", callbacks=[Signal(hook, step)], checkpoint=quiet)
    assert stopped.value.code == 143
    folder = newest_complete(tmp_path / "stopped/checkpoints")
    assert folder.name == f"step-{saved}"
    assert f"stopped by SIGTERM at step {saved}, saved {folder}; go on: resume=auto" in capfd.readouterr().err
    resumed = train("stopped", checkpoint=quiet, resume=folder)
    assert rows(tmp_path / "stopped") == rows(straight[0])
    assert all(torch.equal(value, straight[1][name]) for name, value in weights(resumed).items())


@pytest.fixture
def straight(train, tmp_path):  # noqa: F811
    """The folder and the weights of the run that nobody stops."""
    trainer = train("straight", checkpoint={"every_n_train_steps": 100, "save_top_k": 0})
    return tmp_path / "straight", weights(trainer)


def test_a_run_that_is_stopped_again_while_it_catches_up_its_validation_loses_nothing(train, tmp_path, straight):  # noqa: F811
    quiet = {"every_n_train_steps": 100, "save_top_k": 0}
    for hook in ("on_validation_start", "on_validation_batch_start", "on_validation_end"):
        folder = newest_complete(tmp_path / "stopped/checkpoints") if (tmp_path / "stopped").exists() else None
        with pytest.raises(SystemExit):
            train("stopped", callbacks=[Signal(hook, 3)], checkpoint=quiet, resume=folder)
    train("stopped", checkpoint=quiet, resume=tmp_path / "stopped/checkpoints/step-3")
    assert rows(tmp_path / "stopped") == rows(straight[0])


def test_sigusr1_on_slurm_starts_the_job_again(train, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    (tmp_path / "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for number, job in ((signal.SIGTERM, "71"), (signal.SIGUSR1, "72")):
        # As a scheduler leaves it for the job; Lightning looks at it when the trainer is made, which is before.
        slurm = type(
            "Slurm", (pl.Callback,), {"on_train_start": lambda *_, j=job: monkeypatch.setenv("SLURM_JOB_ID", j)}
        )
        with pytest.raises(SystemExit) as stopped:
            train(job, callbacks=[slurm(), Signal("on_train_batch_end", 1, number)])
        assert stopped.value.code == 143
        monkeypatch.delenv("SLURM_JOB_ID")
    assert (tmp_path / "told").read_text() == "requeue 72\n"


def test_a_loader_worker_ends_by_its_parents_signal_alone():
    child = os.fork()
    if child == 0:
        obey_parent_alone()
        time.sleep(60)
        os._exit(1)
    time.sleep(0.3)
    for number in ("TERM", "USR1", "TERM"):
        subprocess.run([sys.executable, "-c", f"import os, signal; os.kill({child}, signal.SIG{number})"], check=True)
    time.sleep(0.3)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
