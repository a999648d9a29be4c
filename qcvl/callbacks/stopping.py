"""SIGTERM and SIGUSR1 ask a run to stop: it finishes its step, saves and exits with 143."""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType

import lightning.pytorch as pl

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 128 + signal.SIGTERM  # what a shell calls the end by SIGTERM; schedulers know it


class Stopped(SystemExit):
    """The run ends because a signal asked for it; not an error."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopRequest:
    """Remembers a signal until the run can stop; where nothing is half done it stops at once.

    Lightning's own handlers are replaced: they send a collective from within the handler, lose a signal that comes
    between two stages, and on a cluster save in the middle of a step.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.at_once = False

    def listen(self, *, at_once: bool) -> None:
        """Handle the signals from now on; ``at_once``: by raising ``Stopped`` there and then."""
        self.at_once = at_once
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def wanted(self, trainer: pl.Trainer) -> bool:
        """Whether any rank was asked to stop; all ranks call this at the same point of their step."""
        if trainer.world_size == 1:
            return self.signal is not None
        return trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)

    def tell(self, trainer: pl.Trainer, saved: str) -> None:
        """Say on stderr where the run stands, and ask SLURM to start the job again where it sent SIGUSR1."""
        if not trainer.is_global_zero:
            return
        name = self.signal.name if self.signal else "a signal to another process"
        print(f"stopped by {name} at step {trainer.global_step}, saved {saved}; go on: resume=auto", file=sys.stderr)
        job = os.environ.get("SLURM_JOB_ID")
        if self.signal is signal.SIGUSR1 and job:
            try:
                subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
            except (OSError, subprocess.SubprocessError) as error:
                print(f"scontrol requeue {job} failed ({error}); submit the job again", file=sys.stderr)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if self.at_once:
            raise Stopped
