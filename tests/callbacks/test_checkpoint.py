"""Which step folders a run writes and keeps, and where ``last`` and ``best`` point."""

import json

import lightning.pytorch as pl
import pytest
import torch

from qcvl.callbacks.checkpoint import TRAINER_STATE
from qcvl.checkpoints.contract import read_contract
from qcvl.checkpoints.folder import verify
from tests.callbacks.conftest import QUIET, Scripted

pytestmark = QUIET
BY_SCORE = {"monitor": "eval/score", "mode": "max"}


class Watch(pl.Callback):
    """What is on disk at the start of each epoch and at the end."""

    def __init__(self, folder, step_folders):
        self.folder, self.step_folders, self.seen = folder, step_folders, []

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_step:
            self.seen.append(self.step_folders(self.folder))

    def on_fit_end(self, trainer, pl_module):
        self.seen.append(self.step_folders(self.folder))


@pytest.fixture
def watched(start_run, step_folders, tmp_path):
    """``watched(scores, …)``: what was on disk after each epoch of one step."""

    def run(scores, checkpoint=None, **changes):
        watch = Watch(tmp_path / "run/checkpoints", step_folders)
        callbacks = [Scripted(*scores), watch]
        start_run(checkpoint=BY_SCORE | (checkpoint or {}), callbacks=callbacks, max_epochs=len(scores), **changes)
        return watch.seen

    return run


def test_a_folder_holds_what_the_contract_says_and_its_manifest_lists_all_of_it(start_run, tmp_path, prompts):
    start_run()
    folder = tmp_path / "run/checkpoints/step-1"
    verify(folder)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json", "qcvl.json", "tokenizer.json"} <= files
    assert {"chat_template.jinja", "preprocessor_config.json", TRAINER_STATE} <= files
    assert json.loads((folder / "manifest.json").read_text())["files"].keys() == files - {"manifest.json"}
    contract = read_contract(folder)
    assert contract.prompts["dense"]["user"] == prompts.dense.user
    assert contract.tuner == {"vision": "frozen", "aligner": "adapter", "llm": "adapter"}


def test_the_trainers_state_is_plain_tensors_of_what_was_trained(start_run, tmp_path):
    trainer = start_run()
    state = torch.load(tmp_path / "run/checkpoints/last" / TRAINER_STATE, weights_only=True)
    trained = {name for name, p in trainer.lightning_module.named_parameters() if p.requires_grad}
    assert state["state_dict"].keys() == trained and all("lora_" in name for name in trained)
    assert (state["global_step"], state["epoch"]) == (1, 0)
    (loader,) = state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert (loader["epoch"], loader["handed_over"], loader["length"]) == (0, 1, 1)


def test_links_are_relative_so_that_a_run_can_be_moved(start_run, tmp_path):
    start_run()
    (tmp_path / "run").rename(tmp_path / "moved")
    for name in ("last", "best"):
        link = tmp_path / "moved/checkpoints" / name
        assert not link.readlink().is_absolute()
        verify(link)


def test_last_is_the_last_epoch_also_when_the_metric_falls(watched):
    assert watched([0.9, 0.5, 0.1]) == [
        ({1}, "step-1", "step-1"),
        ({1, 2}, "step-2", "step-1"),
        ({1, 3}, "step-3", "step-1"),
    ]


def test_the_former_best_and_the_former_last_go_and_linked_folders_stay(watched):
    assert watched([0.1, 0.5, 0.2, 0.3, 0.6]) == [
        ({1}, "step-1", "step-1"),
        ({2}, "step-2", "step-2"),
        ({2, 3}, "step-3", "step-2"),
        ({2, 4}, "step-4", "step-2"),
        ({5}, "step-5", "step-5"),
    ]


def test_the_best_k_stay_beside_the_last(watched):
    seen = watched([0.5, 0.6, 0.7, 0.1, 0.65], {"save_top_k": 2})
    assert [steps for steps, _, _ in seen] == [{1}, {1, 2}, {2, 3}, {2, 3, 4}, {3, 5}]
    assert seen[-1][1:] == ("step-5", "step-3")


def test_minus_one_keeps_every_folder(watched):
    assert watched([0.5, 0.1, 0.3], {"save_top_k": -1})[-1] == ({1, 2, 3}, "step-3", "step-1")


def test_nought_keeps_the_last_only(watched):
    assert watched([0.5, 0.7, 0.3], {"save_top_k": 0})[-1] == ({3}, "step-3", None)


def test_between_two_intervals_only_a_better_step_is_written_and_is_then_the_last(watched):
    assert watched([0.5, 0.4, 0.6, 0.2, 0.3, 0.1, 0.2], {"every_n_epochs": 2}) == [
        ({1}, "step-1", "step-1"),
        ({1, 2}, "step-2", "step-1"),
        ({3}, "step-3", "step-3"),
        ({3, 4}, "step-4", "step-3"),
        ({3, 4}, "step-4", "step-3"),
        ({3, 6}, "step-6", "step-3"),
        ({3, 7}, "step-7", "step-3"),  # what the run ends with
    ]


def test_a_metric_that_is_no_number_is_never_best(watched):
    assert watched([0.5, float("nan"), 0.4])[-1] == ({1, 3}, "step-3", "step-1")


def test_folders_can_be_written_every_so_many_steps(start_run, step_folders, tmp_path):
    steps = {"every_n_train_steps": 2, "save_top_k": -1}
    start_run(limit=5, batch_size=1, checkpoint=steps)
    found, last, best = step_folders(tmp_path / "run/checkpoints")
    assert {2, 4, 5} <= found and last == "step-5" and best == "step-5"


def test_the_weights_a_run_ends_with_are_kept_without_any_validation(start_run, step_folders, tmp_path):
    start_run(limit=3, batch_size=1, limit_val_batches=0, max_steps=2)
    assert step_folders(tmp_path / "run/checkpoints")[:2] == ({2}, "step-2")


def test_a_development_run_writes_nothing(start_run, tmp_path):
    start_run(fast_dev_run=True)
    assert not list((tmp_path / "run").rglob("step-*"))


def test_a_run_that_goes_on_from_an_earlier_step_sets_the_later_ones_aside(start_run, step_folders, tmp_path):
    keep_all = {"save_top_k": -1}
    start_run(checkpoint=keep_all, max_epochs=3)
    folder = tmp_path / "run/checkpoints"
    start_run(checkpoint=keep_all, max_epochs=4, resume=folder / "step-1")
    assert {path.name for path in folder.glob("step-*.old")} == {"step-2.old", "step-3.old"}
    for path in folder.glob("step-*.old"):
        path.rename(tmp_path / path.name)
    assert step_folders(folder)[:2] == ({1, 2, 3, 4}, "step-4")


def test_the_folder_a_run_went_on_from_is_pruned_like_any_other(start_run, step_folders, tmp_path):
    folder = tmp_path / "run/checkpoints"
    start_run(checkpoint=BY_SCORE, callbacks=[Scripted(0.9, 0.5)], max_epochs=2)
    assert step_folders(folder) == ({1, 2}, "step-2", "step-1")
    start_run(checkpoint=BY_SCORE, callbacks=[Scripted(0.3, 0.2)], max_epochs=4, resume=folder / "step-2")
    assert step_folders(folder) == ({1, 4}, "step-4", "step-1")


def test_a_finished_run_that_is_resumed_writes_nothing_anew(start_run, step_folders, tmp_path):
    folder = tmp_path / "run/checkpoints"
    start_run(max_epochs=2)
    before = step_folders(folder), (folder / "last/manifest.json").read_text()
    start_run(max_epochs=2, resume=folder / "step-2")
    assert (step_folders(folder), (folder / "last/manifest.json").read_text()) == before
