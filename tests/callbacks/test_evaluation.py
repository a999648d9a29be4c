"""Scoring by generation between the epochs: what is asked, logged and drawn."""

import json

import pytest
from lightning.pytorch import LightningModule

from qcvl.callbacks.evaluation import GenerationEvaluation
from qcvl.inference.hf import HFPredictor
from qcvl.inference.settings import Generation, Tiles
from tests.callbacks.conftest import QUIET

pytestmark = QUIET
SHORT = Generation(max_new_tokens=3, temperature=0, top_p=1, batch_size=4)


@pytest.fixture
def scoring(tmp_path):
    def make(**changes) -> GenerationEvaluation:
        values = {
            "generation": SHORT,
            "tiles": None,
            "limit": 2,
            "folder": str(tmp_path / "previews"),
            "panels": 1,
            "remote_images": False,
        }
        return GenerationEvaluation(**values | changes)

    return make


def test_each_validation_is_scored_and_drawn_in_a_folder_of_its_step(start_run, scoring, tmp_path):
    start_run(max_epochs=2, callbacks=[scoring()])
    pictures = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "previews").rglob("*.png"))
    assert pictures == [f"previews/step-{n}/{name}.png" for n in (1, 2) for name in ("sheet-val", "val-0000")]
    rows = [json.loads(line) for line in (tmp_path / "run/logging.jsonl").read_text().splitlines()]
    scored = [row for row in rows if "eval/val/dense_count_error" in row]
    assert [row["step"] for row in scored] == [0, 1]
    wanted = {"eval/val/finished", "eval/val/json_valid", "eval/val/summary_exact", "eval/loss"}
    assert all(wanted <= row.keys() for row in scored)
    assert all(row["eval/val/finished"] == 0.0 for row in scored)  # three tokens end no answer


def test_the_scores_can_decide_which_checkpoint_is_best(start_run, scoring, step_folders, tmp_path):
    by_errors = {"monitor": "eval/val/dense_count_error", "mode": "min"}
    start_run(max_epochs=2, callbacks=[scoring()], checkpoint=by_errors)
    assert step_folders(tmp_path / "run/checkpoints")[2] is not None


def test_all_sources_together_have_their_own_keys(
    make_module, make_datamodule, make_data, make_trainer, scoring, logged
):
    sources = {name: make_data.source(f"{name}.jsonl") for name in ("zh", "en")}
    datamodule = make_datamodule(data=make_data(val=sources, sampling="dense"))
    make_trainer(callbacks=[scoring(panels=0)]).validate(make_module(), datamodule, verbose=False)
    objects = [logged(f"eval/{name}dense_objects")[0] for name in ("zh/", "en/", "")]
    assert objects[2] == objects[0] + objects[1] > 0


@pytest.mark.parametrize(("limit", "changes"), [(0, {}), (2, {"num_sanity_val_steps": 1, "limit_val_batches": 0})])
def test_nothing_is_asked_with_a_limit_of_nought_or_without_validation(start_run, scoring, tmp_path, limit, changes):
    start_run(callbacks=[scoring(limit=limit)], checkpoint={"monitor": None}, **changes)
    assert not (tmp_path / "previews").exists()
    assert "eval/val/" not in (tmp_path / "run/logging.jsonl").read_text()


def test_a_sanity_check_is_not_scored(make_module, make_datamodule, make_trainer, scoring, tmp_path):
    trainer = make_trainer(callbacks=[scoring()], num_sanity_val_steps=1, limit_train_batches=1, val_check_interval=1.0)
    trainer.check_val_every_n_epoch = 5  # no validation but the sanity check
    trainer.fit(make_module(), make_datamodule())
    assert not (tmp_path / "previews").exists()


def test_a_module_without_a_model_is_refused(make_trainer, scoring):
    trainer = make_trainer()
    with pytest.raises(TypeError, match="needs a module with a model, and a VLDataModule"):
        scoring().on_validation_epoch_end(trainer, LightningModule())


def test_validation_photos_can_be_answered_window_by_window(start_run, scoring, tmp_path):
    tiles = Tiles(size=64, overlap=16, views=2, border_weight=0.7, same_iou=0.3)
    asked = []

    def answer(self, requests):
        asked.append([image.shape for request in requests for image in request.images])
        return whole(self, requests)

    whole, HFPredictor.answer = HFPredictor.answer, answer
    try:
        start_run(max_epochs=1, callbacks=[scoring(tiles=tiles, limit=3)])
    finally:
        HFPredictor.answer = whole
    shapes = [shape for call in asked for shape in call]
    dense = [shape for shape in shapes if shape == (64, 64, 3)]
    assert len(dense) >= 2 * 9  # of the first photo alone, 128x128 px: 3 x 3 windows, two views of each
    assert [row for row in (tmp_path / "run/logging.jsonl").read_text().splitlines() if "eval/val/finished" in row]


def test_a_source_of_conversations_is_passed_over(
    make_module, make_datamodule, make_data, make_trainer, scoring, logged, conversations, tmp_path
):
    val = {name: str(conversations / f"{name}.jsonl") for name in ("chat", "en")}
    for name, sources in (("both", val), ("chat", val["chat"])):
        datamodule = make_datamodule(data=make_data(val=sources, sampling="dense"))
        trainer = make_trainer(tmp_path / name, callbacks=[scoring()])
        trainer.validate(make_module(), datamodule, verbose=False)
    assert logged("eval/en/finished", tmp_path / "both") and logged("eval/chat/loss", tmp_path / "both")
    assert not logged("eval/chat/finished", tmp_path / "both")
    text = (tmp_path / "chat/logging.jsonl").read_text()
    assert "eval/loss" in text and "finished" not in text
