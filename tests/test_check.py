import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from qcvl import config

HEAVY = {"torch", "transformers", "lightning", "peft", "albumentations"}


@pytest.fixture
def check(tmp_path):
    """``check("data.train=F")`` runs the command in an empty folder; gives the process and what it imported."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "qcvl.check", *arguments, "hydra.run.dir=run"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(config.CONF_DIR.parent)},
            capture_output=True,
            text=True,
        )
        errors = done.stderr.splitlines()
        imported = {line.rpartition("|")[2].strip() for line in errors if line.startswith("import time")}
        done.stderr = "\n".join(line for line in errors if not line.startswith("import time"))
        return done, imported

    return run


def write(path, *rows):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path.with_name("a.png"))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


GOOD = {"images": ["a.png"], "width": 60, "height": 40, "objects": [{"bbox_2d": [1, 2, 30, 20], "desc": "[i]plate"}]}


def test_one_good_file_ends_with_0_a_report_and_without_torch(check, tmp_path):
    write(tmp_path / "train.jsonl", GOOD, GOOD)
    done, imported = check("data.train=train.jsonl")
    assert done.returncode == 0, done.stderr
    assert "hydra" in imported and not imported & HEAVY
    assert "[i]plate" in done.stdout
    report = json.loads((tmp_path / "run/data_report.json").read_text(encoding="utf-8"))
    assert list(report["sources"]) == ["train/train"] and report["problems"] == []


def test_every_problem_is_a_line_of_its_own_and_the_exit_code_is_1(check, tmp_path):
    write(tmp_path / "train.jsonl", GOOD, {**GOOD, "images": ["b.png"]})
    write(tmp_path / "val.jsonl", {**GOOD, "objects": [{"quad": [1, 2, 3], "desc": "[x]"}, {"desc": "y"}]})
    done, _ = check("data.train=train.jsonl", "data.val=val.jsonl")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("train.jsonl:", "val.jsonl:"))]
    assert [" ".join(line.split()[:2]) for line in lines] == [
        "train.jsonl:2: images[0]",
        "val.jsonl:1: objects[0].quad",
        "val.jsonl:1: objects[1]",
    ]
    assert done.stderr.splitlines()[-1].startswith("error: 3 problems in the data")


def test_a_wrong_size_is_found_only_when_photos_are_decoded(check, tmp_path):
    write(tmp_path / "val.jsonl", {**GOOD, "width": 61})
    assert check("data.val=val.jsonl")[0].returncode == 0
    (tmp_path / "run").rename(tmp_path / "first")
    done, imported = check("data.val=val.jsonl", "decode=true")
    assert done.returncode == 1 and "val.jsonl:1: width, height say 61x40" in done.stdout
    assert not imported & HEAVY


def test_the_demo_is_without_problems(check, tmp_path):
    done, imported = check("data=demo", "decode=true")
    assert done.returncode == 0, done.stdout
    assert not imported & HEAVY
    report = json.loads((tmp_path / "run/data_report.json").read_text(encoding="utf-8"))
    records = {name: source["records"] for name, source in report["sources"].items()}
    assert records == {"train/zh": 352, "train/en": 148, "val/zh": 72, "val/en": 28}
    assert report["warnings"] == []


def test_nothing_to_check_is_an_error_that_says_what_to_add(check):
    done, _ = check()
    assert done.returncode == 2 and "nothing to check; add data.train=F.jsonl" in done.stderr
