"""Conversations as users bring them: converted from another tool's file, checked, mixed with photos, trained."""

import json

import pytest

from tests.invariant.conftest import metrics, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def talk(photos, tmp_path):
    """A ShareGPT file about the photos: 8 samples, every other one of text alone."""
    images = [json.loads(line)["images"][0] for line in (photos / "train.jsonl").read_text().splitlines()][:8]
    samples = [
        {
            "conversations": [
                {"from": "human", "value": f"{'<image>' * (n % 2)}What is number {n}?"},
                {"from": "gpt", "value": f"a part, {n} of 8"},
                {"from": "human", "value": "Is it whole?"},
                {"from": "gpt", "value": "yes"},
            ],
            **({"images": [str(photos / images[n])]} if n % 2 else {}),
        }
        for n in range(8)
    ]
    (tmp_path / "talk.json").write_text(json.dumps(samples))
    return tmp_path / "talk.json"


def test_a_file_of_another_tool_becomes_a_source_that_trains_beside_photos(command, small_run, talk, tmp_path):
    done = command("convert", "format=sharegpt", f"input={talk}", "output=talk.jsonl")
    assert done.code == 0 and "8 records" in done.output, done.output
    path = tmp_path / "talk.jsonl"
    done = command("check", f"data.train={path}", "decode=true")
    assert done.code == 0, done.output
    train = next(setting.removeprefix("data.train=") for setting in small_run if setting.startswith("data.train="))
    val = next(setting.removeprefix("data.val=") for setting in small_run if setting.startswith("data.val="))
    sources = (f"data.train={{photos: {train}, talk: {path}}}", f"data.val={{photos: {val}, talk: {path}}}")
    kept = [setting for setting in small_run if not setting.startswith(("data.train=", "data.val="))]
    done = command("train", *kept, *sources, "stage=2", "tuner=lora", "hydra.run.dir=run")
    assert done.code == 0, done.output
    found = rows(tmp_path / "run")
    assert len([row for row in found if "train/loss" in row]) == 9
    final = metrics(tmp_path / "run")["final"]
    assert final["eval/talk/loss"] < metrics(tmp_path / "run")["initial"]["eval/talk/loss"]
    assert final.keys() >= {"eval/loss", "eval/photos/loss", "eval/photos/dense_f1@0.5"}
    assert not [key for key in final if key.startswith("eval/talk/dense")]
    audit = (tmp_path / "run/label_audit.txt").read_text()
    assert "(chat)" in audit and "⟦yes<|im_end|>⟧" in audit


def test_a_run_on_conversations_alone_needs_no_setting(command, small_run, talk, tmp_path):
    assert command("convert", "format=sharegpt", f"input={talk}", "output=talk.jsonl").code == 0
    kept = [setting for setting in small_run if not setting.startswith(("data.train=", "data.val=", "data.sampling="))]
    path = tmp_path / "talk.jsonl"
    done = command("train", *kept, f"data.train={path}", f"data.val={path}", "hydra.run.dir=run")
    assert done.code == 0, done.output
    loss = [metrics(tmp_path / "run")[name]["eval/loss"] for name in ("initial", "final")]
    assert loss[1] < loss[0]
    error = command("evaluate", "checkpoint=run/checkpoints/last", "data=jsonl", f"data.val={path}").error()
    assert error.startswith("data.val holds conversations alone, whose answers have no score")
