"""Sweeps from the command line to their table, with a task that takes no time in place of training."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from qcvl import config
from qcvl.composition.own_process import headline, job_arguments, job_name
from qcvl.composition.rules import search_follows_the_monitor
from qcvl.composition.run_guard import require_installed
from qcvl.errors import ConfigError
from tests.conf.conftest import CHECKOUT

# Its loss is the distance of the rank from 20; seed 7 fails, seed 8 is killed as by a lack of memory.
TASK = """
import json, os, signal, sys
from pathlib import Path
from qcvl.config import run
def task(cfg):
    print("ran", cfg.seed, cfg.tuner.rank, *sys.argv[1:])
    if cfg.seed == 7:
        raise RuntimeError("boom\\nand its second line")
    if cfg.seed == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    values = {{"eval/loss": float(abs(cfg.tuner.rank - 20)), "group": os.environ.get("WANDB_RUN_GROUP")}}
    values["name"] = os.environ.get("WANDB_NAME")
    (Path(cfg.paths.output_dir) / "metrics.json").write_text(json.dumps({{"final": values}}))
    return values["eval/loss"]
run({root!r}, task)
"""
FAILING = ("seed=7,8,-1,9", "hydra.sweep.dir=sweep")
REASONS = {
    "0": "RuntimeError: boom",
    "1": "killed by SIGKILL: out of memory, or from outside",
    "2": "seed: should be greater than or equal to 0, found -1",
    "3": "",
}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_jobs_that_fail_leave_the_others_to_finish_and_the_sweep_says_which(command):
    done = command("train", "-m", *FAILING, entry=TASK)
    sweep = command.workplace / "sweep"
    assert done.returncode == 1, done.stderr
    assert {row["run"]: row["error"] for row in rows_of(sweep)} == REASONS
    assert [row["state"] for row in rows_of(sweep)] == ["failed", "failed", "failed", "finished"]
    assert "error: 3 of 4 jobs failed; error.txt says why in sweep/0, sweep/1, sweep/2" in done.stderr.splitlines()
    assert "and its second line" in (sweep / "0/error.txt").read_text()  # the whole traceback
    assert not (sweep / "3/error.txt").exists() and (sweep / "runs.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]])
def test_other_launchers_start_the_same_jobs_and_survive_the_same_failures(command, launcher):
    done = command("train", "-m", *FAILING, f"hydra/launcher={launcher[0]}", *launcher[1:], entry=TASK)
    assert done.returncode == 1, done.stderr
    assert {row["run"]: row["error"] for row in rows_of(command.workplace / "sweep")} == REASONS


@pytest.mark.slow
def test_a_sweep_runs_every_combination_in_a_directory_of_its_own(command):
    done = command("train", "-m", "stage=1,2", "tuner=lora,full", "~callbacks.progress", "hydra.sweep.dir=sweep")
    assert done.returncode == 0 and done.stdout.count("ran train") == 4, done.stderr
    saved = [yaml.safe_load((command.workplace / f"sweep/{job}/config.yaml").read_text()) for job in range(4)]
    assert [(s["stage"]["number"], s["tuner"]["_target_"].rpartition(".")[2]) for s in saved] == [
        (1, "PeftTuner"),
        (1, "FullTuner"),
        (2, "PeftTuner"),
        (2, "FullTuner"),
    ]
    assert saved[3]["paths"]["output_dir"] == str(command.workplace / "sweep/3")
    assert "progress" not in saved[3]["callbacks"]
    overrides = yaml.safe_load((command.workplace / "sweep/3/.hydra/overrides.yaml").read_text())
    assert overrides[:2] == ['stage="2"', "tuner=full"]


def test_a_job_is_a_run_of_its_own_also_over_several_devices(command):
    done = command("train", "-m", "seed=1", "trainer.devices=2", "hydra.sweep.dir=sweep", entry=TASK)
    assert done.returncode == 0, done.stderr
    (arguments,) = [line.split()[3:] for line in done.stdout.splitlines() if line.startswith("ran ")]
    assert "hydra.mode=RUN" in arguments and "-m" not in arguments  # what Lightning repeats to start further ranks
    assert f"hydra.run.dir='{command.workplace}/sweep/0'" in arguments


@pytest.mark.parametrize(("root", "setting"), [("train", "trainer.devices"), ("evaluate", "devices")])
def test_jobs_side_by_side_over_several_devices_are_refused_before_the_first_one(command, root, setting):
    devices = (f"{setting}=2", "hydra/launcher=joblib")
    done = command(root, "-m", "seed=1,2", *devices, "hydra.sweep.dir=sweep", entry=TASK)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {setting}: 2 devices in each job of a sweep")
    assert not (command.workplace / "sweep").exists()


@pytest.mark.slow
def test_optuna_finds_the_best_value_and_the_table_marks_the_same_run(command):
    search = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler.seed=3",
    )
    done = command("train", "-m", *search, "tuner.rank=range(4,40)", "seed=7,9", "hydra.sweep.dir=sweep", entry=TASK)
    sweep = command.workplace / "sweep"
    rows = rows_of(sweep)
    assert len(rows) == 5 and {row["state"] for row in rows} == {"failed", "finished"}, done.stderr
    assert done.returncode == 1
    scored = [row for row in rows if row["eval/loss"]]
    best = min(scored, key=lambda row: float(row["eval/loss"]))
    assert all(float(row["eval/loss"]) == abs(int(row["tuner.rank"]) - 20) for row in scored)
    assert [row["run"] for row in rows if row["best"]] == [best["run"]]
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert found["best_value"] == float(best["eval/loss"])
    assert str(found["best_params"]["++tuner.rank"]) == best["tuner.rank"]


@pytest.mark.slow
def test_a_search_whose_jobs_all_fail_ends_with_their_reasons(command):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep")
    done = command("train", "-m", *search, "tuner.rank=range(4,40)", "seed=7", entry=TASK)
    assert done.returncode == 1
    assert "error: 2 of 2 jobs failed; error.txt says why in sweep/0, sweep/1" in done.stderr.splitlines()


def test_a_search_in_the_wrong_direction_is_refused_before_it_starts(command):
    monitor = ("callbacks.checkpoint.monitor=eval/val/dense_f1@0.5", "callbacks.checkpoint.mode=max")
    done = command("train", "hparams_search=tiny_optuna", *monitor, "hydra.sweep.dir=sweep", entry=TASK)
    assert done.returncode == 2 and "ran" not in done.stdout
    assert done.stderr.splitlines() == [
        "error: hydra.sweeper.direction: minimize, but of eval/val/dense_f1@0.5 the maximum is best "
        "(callbacks.checkpoint.mode); add hydra.sweeper.direction=maximize"
    ]
    assert not (command.workplace / "sweep").exists()


@pytest.mark.parametrize(
    ("direction", "mode", "refused"),
    [("minimize", "min", False), ("maximize", "max", False), ("maximize", "min", True), (None, "max", False)],
)
def test_a_search_goes_where_the_checkpoint_monitor_goes(direction, mode, refused):
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"sweeper": {"direction": direction}}})
    try:
        cfg = OmegaConf.create({"callbacks": {"checkpoint": {"mode": mode, "monitor": "eval/loss"}}})
        assert (search_follows_the_monitor(cfg) is not None) == refused
    finally:
        HydraConfig.instance().cfg = None


def test_a_launcher_whose_package_is_absent_says_what_to_install():
    with pytest.raises(ConfigError, match=r"hydra/launcher: hydra_plugins.absent is not installed; run pip install"):
        require_installed("launcher", "hydra_plugins.absent.launcher.Launcher")
    require_installed("launcher", "hydra._internal.core_plugins.basic_launcher.BasicLauncher")


def test_a_search_example_names_its_command_and_what_it_varies_are_settings():
    for path in sorted((config.CONF_DIR / "hparams_search").glob("*.yaml")):
        text = path.read_text()
        assert f"# python -m qcvl.train -m hparams_search={path.stem}: " in text.splitlines()[1]
        for key in yaml.safe_load(text)["hydra"]["sweeper"]["params"]:
            assert OmegaConf.select(config.load("train", [f"hparams_search={path.stem}"]), key) is not None


@pytest.mark.slow
@pytest.mark.parametrize(("search", "jobs", "varied"), [
    ("tiny_grid", 4, {"tuner", "stage.rates.adapter"}),
    ("tiny_optuna", 3, {"tuner.rank", "stage.rates.adapter"}),
])  # fmt: skip
def test_a_search_example_starts_its_jobs_without_further_words(command, search, jobs, varied):
    trials = ["hydra.sweeper.n_trials=3"] if search == "tiny_optuna" else []
    task = TASK.replace("cfg.tuner.rank", "cfg.tuner.get('rank', 1)")
    done = command("train", f"hparams_search={search}", *trials, "hydra.sweep.dir=sweep", entry=task)
    assert done.returncode == 0, done.stderr
    rows = rows_of(command.workplace / "sweep")
    assert len(rows) == jobs and varied <= rows[0].keys()
    assert {row["group"] for row in rows} == {repr("sweep")}
    assert all(key in row["name"] for key in varied for row in rows)


@pytest.mark.slow
def test_slurm_gets_the_jobs_of_a_sweep_as_one_array(tmp_path):
    for name, answer in (("sbatch", "Submitted batch job 42"), ("srun", ""), ("sacct", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "train.py").write_text(TASK.format(root="train"))
    process = subprocess.Popen(
        [sys.executable, "train.py", "-m", "seed=1,2", "hydra/launcher=slurm", "hydra.launcher.partition=big"]
        + ["hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (written := list(tmp_path.glob("sweep/.submitit/42*/42*_submission.sh"))):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.kill()  # it would wait for a cluster that is not there
        process.wait()
    asked = {line for line in written[0].read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"#SBATCH --array=0-1%2", "#SBATCH --partition=big", "#SBATCH --time=1440", "#SBATCH --mem=64GB"} <= asked
    assert {"#SBATCH --gpus-per-node=1", "#SBATCH --ntasks-per-node=1", "#SBATCH --job-name=qcvl-train"} <= asked


def test_a_name_says_what_a_job_has_that_others_have_not():
    swept = ["stage=1,2", "++tuner.rank=4,8", "seed=3", "data.train=a.jsonl", "~callbacks.progress"]
    own = ['stage="2"', "++tuner.rank=8", "seed=3", "data.train=a.jsonl", "~callbacks.progress="]
    assert job_name(own, swept) == "stage=2 tuner.rank=8"
    assert job_name(["seed=3"], ["seed=3"]) == ""
    assert job_name(["a.b=0.1"], ["a.b=tag(log, interval(0.1, 1))"]) == "a.b=0.1"


def test_a_job_gets_all_of_the_sweeps_command_but_what_makes_it_a_sweep():
    hydra = {
        "overrides": {
            "task": ["seed=2", "tuner=full"],
            "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.verbose=true",
                      "hydra.sweep.dir=it's", "hydra.sweeper.params={a: 1}", "hydra.searchpath=[file:///x]"],
        },
        "runtime": {"output_dir": "/x/it's/3"},
        "sweep": {"dir": "/x/it's"},
        "job": {"num": 3},
    }  # fmt: skip
    assert job_arguments(OmegaConf.create(hydra)) == [
        "seed=2",
        "tuner=full",
        "hydra.verbose=true",
        "hydra.searchpath=[file:///x]",
        "hydra.mode=RUN",
        "hydra.run.dir='/x/it\\'s/3'",
        "hydra.sweep.dir='/x/it\\'s'",
        "hydra.job.num=3",
    ]


@pytest.mark.parametrize(
    ("code", "told", "line"),
    [
        (-9, [], "killed by SIGKILL: out of memory, or from outside"),
        (-11, ["x"], "killed by SIGSEGV"),
        (1, ["note", "error: data.train: no such file", "later words"], "data.train: no such file"),
        (1, ["Traceback (most recent call last):", "  File x", "ValueError: first", "second"], "ValueError: first"),
        (3, ["nothing told"], "ended with 3"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(code, told, line):
    assert headline(code, told) == line


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_end_takes_its_job_along(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("""
import os, time
from qcvl.config import run
def task(cfg):
    print("job", os.getpid(), flush=True)
    time.sleep(120)
run("train", task)
""")
    process = subprocess.Popen(
        [sys.executable, str(script), "-m", "seed=1,2", "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    job = next(int(line.split()[1]) for line in process.stdout if line.startswith("job "))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    for _ in range(100):
        if not Path(f"/proc/{job}").exists():
            break
        time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(job, 0)
    assert not (tmp_path / "sweep/1").exists()
