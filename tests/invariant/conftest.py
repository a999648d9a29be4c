"""Commands as users start them: photos on disk, processes of their own, and one finished run that tests share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID", "PL_GLOBAL_SEED")
PATIENCE_SECONDS = 280  # for one command on a machine where other work goes on

# 24 photos, 4 a step: an epoch of 6 steps, then 3 more; every step is logged and every second one saved.
SMALL_RUN = (
    "data=jsonl",
    "data.sampling=mixed",
    "data.batch_size=4",
    "data.val_batch_size=2",
    "data.val_generate=3",
    "data.num_workers=0",
    "augment=light",
    "trainer.accelerator=cpu",
    "trainer.max_steps=9",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "~callbacks.progress",
    "callbacks.checkpoint.every_n_train_steps=2",
    "callbacks.checkpoint.save_top_k=-1",
    "callbacks.evaluation.panels=1",
    "generation.max_new_tokens=128",
    "model.lr_multiplier=10",  # gentle: the model still answers in JSON at the end, so that its metrics are not all 0
)


@dataclass(frozen=True)
class Finished:
    """How a command ended, and what it printed to both streams."""

    code: int
    output: str

    def error(self) -> str:
        """The one error of a command that refused its input, without ``error: ``."""
        assert self.code in (1, 2), self.output
        assert "Traceback" not in self.output, self.output
        told = [line for line in self.output.splitlines() if line.startswith("error: ")]
        assert len(told) == 1, self.output
        return self.output[self.output.index(told[0]) + len("error: ") :].strip()


class Command:
    """``command("train", "stage=1")`` runs ``python -m qcvl.train stage=1`` in a folder and waits for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []
        self.patience = PATIENCE_SECONDS  # a test of several runs in one command raises it

    def __call__(self, root: str, *overrides: str) -> Finished:
        """Run to the end; every process of the command is gone when this returns."""
        process = self.start(root, *overrides)
        try:
            code = process.wait(self.patience)
        finally:
            kill_group(process)
        return Finished(code, self.output(process))

    def start(self, root: str, *overrides: str, by: Sequence[str] = (), **variables: str) -> subprocess.Popen:
        """Start it in a process group of its own; only training keeps the directory its time gives it.

        ``by`` are arguments of Python that start it (``-m torch.distributed.run …``), ``variables`` its environment's.
        """
        if root != "train" and not any(override.startswith("hydra.run.dir=") for override in overrides):
            overrides = (*overrides, f"hydra.run.dir={root}-run-{len(self.started)}")  # two may start in one second
        environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
        environment |= {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        environment |= variables
        with (self.folder / f"{root}-{len(self.started)}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *by, "-m", f"qcvl.{root}", *overrides],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.log = Path(log.name)
        self.started.append(process)
        return process

    def output(self, process: subprocess.Popen) -> str:
        """What a command has printed so far."""
        return process.log.read_text(errors="replace")


def kill_group(process: subprocess.Popen) -> None:
    """``kill -9`` for a command and all processes it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as ``condition()`` holds; fail where the process ends first or the time runs out."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}:\n{process.log.read_text()}"
        assert time.monotonic() < deadline, f"still waiting after {seconds} s:\n{process.log.read_text()}"
        time.sleep(0.005)


def rows(run: Path) -> list[dict]:
    """The rows of ``logging.jsonl`` without the speeds."""
    lines = (run / "logging.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("perf/")} for line in lines]


def metrics(run: Path) -> dict[str, dict[str, float]]:
    """``metrics.json``."""
    return json.loads((run / "metrics.json").read_text())


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs logged the same numbers, to 1e-5 of one and of themselves, each row once, and left the same files."""
    found, expected = rows(run), rows(other)
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert metrics(run).keys() == metrics(other).keys() == {"initial", "best", "final"}
    for name, values in metrics(other).items():
        assert metrics(run)[name] == pytest.approx(values, abs=1e-5, rel=1e-5)
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (run, other)]
    assert files[0] == files[1]


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder with ``train.jsonl`` (24 records) and ``val.jsonl`` (5, an odd number), in Chinese and English."""
    from qcvl.data.scenes.demo import write_demo

    folder = write_demo(tmp_path_factory.mktemp("photos") / "demo", seed=3, train=24, val=8)
    for split, count in (("train", 24), ("val", 5)):
        lines = [line for language in ("zh", "en") for line in (folder / f"{split}_{language}.jsonl").open()]
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]))
    return folder


@pytest.fixture(scope="session")
def small_run(photos) -> tuple[str, ...]:
    """The settings of a run of nine steps on the photos, to which a test adds its own."""
    return (*SMALL_RUN, f"data.train={photos}/train.jsonl", f"data.val={photos}/val.jsonl")


@pytest.fixture
def command(tmp_path) -> Iterator[Command]:
    """Runs commands in the test's own folder; none outlives the test."""
    command = Command(tmp_path)
    yield command
    for process in command.started:
        kill_group(process)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, small_run) -> Path:
    """The directory of one finished run, uninterrupted and in one process."""
    folder = tmp_path_factory.mktemp("finished")
    done = Command(folder)("train", *small_run, f"hydra.run.dir={folder}/run")
    assert done.code == 0, done.output
    return folder / "run"
