"""Pairs and windows through the commands: what a checkpoint was trained to see is what it is asked about."""

import json

import pytest

from tests.conftest import write_pairs
from tests.invariant.conftest import SMALL_RUN, metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WINDOWS = (
    "data.crops={_target_: qcvl.augment.crop.SampleCrop, size: 64, aimed_share: 1, empty_share: 0, min_coverage: .5}"
)
TILES = ("tiles=grid", "tiles.size=64", "tiles.overlap=16", "generation.max_new_tokens=8")


@pytest.fixture
def pairs(tmp_path):
    """A JSONL file of four pairs of 150x100 pixels."""
    return write_pairs(tmp_path, 4, (150, 100))


@pytest.fixture
def trained(command, pairs, tmp_path):
    """The checkpoint of two steps on fused pairs in windows, answered in tiles."""
    data = (f"data.train={pairs}", f"data.val={pairs}", "data.sampling=dense", "data.pair=fused", WINDOWS)
    short = ("trainer.max_steps=2", "data.val_generate=2", "callbacks.evaluation.panels=2", "hydra.run.dir=run")
    done = command("train", *SMALL_RUN, *data, *TILES, *short)
    assert done.code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "run/previews/step-2").glob("*.png")) == [
        "sheet-val.png", "val-0000.png", "val-0001.png"
    ]  # fmt: skip
    return tmp_path / "run/checkpoints/last"


def test_infer_and_evaluate_see_a_pair_as_its_checkpoint_did(command, trained, pairs, tmp_path):
    assert json.loads((trained / "qcvl.json").read_text())["pairing"] == "fused"
    done = command("infer", f"checkpoint={trained}", f"input={pairs}", *TILES, "hydra.run.dir=asked")
    assert done.code == 0, done.output
    answers = [json.loads(line) for line in (tmp_path / "asked/predictions.jsonl").read_text().splitlines()]
    assert [answer["sizes"] for answer in answers] == [[[150, 100]]] * 4  # one image: the photo, fused
    assert len(list((tmp_path / "asked/overlays").glob("*_photo?.png"))) == 4

    data = ("data=jsonl", "data.sampling=dense", f"data.val={pairs}", "data.val_batch_size=2", "group_by=board")
    done = command("evaluate", f"checkpoint={trained}", *data, *TILES, "panels=1", "hydra.run.dir=scored")
    assert done.code == 0, done.output
    scored = metrics(tmp_path / "scored")["final"]
    assert scored["eval/val/dense_objects"] == 4
    cost = json.loads((tmp_path / "scored/cost.json").read_text())
    assert cost["answers"] == 4 and cost["core_ms_per_answer"] > 0 and cost["parameters"] > 1e6
    assert "cost " in done.output
    assert json.loads((tmp_path / "run/cost.json").read_text())["core_minutes"] > 0


def test_a_photo_without_its_template_is_refused_by_a_checkpoint_of_pairs(command, trained, tmp_path):
    error = command("infer", f"checkpoint={trained}", f"input={tmp_path}/photo0.png", *TILES).error()
    assert "photo0.png" in error and "has 1 image; a fused pair needs two, the photo and its template" in error
