"""Panels in the trackers: what an offline W&B run and a TensorBoard event file hold afterwards."""

import hashlib
import io
import json
import os
import time

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qcvl.callbacks.jsonl_logger import JsonlLogger
from qcvl.callbacks.pictures import COLUMNS, log_panels
from qcvl.data.datamodule import EvaluationItem
from qcvl.geometry.shapes import Shape
from qcvl.inference.evaluator import predict
from qcvl.inference.panels import write_panels
from qcvl.inference.predictor import Reply
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from tests.conftest import photo

PLATE = Annotation(Shape("bbox_2d", [10, 10, 60, 40]), "plate")
SCREW = Annotation(Shape("bbox_2d", [70, 10, 90, 40]), "screw")
TWICE = json.dumps({f"object_{n}": {"bbox_2d": [100, 200, 600, 800], "desc": "plate"} for n in (1, 2)})


class Repeating:
    """Answers every photo with the same text."""

    def seen_size(self, size_wh):
        return size_wh

    def answer(self, requests):
        return [Reply(TWICE, 9, True) for _ in requests]


@pytest.fixture
def panels(prompts, tmp_path):
    """Two photos of noise drawn to ``tmp_path/previews``: one with a duplicate, a worse one that also has a miss."""
    records = [
        Record(images=(photo(100, 50, seed),), annotations=notes)
        for seed, notes in ((1, (PLATE,)), (2, (PLATE, SCREW)))
    ]
    items = [EvaluationItem(record, index, "dense", prompts) for index, record in enumerate(records)]
    predictions = predict(items, Repeating(), DEFAULT_FORMAT, source="val")
    return write_panels(tmp_path / "previews", "val", items, predictions)


@pytest.fixture
def on_disk(tmp_path):
    return lambda name: np.asarray(Image.open(tmp_path / f"previews/{name}.png"))


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A W&B logger without network; its run ends with the test."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logger = WandbLogger(save_dir=str(tmp_path), project="qcvl", offline=True)
    yield logger
    logger.experiment.finish()


def test_an_offline_wandb_run_holds_a_table_with_the_worst_photo_first(panels, offline, on_disk, tmp_path):
    log_panels([offline], "val", panels, 7, remote=False)
    offline.experiment.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = run.glob("run-*.wandb")
    deadline = time.monotonic() + 60  # W&B's own process writes it, some time after finish() on a busy machine
    while b"eval/val/panels" not in log.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # W&B names what waits for its upload at random; a table names its pictures by their SHA-256.
    staged = [path.read_bytes() for path in (run / "artifacts/staging").iterdir() if path.is_file()]
    (table,) = map(json.loads, {content for content in staged if b'"sha256"' in content})
    assert tuple(table["columns"]) == COLUMNS
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table["data"]]
    assert [(row["misses"], row["false alarms"], row["duplicates"]) for row in rows] == [(1, 0, 1), (0, 0, 1)]
    assert [row["F1"] for row in rows] == [pytest.approx(1 / 2), pytest.approx(2 / 3)]
    assert [(row["answer"], row["status"]) for row in rows] == [(TWICE, "strict")] * 2
    pictures = {hashlib.sha256(content).hexdigest(): content for content in staged}
    for row, name in zip(rows, ("val-0001", "val-0000"), strict=True):
        picture = Image.open(io.BytesIO(pictures[row["picture"]["sha256"]]))
        assert np.array_equal(np.asarray(picture), on_disk(name))


def test_where_wandb_keeps_its_data_is_the_users_choice(panels, offline, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "chosen"))
    log_panels([offline], "val", panels, 7, remote=False)
    assert len(list((tmp_path / "chosen/artifacts/staging").iterdir())) >= 3
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "chosen")


def test_a_tensorboard_event_file_holds_the_sheet_and_each_photo_under_its_own_tag(panels, on_disk, tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="tensorboard", version="")
    for step in (3, 6):
        log_panels([logger], "val", panels, step, remote=False)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {"eval/val/panels": "sheet-val", **{f"eval/val/panels/val-000{n}": f"val-000{n}" for n in (0, 1)}}
    assert set(events.Tags()["images"]) == set(names)
    for tag, name in names.items():
        images = events.Images(tag)
        assert [image.step for image in images] == [3, 6]
        for image in images:
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), on_disk(name))


class Online:
    """A W&B run that would upload what it is given."""

    offline = False

    def __init__(self, folder):
        self.dir, self.logged = str(folder), {}

    def log(self, values):
        self.logged |= values

    def define_metric(self, *names, **arguments):
        pass


@pytest.mark.parametrize(("remote", "keys"), [(False, set()), (True, {"eval/val/panels", "trainer/global_step"})])
def test_a_run_that_is_online_gets_pictures_only_where_that_is_allowed(panels, remote, keys, tmp_path):
    run = Online(tmp_path)
    log_panels([WandbLogger(experiment=run)], "val", panels, 7, remote=remote)
    assert run.logged.keys() == keys
    assert "WANDB_DATA_DIR" not in os.environ


def test_trackers_that_take_no_pictures_are_left_alone(panels, tmp_path):
    loggers = [CSVLogger(str(tmp_path), name="csv"), JsonlLogger(str(tmp_path / "logging.jsonl"))]
    log_panels(loggers, "val", panels, 7, remote=True)
    assert {path.name for path in tmp_path.iterdir()} == {"previews"}


def test_nothing_is_logged_for_a_source_without_panels(tmp_path):
    log_panels([TensorBoardLogger(str(tmp_path), name="tensorboard")], "val", [], 7, remote=False)
    assert not list(tmp_path.iterdir())
