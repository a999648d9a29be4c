"""Bad samples in a run: counted in the logs, named in a file, bounded, and counted on after a resume."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from qcvl.callbacks.bad_samples import BadSamples
from qcvl.data.handover import Part
from qcvl.errors import DataError
from tests.callbacks.conftest import QUIET
from tests.callbacks.test_resume import SAVING, Kill, Killed

pytestmark = QUIET


@pytest.fixture
def train(start_run, make_data, scenes, tmp_path):
    """``train(name, fraction=…)``: two epochs over the 8 samples of en, one a step, of which two cannot be read."""
    folder = tmp_path / "copy"
    shutil.copytree(scenes, folder)
    for number in (1, 4):
        (folder / f"en_{number}.png").write_bytes(b"no photo")

    def run(name, fraction=0.25, callbacks=(), **changes):
        bad = BadSamples(path=str(tmp_path / name / "bad_samples.jsonl"), max_fraction=fraction)
        source = {"en": make_data.source(str(folder / "en.jsonl"))}
        data = {"train": source, "max_bad_fraction": fraction, "sampling": "dense"}
        values = {"limit": None, "batch_size": 1, "max_epochs": 2, "checkpoint": SAVING, "data": data}
        start_run(name, callbacks=[bad, *callbacks], **values | changes)
        return bad

    return run


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_logs_count_and_the_file_names_what_was_left_out(train, logged, tmp_path):
    bad = train("run")
    assert bad.total == 4 and bad.in_epoch == 2
    counts = logged("data/bad_samples", tmp_path / "run")
    assert counts == sorted(counts) and counts[-1] == 4 and len(counts) == 16
    found = rows(tmp_path / "run/bad_samples.jsonl")
    assert [row["epoch"] for row in found] == [0, 0, 1, 1]
    for epoch in (found[:2], found[2:]):
        assert {row["where"].rpartition(":")[2] for row in epoch} == {"2", "5"}
    assert all("en.jsonl" in row["problem"] and row["step"] // 8 == row["epoch"] for row in found)
    losses = logged("train/sft_loss", tmp_path / "run")
    assert [step for step, loss in enumerate(losses) if loss == 0] == [row["step"] for row in found]


def test_a_run_stops_past_the_bound_of_an_epochs_samples(train, tmp_path):
    with pytest.raises(DataError, match=r"2 of the 8 samples of epoch 0 .*data.max_bad_fraction=0.2; .*bad_samples"):
        train("run", fraction=0.2)
    assert len(rows(tmp_path / "run/bad_samples.jsonl")) == 2


@pytest.mark.parametrize("killed", [3, 8, 11])
def test_a_resumed_run_counts_and_names_as_one_that_was_never_stopped(train, logged, tmp_path, killed):
    straight = train("straight")
    with pytest.raises(Killed):
        train("stopped", callbacks=[Kill(killed)])
    with (tmp_path / "stopped/bad_samples.jsonl").open("a") as file:
        file.write(json.dumps({"step": killed, "where": "of a step that was not saved"}) + "\n")
    resumed = train("stopped", resume=tmp_path / f"stopped/checkpoints/step-{killed}")
    assert resumed.state_dict() == straight.state_dict()
    files = [rows(tmp_path / name / "bad_samples.jsonl") for name in ("straight", "stopped")]
    assert files[0] == files[1]
    counts = [logged("data/bad_samples", tmp_path / name) for name in ("straight", "stopped")]
    assert counts[0] == counts[1]


def test_ranks_count_together_and_stop_at_the_same_step(tmp_path):
    ranks = [BadSamples(path=str(tmp_path / "bad_samples.jsonl"), max_fraction=0.2) for _ in range(2)]
    logs: list[dict] = [{}, {}]
    alone = {"device": "cpu", "global_rank": 0, "rows": SimpleNamespace(degree=1)}
    module = [SimpleNamespace(**alone, log=lambda k, v, own=own, **_: own.update({k: v})) for own in logs]
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: {"sum": torch.tensor(3)}[reduce_op])  # 2 here, 1 there
    here = {"global_step": 0, "current_epoch": 0, "world_size": 2, "strategy": strategy}
    trainer = SimpleNamespace(**here, train_dataloader=SimpleNamespace(part=Part("epoch", 0, 10)))
    for rank, (callback, count) in enumerate(zip(ranks, (2, 1), strict=True)):
        bad = [{"where": f"rank {rank}", "problem": "p"}] * count
        callback.on_train_batch_start(trainer, module[rank], {"bad": bad}, 0)
    trainer.global_step = 1
    for rank, callback in enumerate(ranks):
        with pytest.raises(DataError, match="3 of the 10 samples of epoch 0"):
            callback.on_train_batch_end(trainer, module[rank], None, {}, 0)
    assert logs == [{"data/bad_samples": 3.0}] * 2
    assert sorted(row["where"] for row in rows(tmp_path / "bad_samples.jsonl")) == ["rank 0", "rank 0", "rank 1"]
