"""Real answers of Qwen models, each read by hand: what the parsers make of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from qcvl.schema import parse_answer, parse_verdict

OUTPUTS = Path(__file__).parents[3] / "shared" / "data" / "model_outputs.jsonl"
SIZE = (1000, 1000)

# id: (status, objects kept), by reading the text; every id that is not here holds no JSON object with a geometry.
READ_BY_HAND = {
    "shr-001": ("repaired", 9),  # fence and a stray brace; objects whole, names instead of a label
    "shr-002": ("repaired", 1),  # a tool call in prose
    "shr-003": ("repaired", 1),
    "shr-004": ("repaired", 1),
    "shr-006": ("repaired", 9),  # {"objects": [...]}, valid JSON
    "shr-007": ("truncated", 0),  # four objects in one dict that never closes
    "shr-008": ("truncated", 5),  # the sixth is cut in its text_content
    "shr-012": ("repaired", 1),  # <think>, then <answer>
    "shr-013": ("repaired", 1),  # single quotes
    "shr-014": ("truncated", 0),  # a thought that never ends
    "shr-018": ("repaired", 1),
    "shr-022": ("repaired", 7),
    "shr-024": ("repaired", 6),
    "shr-028": ("repaired", 4),
    "shr-032": ("repaired", 1),  # full-width punctuation
    "shr-033": ("repaired", 1),  # trailing comma
    "shr-034": ("repaired", 2),  # a lone closing fence
    "shr-035": ("repaired", 2),  # no opening bracket
    "shr-036": ("repaired", 2),  # a second, empty answer behind the first
    "shr-037": ("repaired", 1),  # the line has five numbers
}


@pytest.fixture(scope="module")
def outputs():
    if not OUTPUTS.is_file():
        pytest.skip(f"{OUTPUTS} is not here: the real model outputs travel beside the checkout")
    return [json.loads(line) for line in OUTPUTS.read_text(encoding="utf-8").splitlines()]


def test_real_answers_have_the_status_a_reader_gives_them(outputs):
    found = {row["id"]: parse_answer(row["text"], SIZE) for row in outputs}
    assert len(found) == 45
    assert {key: (answer.status, len(answer.annotations)) for key, answer in found.items()} == {
        key: READ_BY_HAND.get(key, ("failed", 0)) for key in found
    }


def test_every_box_read_is_one_the_text_holds(outputs):
    for row in outputs:
        lists = re.findall(r"\[([^\[\]]*)", row["text"])
        written = [[float(number) for number in re.findall(r"\d+", numbers)] for numbers in lists]
        for item in parse_answer(row["text"], SIZE).annotations:
            assert item.shape.points.ravel().tolist() in written


def test_the_same_answers_read_the_same_in_another_size(outputs):
    for row in outputs:
        small, large = (parse_answer(row["text"], size) for size in [(1000, 1000), (2000, 500)])
        for one, other in zip(small.annotations, large.annotations, strict=True):
            np.testing.assert_allclose(one.shape.points * [2, 0.5], other.shape.points)


def test_real_verdicts_are_read_as_labelled(outputs):
    rows = [row for row in outputs if "verdict" in row]
    expected = {row["id"]: None if row["verdict"] == "undecidable" else row["verdict"] for row in rows}
    assert len(rows) == 7
    assert {row["id"]: parse_verdict(row["text"]).verdict for row in rows} == expected
