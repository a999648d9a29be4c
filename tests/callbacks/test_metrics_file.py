"""``metrics.json``: before, best and last."""

import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from qcvl.callbacks.metrics_file import MetricsFile
from tests.callbacks.conftest import QUIET, Scripted

pytestmark = QUIET


def trainer(value: float | None, step: int, fn: TrainerFn = TrainerFn.FITTING, **changes) -> SimpleNamespace:
    """A trainer just after a validation that logged ``eval/f1``."""
    metrics = {"train/loss": 9.0} | ({"eval/f1": value} if value is not None else {})
    state = {"sanity_checking": False, "fast_dev_run": False, "is_global_zero": True, "max_steps": -1}
    state["checkpoint_callbacks"] = []
    return SimpleNamespace(
        **state | {"callback_metrics": metrics, "global_step": step, "state": SimpleNamespace(fn=fn)} | changes
    )


@pytest.fixture
def keeper(tmp_path):
    def make(mode: str = "max") -> MetricsFile:
        found = MetricsFile(path=str(tmp_path / "run/metrics.json"), monitor="eval/f1", mode=mode)
        found.setup(None, None, "fit")
        return found

    return make


@pytest.fixture
def saved(tmp_path):
    return lambda: json.loads((tmp_path / "run/metrics.json").read_text())


@pytest.mark.parametrize(("mode", "best"), [("max", 0.8), ("min", 0.3)])
def test_initial_is_before_training_best_is_within_and_final_is_the_latest(keeper, saved, mode, best):
    one = keeper(mode)
    one.on_validation_end(trainer(0.99, 0, TrainerFn.VALIDATING), None)
    for step, value in enumerate((0.5, 0.8, 0.3, 0.6), start=1):
        one.on_validation_end(trainer(value, step), None)
    assert saved() == {"initial": {"eval/f1": 0.99}, "best": {"eval/f1": best}}
    returned = one.finish(trainer(0.6, 4))
    assert saved() == returned == {"initial": {"eval/f1": 0.99}, "final": {"eval/f1": 0.6}, "best": {"eval/f1": best}}
    assert list(saved()) == ["initial", "final", "best"]


def test_an_evaluation_after_training_is_final_but_never_best(keeper, saved):
    one = keeper()
    one.on_validation_end(trainer(0.5, 3), None)
    one.on_validation_end(trainer(0.7, 4, TrainerFn.VALIDATING), None)  # no checkpoint holds these weights as best
    one.finish(trainer(0.7, 4))
    assert saved() == {"final": {"eval/f1": 0.7}, "best": {"eval/f1": 0.5}}


def test_a_value_that_is_no_number_or_absent_is_never_best(keeper, saved):
    one = keeper()
    for step, value in enumerate((0.4, float("nan"), None), start=1):
        one.on_validation_end(trainer(value, step), None)
    assert saved()["best"] == {"eval/f1": 0.4}


def test_a_resumed_run_goes_on_with_what_the_file_holds_and_is_not_finished(keeper, saved):
    first = keeper()
    first.on_validation_end(trainer(0.1, 0, TrainerFn.VALIDATING), None)
    first.on_validation_end(trainer(0.9, 1), None)
    first.finish(trainer(0.9, 1))
    second = keeper()
    second.on_validation_end(trainer(0.5, 2), None)
    assert saved() == {"initial": {"eval/f1": 0.1}, "best": {"eval/f1": 0.9}}
    second.finish(trainer(0.5, 2))
    assert saved() == {"initial": {"eval/f1": 0.1}, "final": {"eval/f1": 0.5}, "best": {"eval/f1": 0.9}}


@pytest.mark.parametrize("change", [{"fast_dev_run": True}, {"is_global_zero": False}, {"sanity_checking": True}])
def test_development_runs_other_ranks_and_sanity_checks_write_nothing(keeper, tmp_path, change):
    keeper().on_validation_end(trainer(0.5, 1, **change), None)
    assert not (tmp_path / "run").exists()


def test_a_run_that_ends_by_its_steps_is_evaluated_at_the_end(start_run, saved, tmp_path):
    metrics = MetricsFile(path=str(tmp_path / "run/metrics.json"), monitor="eval/score", mode="max")
    start_run(limit=5, batch_size=1, max_steps=3, callbacks=[Scripted(0.25), metrics])
    assert metrics.latest[0] == 3 and saved()["best"]["eval/score"] == 0.25
    assert {"eval/loss", "eval/token_acc", "eval/sft_loss"} <= saved()["best"].keys()
    assert not any(key.startswith("train/") for key in saved()["best"])
