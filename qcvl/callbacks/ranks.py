"""One rank's error ends all ranks, and is the one that is told."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import subprocess_script

from qcvl.callbacks.stopping import Stopped
from qcvl.data.fetching import lost_worker
from qcvl.errors import QcvlError

GRACE_SECONDS = 10  # for ranks that ended by an error of their own to say so


@contextmanager
def ending_together(trainer: pl.Trainer) -> Iterator[None]:
    """Run a block of training; where it fails in one of several processes that Lightning started, all end.

    The rank that failed raises its own error. The others notice when they next wait for it: theirs becomes one
    sentence, for its traceback would hide the cause.

    Raises:
        QcvlError: in place of a torch error that says no more than that another rank is gone.
    """
    try:
        with mock.patch.object(subprocess_script, "_launch_process_observer", watch):
            yield
    except BaseException as error:
        loader = getattr(trainer, "train_dataloader", None)
        if (gone := lost_worker(error, getattr(loader, "guarded", None))) is not None:
            end_others(trainer, 0)
            raise gone from None
        lost = is_lost_peer(error)
        end_others(trainer, GRACE_SECONDS if lost or isinstance(error, Stopped) else 0)
        if lost:
            raise QcvlError(f"rank {trainer.global_rank} stops: another rank ended, see its own error") from None
        raise


def watch(processes: list[subprocess.Popen]) -> None:
    """Watch the processes that Lightning started, in place of its own observer."""
    PatientObserver(os.getpid(), processes).start()


class PatientObserver(_ChildProcessObserver):
    """Kills all processes some seconds after one of them failed; Lightning's own does so at once.

    The first process would be killed before it could say its error and close its trackers. It needs the kill only
    where it waits for the lost one for ever, as in a collective of NCCL.
    """

    grace_seconds: float = GRACE_SECONDS

    def _terminate_all(self) -> None:
        time.sleep(self.grace_seconds)
        super()._terminate_all()


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone; gloo says so in a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))


def end_others(trainer: pl.Trainer, grace_seconds: float) -> None:
    """In the first process, wait that long for the processes it started, then kill those that are left."""
    processes: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
    for process in processes:
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # one that waits in a collective does not hear SIGTERM
