"""One rank's error ends all ranks, and is the one that is told."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch.distributed as dist

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
