"""Real sweeps of the embedded model: one command, one table, one plot; and what trackers do without a network."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from qcvl.viz.dashboard import sections
from tests.invariant.conftest import CHECKOUT, RANK_VARIABLES, metrics, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = ("trainer.max_steps=2", "data.val_generate=1", "callbacks.evaluation.panels=0", "generation.max_new_tokens=8")


@pytest.fixture(autouse=True)
def patience(command):
    command.patience = 850  # several runs in one command


def table(folder):
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_four_jobs_of_which_one_is_killed_end_in_one_table_and_one_plot(command, small_run, tmp_path):
    (tmp_path / "killer.py").write_text(
        "import os, signal\nfrom lightning.pytorch import Callback\n\n\nclass KillAt8(Callback):\n"
        "    def on_train_batch_end(self, trainer, module, *args):\n"
        "        if (module.tuner.rank, module.stage.number) == (8, 1):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    kill = ("trusted_targets=[killer]", "+callbacks.kill._target_=killer.KillAt8")
    sweep = ("stage=1,2", "tuner.rank=4,8", "logger=[csv,wandb]", "hydra.sweep.dir=sweep")
    done = command("train", "-m", *sweep, *small_run, *SHORT, *kill)
    assert done.code == 1 and "error: 1 of 4 jobs failed; error.txt says why in sweep/1" in done.output, done.output
    made = table(tmp_path / "sweep")
    assert [(row["stage"], row["tuner.rank"], row["state"]) for row in made] == [
        ("1", "4", "finished"),
        ("1", "8", "failed"),
        ("2", "4", "finished"),
        ("2", "8", "finished"),
    ]
    assert made[1]["error"].startswith("killed by SIGKILL")
    finals = {row["run"]: metrics(tmp_path / f"sweep/{row['run']}").get("final", {}) for row in made}
    for row in made:
        assert row["eval/loss"] == (repr(finals[row["run"]]["eval/loss"]) if row["run"] != "1" else "")
    best = min((run for run in finals if run != "1"), key=lambda run: finals[run]["eval/loss"])
    assert [row["run"] for row in made if row["best"]] == [best]
    assert (tmp_path / "sweep/runs.png").stat().st_size > 10_000
    check_wandb_names(tmp_path / "sweep")
    again_on_demand(command, tmp_path)


def check_wandb_names(sweep):
    settings = [yaml.safe_load((sweep / f"{job}/config.yaml").read_text())["logger"]["wandb"] for job in range(4)]
    assert {item["group"] for item in settings} == {"sweep"}
    assert [item["name"] for item in settings] == [
        "stage=1 tuner.rank=4",
        "stage=1 tuner.rank=8",
        "stage=2 tuner.rank=4",
        "stage=2 tuner.rank=8",
    ]
    (written,) = (sweep / "3/wandb").glob("offline-run-*/run-*.wandb")
    assert b"stage=2 tuner.rank=8" in written.read_bytes()


def again_on_demand(command, folder):
    """``evaluate runs=`` makes the same files from the same folder, and imports no torch."""
    environment = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qcvl.evaluate", "runs=sweep", "hydra.run.dir=again"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "matplotlib" in imported and not imported & {"torch", "transformers", "lightning"}
    for name in ("runs.csv", "runs.md"):
        assert (folder / f"again/{name}").read_text() == (folder / f"sweep/{name}").read_text()
    assert (folder / "again/runs.png").is_file() and "failed      1: killed by SIGKILL" in done.stdout


def test_an_optuna_search_gets_the_final_value_of_each_run(command, small_run, tmp_path):
    few = ("hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep")
    done = command("train", "hparams_search=tiny_optuna", *small_run, *SHORT, *few)
    assert done.code == 0, done.output
    made = table(tmp_path / "sweep")
    values = [metrics(tmp_path / f"sweep/{job}")["final"]["eval/loss"] for job in range(2)]
    assert [float(row["eval/loss"]) for row in made] == values
    found = yaml.safe_load((tmp_path / "sweep/optimization_results.yaml").read_text())
    assert found["best_value"] == min(values)
    assert [row["best"] for row in made].index("*") == values.index(min(values))


def test_the_grid_example_trains_its_four_runs_side_by_side_with_joblib(command, small_run, tmp_path):
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    done = command("train", "-m", "hparams_search=tiny_grid", *small_run, *SHORT, *launcher)
    assert done.code == 0, done.output
    assert [row["state"] for row in table(tmp_path / "sweep")] == ["finished"] * 4


def test_a_job_over_two_processes_is_trained_once(command, small_run, tmp_path):
    two = ("strategy=ddp", "trainer.devices=2", "seed=1,2", "hydra.sweep.dir=sweep")
    done = command("train", "-m", *small_run, *SHORT, *two)
    assert done.code == 0, done.output
    assert [row["state"] for row in table(tmp_path / "sweep")] == ["finished"] * 2
    for job in range(2):
        assert [row["step"] for row in rows(tmp_path / f"sweep/{job}") if "train/loss" in row] == [0, 1]


@pytest.mark.parametrize("key", ["", "0123456789" * 4])
def test_wandb_without_network_or_key_ends_the_run_before_it_begins(command, small_run, tmp_path, monkeypatch, key):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("HOME", str(tmp_path))  # no key of this machine's user
    monkeypatch.setenv("WANDB_API_KEY", key) if key else monkeypatch.delenv("WANDB_API_KEY", raising=False)
    online = ("logger=wandb", "logger.wandb.offline=false", "logger.wandb.settings.init_timeout=3")
    done = command("train", *small_run, *online, "hydra.run.dir=here")
    error = done.error()
    assert error.startswith("logger: Weights & Biases cannot be used: ") and "logger.wandb.offline=true" in error
    assert ("API key" in error) == (not key) and (key == "" or key not in done.output)
    assert not (tmp_path / "here/data_report.json").exists() and not (tmp_path / "here/checkpoints").exists()


def test_the_dashboard_plots_only_what_a_run_logs(command, small_run, tmp_path):
    few = ("trainer.max_steps=2", "callbacks.evaluation.panels=0", "hydra.run.dir=here")  # answers with objects in them
    done = command("train", "stage=3", *small_run, *few)
    assert done.code == 0, done.output
    logged = {key for line in (tmp_path / "here/logging.jsonl").open() for key in json.loads(line)}
    logged.add("perf/mfu")  # of GPUs whose best is known
    plots = [plot for group in sections(["val"]).values() for plot in group]
    assert {key for plot in plots for key in plot.keys} <= logged
    for plot in plots:
        assert plot.keys or any(re.fullmatch(plot.pattern, key) for key in logged), plot


def test_a_dashboard_without_network_keeps_its_layout_and_ends_with_one_error(command, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    error = command("dashboard", "entity=me", "project=mine", "hydra.run.dir=here").error()
    assert error.startswith("W&B did not take the view of me/mine: ") and f"{tmp_path}/here/dashboard.json" in error
    assert "section" in json.loads((tmp_path / "here/dashboard.json").read_text())


def test_two_stages_are_one_command_and_the_second_starts_where_the_first_ended(command, small_run, tmp_path):
    done = command("train", "experiment=two_stage", *small_run, *SHORT, "hydra.sweep.dir=sweep")
    assert done.code == 0, done.output
    made = table(tmp_path / "sweep")
    assert [(row["stage"], row["state"]) for row in made] == [("1", "finished"), ("2", "finished")]
    first, second = (metrics(tmp_path / f"sweep/{job}") for job in (0, 1))
    assert second["initial"]["eval/loss"] == pytest.approx(first["final"]["eval/loss"], rel=1e-6)
    contracts = [json.loads((tmp_path / f"sweep/{job}/checkpoints/last/qcvl.json").read_text()) for job in (0, 1)]
    assert [contract["tuner"]["llm"] for contract in contracts] == ["frozen", "adapter"]


def test_a_later_stage_does_not_start_where_the_job_before_failed(command, small_run, tmp_path):
    sweep = ("-m", "stage=2,3", "stage.init_from=previous", "hydra.sweep.dir=sweep")
    done = command("train", *sweep, *small_run, *SHORT)
    assert done.code == 1 and "2 of 2 jobs failed" in done.output, done.output
    told = [(tmp_path / f"sweep/{job}/error.txt").read_text() for job in (0, 1)]
    assert "sweep/0 has none before it" in told[0] and "sweep/0/checkpoints/last is not there" in told[1]
