"""Whole 640x640 photos of DeepPCB through convert and train, with a model of 60M parameters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEEPPCB = ROOT.parent / "shared" / "data" / "deeppcb"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DEEPPCB.is_dir(), reason="../shared/data/deeppcb is not there"),
]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_of_60m_parameters_trains_a_step_on_whole_photos(tmp_path):
    photos = tmp_path / "photos.jsonl"
    run(
        "qcvl.convert",
        "format=deeppcb",
        f"input={DEEPPCB}",
        f"output={photos}",
        "split=val",
        f"hydra.run.dir={tmp_path}/c",
    )
    shown = run(
        "qcvl.train",
        *(
            "model=small_60m",
            "data=jsonl",
            "prompts=en",
            "stage=3",
            "tuner=full",
            "callbacks.checkpoint.save_last=false",
        ),
        *(
            f"data.train={photos}",
            f"data.val={photos}",
            "data.batch_size=1",
            "data.val_batch_size=1",
            "data.num_workers=0",
        ),
        *("data.val_generate=0", "trainer.max_steps=1", "trainer.limit_val_batches=1", "trainer.log_every_n_steps=1"),
        *("trainer.enable_progress_bar=false", "~callbacks.progress", f"hydra.run.dir={tmp_path}/run"),
    )
    assert "60,5" in shown  # the towers' sum, 60.5M
    rows = [json.loads(line) for line in (tmp_path / "run" / "logging.jsonl").read_text().splitlines()]
    first = next(row for row in rows if "train/loss" in row)
    before, after = (row["eval/loss"] for row in rows if "eval/loss" in row)
    assert first["train/grad_norm/vision"] > 0
    assert after < before  # the same photo: one step of it must help
