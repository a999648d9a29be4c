"""One rank's error ends all ranks, and is the one that is told."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from lightning.pytorch.strategies.launchers import subprocess_script

from qcvl.callbacks.ranks import end_others, ending_together, is_lost_peer, watch
from qcvl.errors import DataError, QcvlError

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:552] Connection closed by peer"


def trainer(*processes: subprocess.Popen, rank: int = 1) -> SimpleNamespace:
    launcher = SimpleNamespace(procs=list(processes))
    return SimpleNamespace(global_rank=rank, strategy=SimpleNamespace(launcher=launcher))


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_block_that_succeeds_ends_nobody(sleeper):
    with ending_together(trainer(sleeper)):
        pass
    assert sleeper.poll() is None


def test_a_ranks_own_error_is_raised_as_it_is_and_ends_the_others_at_once(sleeper):
    with pytest.raises(DataError, match="^train.jsonl:3$"), ending_together(trainer(sleeper)):
        raise DataError("train.jsonl:3")
    assert sleeper.wait(10) != 0


def test_an_interrupt_ends_the_others_too(sleeper):
    with pytest.raises(KeyboardInterrupt), ending_together(trainer(sleeper)):
        raise KeyboardInterrupt
    assert sleeper.wait(10) != 0


@pytest.mark.parametrize("error", [RuntimeError(GLOO), dist.DistBackendError("NCCL error: remote process exited")])
def test_a_lost_peer_becomes_one_sentence_that_points_to_the_cause(error):
    sentence = "^rank 1 stops: another rank ended, see its own error$"
    with pytest.raises(QcvlError, match=sentence), ending_together(trainer()):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError(GLOO), DataError("a")])
def test_other_errors_are_no_lost_peer(error):
    assert not is_lost_peer(error)


def test_a_process_that_ends_within_the_grace_is_left_to_say_why():
    process = subprocess.Popen([sys.executable, "-c", "import time, sys; time.sleep(.3); sys.exit(3)"])
    end_others(trainer(process), grace_seconds=30)
    assert process.wait() == 3


@pytest.mark.parametrize(("grace", "code", "told"), [(20, 0, "own error\n"), (0, -signal.SIGKILL, "")])
def test_the_first_process_has_the_grace_to_say_its_own_error_before_it_is_killed(grace, code, told):
    program = f"""
import os, subprocess, sys, time
from qcvl.callbacks.ranks import PatientObserver
failed = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
failed.wait()
observer = PatientObserver(os.getpid(), [failed], sleep_period=0.1)
observer.grace_seconds = {grace}
observer.start()
time.sleep(2)
print("own error")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, told), done.stderr


def test_the_processes_that_lightning_starts_are_watched_with_patience():
    with ending_together(trainer()):
        assert subprocess_script._launch_process_observer is watch
    assert subprocess_script._launch_process_observer is not watch


def test_a_launcher_that_started_nothing_is_fine():
    assert end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=None)), grace_seconds=0) is None
    assert end_others(trainer(), grace_seconds=60) is None


def test_a_lost_worker_process_ends_all_ranks_and_is_named_wherever_torch_tells_of_it(sleeper):
    told = r"^a worker process of the training loader \(pid 7\) is killed by signal"
    with pytest.raises(QcvlError, match=told), ending_together(trainer(sleeper)):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert sleeper.wait(10) != 0
