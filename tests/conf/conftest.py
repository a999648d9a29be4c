"""Helpers of the configuration's tests: a folder to run in and a way to start commands from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# An entry point whose task only says that it ran: the road to the task is what these tests look at.
ENTRY = """
import sys
from qcvl.config import run
def task(cfg):
    print("ran", cfg.job, "torch" in sys.modules)
run({root!r}, task)
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``command("train", "stage=1")`` runs the road to a task in an empty folder; returns the finished process."""
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    for rank in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID"):
        environment.pop(rank, None)

    def run(root, *arguments, entry=ENTRY, **variables):
        script = tmp_path / f"{root}.py"
        script.write_text(entry.format(root=root))
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=workplace,
            env={**environment, **variables},
            capture_output=True,
            text=True,
        )

    run.workplace = workplace
    return run
