"""Training on streams: a run that is stopped and goes on, also with other workers, is one that was never stopped."""

import json

import pytest
import torch

from qcvl.callbacks.bad_samples import BadSamples
from qcvl.data.course import Course
from qcvl.errors import ConfigError, DataError
from tests.callbacks.conftest import QUIET
from tests.callbacks.test_resume import SAVING, Kill, Killed, rows, weights

pytestmark = QUIET


@pytest.fixture
def train(start_run, make_module, lora, scenes, tmp_path):
    """``train(name, …)``: six steps of two micro-batches of two, from two shards of four records in blocks of five."""
    lines = (scenes / "en.jsonl").read_text().splitlines()
    (tmp_path / "shards").mkdir(exist_ok=True)
    for number in (0, 1):
        part = [json.loads(line) for line in lines[4 * number : 4 * number + 4]]
        for row in part:
            row["images"] = [str(scenes / image) for image in row["images"]]
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"shards/part-{number}.jsonl").write_text(text)

    def run(name, data=None, **changes):
        source = {"train": str(tmp_path / "shards"), "shuffle_buffer": 5} | (data or {})
        values = {"limit": None, "batch_size": 2, "accumulate_grad_batches": 2, "max_epochs": 3, "max_steps": 6}
        module = make_module(tuner=lora(dropout=0.3), rate=1e-2)
        return start_run(name, module=module, data=source, checkpoint=SAVING, **values | changes)

    return run


@pytest.mark.parametrize(("killed", "before", "after"), [(1, 1, 0), (4, 0, 1)])
def test_a_resumed_run_has_the_losses_and_weights_of_one_that_was_never_stopped(train, tmp_path, killed, before, after):
    straight = train("straight")
    assert straight.global_step == 6 and straight.train_dataloader.course == Course(6, 6)
    with pytest.raises(Killed):
        train("stopped", callbacks=[Kill(killed)], num_workers=before)
    resumed = train("stopped", resume=tmp_path / f"stopped/checkpoints/step-{killed}", num_workers=after)
    assert resumed.global_step == 6
    assert rows(tmp_path / "stopped") == rows(tmp_path / "straight")
    assert len({row["train/loss"] for row in rows(tmp_path / "straight") if "train/loss" in row}) == 6
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_a_finished_run_goes_on_where_its_streams_were(train, tmp_path):
    train("short", max_steps=5)
    resumed = train("short", max_steps=8, resume=tmp_path / "short/checkpoints/step-5")
    assert resumed.global_step == 8
    assert resumed.train_dataloader.state_dict() == train("straight", max_steps=8).train_dataloader.state_dict()


def test_validation_comes_by_batches_or_by_shares_of_the_run(train, tmp_path):
    for name, interval in (("batches", 4), ("share", 1 / 3)):
        train(name, val_check_interval=interval)
        assert [row["step"] for row in rows(tmp_path / name) if "eval/loss" in row] == [1, 3, 5]


def test_a_run_without_an_end_is_refused(train):
    with pytest.raises(ConfigError, match="^trainer.max_steps: data.shuffle_buffer reads streams, which have no end"):
        train("endless", max_steps=-1)


def test_bad_records_are_counted_by_block(train, scenes, tmp_path):
    def run(name: str, fraction: float) -> BadSamples:
        bad = BadSamples(path=str(tmp_path / name / "bad_samples.jsonl"), max_fraction=fraction)
        train(name, callbacks=[bad], data={"max_bad_fraction": fraction})
        return bad

    run("good", 0.2)
    path = tmp_path / "shards/part-1.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], json.dumps(json.loads(lines[3]) | {"images": ["gone.png"]})]) + "\n")
    bad = run("some", 0.4)
    named = rows_of(tmp_path / "some/bad_samples.jsonl")
    assert bad.total == len(named) > 1 and {row["where"] for row in named} == {f"{path}:4"}
    with pytest.raises(DataError, match=r"1 of the 5 samples of block \d cannot be used, more than data.max_bad_fra"):
        run("none", 0.1)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
