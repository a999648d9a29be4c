"""Which step folders a run writes and keeps, and where ``last`` and ``best`` point."""

import json

import lightning.pytorch as pl
import pytest
import torch

from qcvl.callbacks.checkpoint import TRAINER_STATE
from qcvl.callbacks.metrics_file import MetricsFile
from qcvl.checkpoints.contract import read_contract
from qcvl.checkpoints.folder import verify
from qcvl.errors import CheckpointError, ConfigError
from qcvl.modules.sft import SFTModule
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

    def run(scores, checkpoint=None, extra=(), **changes):
        watch = Watch(tmp_path / "run/checkpoints", step_folders)
        callbacks = [Scripted(*scores), *extra, watch]
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


def test_the_newest_n_folders_stay_beside_the_best(watched):
    seen = watched([0.9, 0.5, 0.1, 0.3, 0.2], {"keep_last": 3})
    assert [steps for steps, _, _ in seen] == [{1}, {1, 2}, {1, 2, 3}, {1, 2, 3, 4}, {1, 3, 4, 5}]


def test_each_named_metric_has_its_own_best(start_run, step_folders, tmp_path):
    class Losses(Scripted):
        def on_validation_epoch_end(self, trainer, pl_module):
            pl_module.log("eval/other", self.values.pop(0), batch_size=1)

    also = {"other": {"monitor": "eval/other", "mode": "min"}, "late": {"monitor": "eval/score", "mode": "min"}}
    scripted = [Scripted(0.2, 0.9, 0.5, 0.4, 0.1), Losses(3.0, 2.0, 1.0, 4.0, 5.0)]
    start_run(checkpoint=BY_SCORE | {"also_best": also}, callbacks=scripted, max_epochs=5)
    folder = tmp_path / "run/checkpoints"
    assert step_folders(folder) == ({2, 3, 5}, "step-5", "step-2")
    assert (folder / "best_other").readlink().name == "step-3"
    assert (folder / "best_late").readlink().name == "step-5"


@pytest.mark.parametrize("delay", [{"save_delay_steps": 3}, {"save_delay_epochs": 3}, {"save_delay_epochs": 2.5}])
def test_nothing_is_saved_or_best_before_the_delay_is_over(watched, tmp_path, delay):
    metrics = MetricsFile(path=str(tmp_path / "metrics.json"), monitor="eval/score", mode="max")
    watch = []

    class Look(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            watch.append(sorted(path.name for path in (tmp_path / "run").glob("checkpoints/*")))

    scores = [0.9, 0.8, 0.1, 0.3, 0.2]
    seen = watched(scores, delay, extra=[metrics, Look()])
    assert watch[:3] == [[], [], []]
    assert seen[-1] == ({4, 5}, "step-5", "step-4")
    assert json.loads((tmp_path / "metrics.json").read_text())["best"]["eval/score"] == pytest.approx(0.3)


def test_what_a_run_ends_with_is_saved_whatever_the_delay(watched):
    assert watched([0.9, 0.8], {"save_delay_steps": 100})[-1] == ({2}, "step-2", None)


def test_a_metric_that_no_validation_logs_is_refused_at_the_first_one(start_run):
    with pytest.raises(
        ConfigError, match=r"checkpoints/best_f1 follows eval/f1, which no validation logs; .*eval/loss"
    ):
        start_run(checkpoint={"also_best": {"f1": {"monitor": "eval/f1", "mode": "max"}}})


def test_a_run_that_was_moved_goes_on_with_its_best(start_run, step_folders, tmp_path):
    start_run(checkpoint=BY_SCORE, callbacks=[Scripted(0.9, 0.5)], max_epochs=2)
    (tmp_path / "run").rename(tmp_path / "moved")
    folder = tmp_path / "moved/checkpoints"
    start_run("moved", checkpoint=BY_SCORE, callbacks=[Scripted(0.3)], max_epochs=3, resume=folder / "step-2")
    assert step_folders(folder) == ({1, 3}, "step-3", "step-1")


def test_folders_written_in_the_background_are_those_written_in_line(start_run, tmp_path):
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    for name, background in (("in_line", False), ("background", True)):
        start_run(name, limit=3, batch_size=1, max_epochs=2, checkpoint=saving | {"save_async": background})
    folders = [tmp_path / name / "checkpoints" for name in ("in_line", "background")]
    assert [path.name for path in sorted(folders[0].iterdir())] == [path.name for path in sorted(folders[1].iterdir())]
    for step in range(1, 7):
        files = [json.loads((folder / f"step-{step}/manifest.json").read_text())["files"] for folder in folders]
        assert files[0].keys() == files[1].keys()
        assert files[0]["adapter_model.safetensors"] == files[1]["adapter_model.safetensors"]
        states = [torch.load(folder / f"step-{step}" / TRAINER_STATE, weights_only=True) for folder in folders]
        moments = [state["optimizer_states"][0]["state"] for state in states]
        for key, row in moments[0].items():
            assert all(torch.equal(value, moments[1][key][name]) for name, value in row.items())
        assert states[0]["loops"] == states[1]["loops"]


@pytest.mark.parametrize("background", [False, True])
def test_a_write_that_fails_stops_the_run_with_its_reason_and_leaves_the_last_good_folder(
    start_run, tmp_path, monkeypatch, background
):
    written = []

    def save(module, folder, tensors):
        written.append(folder)
        if len(written) == 2:
            with open("/dev/full", "wb") as full:
                full.write(b"x" * 100_000)
        (folder / "weights").write_bytes(b"w")

    monkeypatch.setattr(SFTModule, "save", save)
    told = r"step-2: No space left on device, after .* MB are free; .*step-1 is untouched; free space, .* resume=auto"
    with pytest.raises(CheckpointError, match=told):
        start_run(limit=5, batch_size=1, checkpoint={"every_n_train_steps": 1, "save_async": background})
    folder = tmp_path / "run/checkpoints"
    assert [path.name for path in written] == ["step-1.partial", "step-2.partial"]
    assert sorted(path.name for path in folder.iterdir()) == ["last", "step-1"]
    verify(folder / "last")
