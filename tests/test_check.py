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
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert list(report["sources"]) == ["train/train"] and report["findings"] == []
    assert "[i]plate" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


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


def test_a_damaged_photo_is_found_when_pixels_are_read_and_a_wrong_size_without(check, tmp_path):
    write(tmp_path / "val.jsonl", {**GOOD, "width": 61}, {**GOOD, "images": ["cut.png"]})
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    done, _ = check("data.val=val.jsonl")
    assert done.returncode == 1 and "val.jsonl:1: width, height say 61x40" in done.stdout
    assert "val.jsonl:2" not in done.stdout
    (tmp_path / "run").rename(tmp_path / "first")
    done, imported = check("data.val=val.jsonl", "decode=true")
    assert "val.jsonl:2: images[0] (" in done.stdout and "is damaged" in done.stdout
    assert not imported & HEAVY


def test_repairs_go_into_a_copy_that_passes(check, tmp_path):
    inverted = {**GOOD, "objects": [{"bbox_2d": [30, 20, 1, 2], "desc": "plate"}]}
    write(tmp_path / "val.jsonl", GOOD, inverted)
    done, _ = check("data.val=val.jsonl", "fix=true")
    assert done.returncode == 1 and "repair: val.jsonl:2: objects[0].bbox_2d [30, 20, 1, 2] is now" in done.stdout
    (tmp_path / "run").rename(tmp_path / "first")
    done, _ = check("data.val=first/val.fixed.jsonl")
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "val.jsonl").read_text().splitlines()[1]) == inverted


def test_groups_of_both_splits_and_lengths_are_told_without_torch(check, tmp_path):
    write(tmp_path / "train.jsonl", {**GOOD, "metadata": {"board": 7}})
    write(tmp_path / "val.jsonl", {**GOOD, "metadata": {"board": 7}})
    arguments = ("data.train=train.jsonl", "data.val=val.jsonl", "model=tiny", "global_max_length=40")
    done, imported = check(*arguments, "group_by=board", "workers=1")
    assert not imported & HEAVY
    assert "warning: val.jsonl:1: board group 7 is in 1 record here" in done.stdout
    assert "train.jsonl:1: has " in done.stdout and "the limit is 40" in done.stdout and done.returncode == 1
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert report["sources"]["val/val"]["tokens"]["above_limit"] == 1
    (tmp_path / "run").rename(tmp_path / "first")
    done, _ = check(*arguments[:2], "group_by='path:(.)'")
    assert "group a is in 1 record here" in done.stdout, done.stderr


def test_the_demo_is_without_problems(check, tmp_path):
    done, imported = check("data=demo", "decode=true")
    assert done.returncode == 0, done.stdout
    assert not imported & HEAVY
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    records = {name: source["records"] for name, source in report["sources"].items()}
    assert records == {"train/zh": 352, "train/en": 148, "val/zh": 72, "val/en": 28}
    assert report["counts"]["error"] == report["counts"]["warning"] == 0, report["codes"]


def test_nothing_to_check_is_an_error_that_says_what_to_add(check):
    done, _ = check()
    assert done.returncode == 2 and "nothing to check; add data.train=F.jsonl" in done.stderr
