import os
import subprocess
import sys

import yaml

from qcvl import config

DEEPPCB = ("format=deeppcb", "input=a", "output=b")


def test_the_configuration_is_printed_from_any_folder_without_importing_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qcvl.train", "--cfg", "job", "stage=1", "tuner.rank=4"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(config.CONF_DIR.parent)},
        capture_output=True,
        text=True,
    )
    printed = yaml.safe_load(done.stdout)
    assert (printed["stage"]["number"], printed["tuner"]["rank"]) == (1, 4)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported and not imported & {"torch", "transformers", "lightning", "peft"}
    assert list(tmp_path.iterdir()) == []


def test_the_resolved_configuration_can_be_printed_too(command):
    printed = yaml.safe_load(command("train", "--cfg", "job", "--resolve").stdout)
    assert printed["paths"]["checkpoints"].startswith("outputs/train/")


def test_a_run_keeps_its_resolved_settings_and_torch_comes_only_with_the_task(command):
    done = command("convert", *DEEPPCB, "hydra.run.dir=here")
    assert done.stdout.strip() == "ran convert False", done.stderr
    saved = yaml.safe_load((command.workplace / "here/config.yaml").read_text())
    assert saved["paths"]["output_dir"] == str(command.workplace / "here")
    assert saved["input"] == "a"
    assert (command.workplace / "here/.hydra/overrides.yaml").is_file()


def test_wrong_settings_end_with_2_a_list_of_problems_and_no_directory(command):
    done = command("convert", *DEEPPCB, "sede=1", "threads=no", "hydra.run.dir=here")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: 2 problems in the configuration",
        "  threads: should be a valid integer, unable to parse string as an integer, found 'no'",
        "  sede: unknown setting; did you mean seed?",
    ]
    assert not (command.workplace / "here").exists()


def test_hydras_own_complaints_come_without_a_traceback(command):
    done = command("train", "tuner=lorra")
    assert done.returncode == 2 and "Could not find 'tuner/lorra'" in done.stderr and "Traceback" not in done.stderr


def test_a_directory_that_holds_another_run_is_refused_and_left_as_it_was(command):
    here = command.workplace / "here"
    here.mkdir()
    (here / "metrics.json").write_text("{}")
    done = command("convert", *DEEPPCB, "hydra.run.dir=here")
    assert done.returncode == 2 and "ran" not in done.stdout
    assert done.stderr.startswith("error: hydra.run.dir: here is not empty (it holds metrics.json); give an empty one")
    assert [path.name for path in here.iterdir()] == ["metrics.json"]
    done = command("convert", "-m", *DEEPPCB, "seed=1,2", "hydra.sweep.dir=here")
    assert done.returncode == 2 and "hydra.sweep.dir: here is not empty" in done.stderr


def test_an_empty_directory_and_another_rank_of_the_same_run_are_let_in(command):
    (command.workplace / "here").mkdir()
    assert command("convert", *DEEPPCB, "hydra.run.dir=here").returncode == 0
    second = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    again = command("convert", *DEEPPCB, "hydra.run.dir=here", **second)
    assert again.returncode == 0, again.stderr
    (command.workplace / "here/metrics.json").write_text("{}")  # made once all ranks have met, so of another run
    done = command("convert", *DEEPPCB, "hydra.run.dir=here", **second)
    assert done.returncode == 2 and "error: hydra.run.dir: here is not empty" in done.stderr


def test_a_forged_config_yaml_of_another_run_is_never_instantiated(command):
    forged = command.workplace / "outputs/train/2020-01-01/00-00-00"
    forged.mkdir(parents=True)
    payload = {"model": {"_target_": "os.system", "command": "touch forged"}, "job": "train"}
    (forged / "config.yaml").write_text(yaml.safe_dump(payload))
    done = command("train", "resume=auto")
    assert "starting fresh" in done.stderr and "ran train" in done.stdout, done.stderr
    assert not (command.workplace / "forged").exists()
    done = command("train", "model._target_=os.system", "+model.command=touch forged")
    assert done.returncode == 2 and "model._target_: os.system is not allowed" in done.stderr
    assert not (command.workplace / "forged").exists()
