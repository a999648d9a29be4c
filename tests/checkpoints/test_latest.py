"""stage.init_from=latest and previous find the checkpoint of a lower stage that a run starts from."""

import os
from pathlib import Path

import pytest

from qcvl.checkpoints.contract import Base, Contract, write_contract
from qcvl.checkpoints.folder import link, write_checkpoint
from qcvl.checkpoints.latest import find_latest, find_previous
from qcvl.errors import CheckpointError


def finish(root: Path, job: str, *, stage: int, base: str = "same", at: int = 0) -> Path:
    """A finished run whose ``last`` was completed at second ``at``."""
    contract = Contract(
        version=1, stage=stage, min_pixels=1, max_pixels=2, patch_factor=32, resample="bicubic", exif=True,
        emit_norm="norm1000", answer_format={}, prompts={}, order="reference", pairing=None, tuner={},
        base=Base(path=f"/models/{base}", model_type="qwen3_vl", fingerprint=base, context_factor=1.0),
    )  # fmt: skip
    folder = write_checkpoint(root / job / "checkpoints" / "step-5", lambda path: write_contract(contract, path))
    link(folder.parent / "last", folder)
    os.utime(folder / "manifest.json", (at, at))
    return folder


def latest(root: Path, below: int = 2) -> Path:
    return find_latest(root, below_stage=below, base_fingerprint="same")


def test_it_is_the_newest_of_a_lower_stage(tmp_path):
    finish(tmp_path, "train/2024-01-01/10-00-00", stage=1, at=100)
    newest = finish(tmp_path, "train/2024-01-02/10-00-00", stage=1, at=300)
    finish(tmp_path, "other/0", stage=1, at=200)
    finish(tmp_path, "later", stage=2, at=400)
    assert latest(tmp_path) == newest.resolve()


def test_a_stage_three_may_start_from_stage_two_or_one(tmp_path):
    finish(tmp_path, "a", stage=1, at=100)
    second = finish(tmp_path, "b", stage=2, at=200)
    assert latest(tmp_path, below=3) == second.resolve()


def test_another_base_and_a_damaged_folder_are_passed_over(tmp_path):
    good = finish(tmp_path, "a", stage=1, at=100)
    finish(tmp_path, "b", stage=1, base="other", at=200)
    broken = finish(tmp_path, "c", stage=1, at=300)
    contract = broken / "qcvl.json"
    contract.write_text(contract.read_text() + "\n")
    assert latest(tmp_path) == good.resolve()


def test_without_one_the_error_says_why_each_was_passed_over(tmp_path):
    finish(tmp_path, "a", stage=2)
    finish(tmp_path, "b", stage=1, base="other")
    (tmp_path / "c" / "checkpoints" / "last").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        latest(tmp_path)
    for reason in ("is of stage 2", "has another base, /models/other", "qcvl.json: missing", "stage.init_from=PATH"):
        assert reason in str(caught.value)


def test_an_empty_or_absent_outputs_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoints/last under .*nowhere"):
        latest(tmp_path / "nowhere")


def test_the_previous_job_of_a_sweep_is_the_one_before_and_stage_one_starts_from_the_base(tmp_path):
    finish(tmp_path, "0", stage=1)
    one = finish(tmp_path, "9", stage=1)
    assert find_previous(tmp_path / "10", stage=2) == one.resolve()
    assert find_previous(tmp_path / "10", stage=1) is None
    assert find_previous(tmp_path / "22-10-03", stage=1) is None


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("0", "has none before it; use experiment=two_stage"),
        ("2024-01-01", "has none before it"),
        ("3", "2/checkpoints/last is not there; the job before this one failed or is not done"),
        ("2", "1/checkpoints/last is of stage 2, expected one below 2; let stage be what the sweep varies last"),
    ],
)
def test_a_job_without_a_sound_one_before_it_is_refused(tmp_path, folder, told):
    finish(tmp_path, "1", stage=2)
    with pytest.raises(CheckpointError, match=told):
        find_previous(tmp_path / folder, stage=2)


def test_a_damaged_checkpoint_of_the_job_before_is_refused(tmp_path):
    broken = finish(tmp_path, "0", stage=1)
    (broken / "qcvl.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"qcvl\.json"):
        find_previous(tmp_path / "1", stage=2)
