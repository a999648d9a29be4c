"""Ways to start a run: a sweep in one command, three lines of Python, and the shortest check of the whole path."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.invariant.conftest import CHECKOUT, metrics, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

THREE_LINES = """
import sys
from qcvl import config

cfg = config.load("train", sys.argv[1:])
run = config.build(cfg)
run.trainer.fit(run.module, run.datamodule)
"""


def test_a_sweep_trains_every_combination_in_one_command(command, small_run, tmp_path):
    short = ("trainer.max_steps=2", "data.val_generate=1", "generation.max_new_tokens=8")
    command.patience = 850  # four runs in one command
    done = command("train", "-m", "stage=1,2", "tuner=lora,full", *small_run, *short, "hydra.sweep.dir=sweep")
    assert done.code == 0, done.output
    made = {}
    for job in range(4):
        run = tmp_path / f"sweep/{job}"
        settings = yaml.safe_load((run / "config.yaml").read_text())
        weights = {path.name for path in (run / "checkpoints/last").resolve().glob("*.safetensors")}
        made[settings["stage"]["number"], settings["tuner"]["_target_"].rpartition(".")[2]] = weights
        assert [row["step"] for row in rows(run) if "train/loss" in row] == [0, 1]
        assert "final" in metrics(run)
    adapter, whole = {"adapter_model.safetensors"}, {"model.safetensors"}
    assert made == {
        (1, "PeftTuner"): adapter, (1, "FullTuner"): whole, (2, "PeftTuner"): adapter, (2, "FullTuner"): whole
    }  # fmt: skip


def test_three_lines_of_python_train_as_the_command_does(command, small_run, finished_run, tmp_path):
    arguments = [*small_run, f"paths.output_dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-c", THREE_LINES, *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    losses = [row["train/loss"] for row in rows(tmp_path / "run") if "train/loss" in row]
    assert losses == [row["train/loss"] for row in rows(finished_run) if "train/loss" in row]
    audited = [(run / "label_audit.txt").exists() for run in (tmp_path / "run", finished_run)]
    assert audited == [False, True]  # the command looks at its first samples, and no loss changes
    assert (tmp_path / "run/checkpoints/last").resolve().name == "step-9"


def test_the_shortest_check_of_the_path_leaves_no_checkpoint(command, small_run, tmp_path):
    done = command("train", *small_run, "debug=fast_dev_run", "hydra.run.dir=here")
    assert done.code == 0, done.output
    assert not (tmp_path / "here/checkpoints").exists() and not (tmp_path / "here/logging.jsonl").exists()


def test_a_run_without_validation_trains_and_saves(command, small_run, tmp_path):
    done = command("train", *small_run, "+trainer.limit_val_batches=0", "hydra.run.dir=here")
    assert done.code == 0, done.output
    assert [row["step"] for row in rows(tmp_path / "here") if "train/loss" in row] == list(range(9))
    assert (tmp_path / "here/checkpoints/last").resolve().name == "step-9"


def test_without_answers_to_score_the_metrics_hold_the_losses_alone(command, small_run, tmp_path):
    done = command("train", *small_run, "trainer.max_steps=2", "data.val_generate=0", "hydra.run.dir=here")
    assert done.code == 0, done.output
    by_kind = {f"eval/sft_loss/{kind}" for kind in ("format", "coordinates", "descriptions", "summary")}
    assert metrics(tmp_path / "here")["final"].keys() == {"eval/loss", "eval/sft_loss", "eval/token_acc"} | by_kind


def test_a_profile_of_the_tiny_model_is_in_its_run_directory(command, small_run, tmp_path):
    own = [part for part in small_run if not part.startswith("trainer.max_steps")]
    done = command("train", *own, "debug=profile", "hydra.run.dir=here")
    assert done.code == 0, done.output
    assert {path.name for path in (tmp_path / "here/profile").iterdir()} == {"trace.json", "operations.txt"}
    assert [row["step"] for row in rows(tmp_path / "here") if "train/loss" in row] == list(range(8))


def test_a_run_in_small_trains_validates_saves_and_scores(command, small_run, tmp_path):
    own = [part for part in small_run if not part.startswith(("trainer.max_steps", "data.batch_size"))]
    done = command("train", *own, "debug=limit", "data.batch_size=2", "hydra.run.dir=here")
    assert done.code == 0, done.output
    trained = [row for row in rows(tmp_path / "here") if "train/loss" in row]
    assert len(trained) == 8  # of the 12 batches of an epoch
    logged = (tmp_path / "here/logging.jsonl").read_text()
    assert all(f'"perf/{key}"' in logged for key in ("model_tflops_per_s", "peak_memory_gib", "seconds/backward"))
    assert "eval/loss" in metrics(tmp_path / "here")["final"]
    assert (tmp_path / "here/checkpoints/last").resolve().name == "step-8"
    beat = json.loads((tmp_path / "here/heartbeat.json").read_text())
    assert (beat["doing"], beat["step"]) == ("finished", 8)
