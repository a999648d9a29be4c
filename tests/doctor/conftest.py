"""What the doctor's tests share: a folder with a photo, data sets written into it, and a check of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import settings
from PIL import Image

from qcvl import config
from qcvl.data.settings import Data
from qcvl.data.sources import JsonlSource
from qcvl.doctor.survey import Survey, check_data

# Hypothesis without a time limit per example: a busy machine is no failure.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the photo ``a.png`` of one colour, 60 px wide and 40 high."""
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def write(folder):
    """``write(row, …, name="train.jsonl")``: a JSONL source of these lines (objects, or texts as they are)."""

    def make(*rows, name="train.jsonl", task=None) -> JsonlSource:
        text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        (folder / name).write_text(text, encoding="utf-8")
        return JsonlSource(path=str(folder / name), repeat=1, task=task, prompts=None)

    return make


def data_of(**changes) -> Data:
    """``data=jsonl`` with these changes."""
    values = yaml.safe_load((config.CONF_DIR / "data/jsonl.yaml").read_text(encoding="utf-8"))
    return Data(**{key: value for key, value in values.items() if key != "_target_"} | changes)


def survey_of(**changes) -> Survey:
    """A thorough check without pixels, lengths and repairs, in one process."""
    values = {"decode": False, "copies": True, "lengths": None, "fix": False, "group_by": None, "draw": True}
    return Survey(**values | {"workers": 1, "patience_s": 0.0, "folder": None} | changes)


@pytest.fixture
def check(write, folder):
    """``check(row, …, val=[row], sampling="dense", decode=True)``: the report of these training lines."""

    def run(*rows, val=(), sampling="dense", **survey):
        train = {"train": write(*rows)} if rows else None
        held = {"val": write(*val, name="val.jsonl")} if val else None
        return check_data(data_of(train=train, val=held, sampling=sampling), survey_of(**survey))

    run.data_of, run.survey_of = data_of, survey_of
    return run


@pytest.fixture
def codes(folder):
    """``codes(report)``: ``(line, code, field)`` of each finding, in order."""
    return lambda report: [(finding.line, finding.code, finding.field) for finding in report.findings]
