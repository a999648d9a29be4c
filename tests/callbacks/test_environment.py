"""``environment.json``: versions, the commit and what the data were."""

import hashlib
import json
import subprocess

import torch

from qcvl.callbacks.environment import write_environment
from qcvl.data.sources import SceneSource

SCENES = {"count": 4, "seed": 0, "domain": "demo", "language": "en", "repeat": 1, "task": None, "prompts": None}


def test_the_file_names_versions_and_fingerprints_of_the_data(make_datamodule, make_data, scenes, tmp_path):
    train = {"zh": make_data.source("zh.jsonl"), "drawn": SceneSource(**SCENES)}
    write_environment(tmp_path / "run", make_datamodule(data=make_data(train=train)))
    found = json.loads((tmp_path / "run/environment.json").read_text())
    assert found["packages"]["torch"] == torch.__version__ and found["python"].startswith("3.")
    wanted = {"train/zh": "zh.jsonl", "val/val": "en.jsonl"}
    assert found["data"] == {
        name: hashlib.sha256((scenes / file).read_bytes()).hexdigest() for name, file in wanted.items()
    }


def test_the_commit_is_that_of_the_working_directory_or_nothing(make_datamodule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    datamodule = make_datamodule()
    write_environment(tmp_path / "before", datamodule)
    assert json.loads((tmp_path / "before/environment.json").read_text())["git_commit"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    write_environment(tmp_path / "after", datamodule)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert json.loads((tmp_path / "after/environment.json").read_text())["git_commit"] == head


def test_neither_keys_nor_tokens_get_into_the_file(make_datamodule, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "sesame")
    write_environment(tmp_path, make_datamodule())
    assert "sesame" not in (tmp_path / "environment.json").read_text()
