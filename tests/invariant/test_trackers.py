"""Every tracker gets the keys of ``logging.jsonl``, and the panels where it takes pictures, with no network."""

import csv
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.invariant.conftest import Command, rows

pytestmark = pytest.mark.slow


def test_csv_tensorboard_and_offline_wandb_get_the_same_keys(tmp_path: Path, small_run):
    run = tmp_path / "run"
    short = ("trainer.max_steps=2", "logger=[csv,tensorboard,wandb]", f"hydra.run.dir={run}")
    workers = ("data.num_workers=1", "augment.ops.color_jitter.p=1")  # W&B lets no forked process import albumentations
    done = Command(tmp_path)("train", *small_run, *short, *workers)
    assert done.code == 0, done.output
    keys = {key for row in rows(run) for key in row} - {"step", "epoch"}
    assert {"train/loss", "train/grad_norm/llm", "lr/llm", "eval/loss", "eval/val/dense_f1@0.5"} <= keys

    with (run / "csv" / "version_0" / "metrics.csv").open() as file:
        assert keys <= set(next(csv.reader(file)))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert keys <= set(events.Tags()["scalars"])
    (written,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/grad_norm/llm" in written.read_bytes() and b"eval/val/panels" in written.read_bytes()
    assert {"eval/val/panels", "eval/val/panels/val-0000"} == set(events.Tags()["images"])
    steps = [image.step for image in events.Images("eval/val/panels")]
    assert [f"step-{step}" for step in steps] == sorted(path.name for path in (run / "previews").glob("step-*"))
    assert (run / "previews/first_batch.png").is_file()
    assert (run / "label_audit.txt").read_text().startswith("Labels of the first 16 samples")
