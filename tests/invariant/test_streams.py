"""Streams as users start them: the start looks at the first block alone, and a killed run goes on exactly."""

import json

import pytest

from tests.invariant.conftest import metrics, rows
from tests.invariant.test_resume import kill_past_step


@pytest.fixture
def streamed(small_run, photos, tmp_path) -> tuple[str, ...]:
    """Settings of a run on two shards, in blocks of seven records."""
    lines = (photos / "train.jsonl").read_text().splitlines()
    (tmp_path / "shards").mkdir()
    for number in (0, 1):
        part = [json.loads(line) for line in lines[12 * number : 12 * number + 12]]
        for row in part:
            row["images"] = [str(photos / image) for image in row["images"]]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (tmp_path / f"shards/part-{number}.jsonl").write_text(text)
    return (*small_run, f"data.train={tmp_path}/shards/*.jsonl", "data.shuffle_buffer=7")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_on_streams_goes_on_with_the_losses_of_an_uninterrupted_one(command, streamed, tmp_path):
    whole = tmp_path / "whole"
    done = command("train", *streamed, f"hydra.run.dir={whole}")
    assert done.code == 0, done.output
    environment = json.loads((whole / "environment.json").read_text())
    assert len(environment["data"]["train/train"]) == 8  # of the shards' names and sizes, not of their contents
    run = kill_past_step(4, command, tmp_path / "run", *streamed)
    done = command("train", *streamed, "data.num_workers=1", "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert rows(run) == rows(whole)
    assert metrics(run) == metrics(whole)


def test_a_stream_without_an_end_is_refused_at_once(command, streamed):
    endless = [setting for setting in streamed if not setting.startswith("trainer.max_steps")]
    error = command("train", *endless, "trainer.max_steps=-1").error()
    assert error.startswith("trainer.max_steps: data.shuffle_buffer reads streams, which have no end")
