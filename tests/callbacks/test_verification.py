"""Verification on a short run of a small model: what it writes, and that each thing that is wrong fails the run."""

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from qcvl.callbacks.verification import Verification
from qcvl.errors import ConfigError, QcvlError
from qcvl.inference.settings import Generation
from qcvl.models.settings import at_path
from tests.callbacks.conftest import QUIET

pytestmark = QUIET
CHECKS = ["logits", "pixels", "tokens", "labels", "overfit", "speed", "memory", "reload"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory, small_model):
    """A folder with the random weights of the small model."""
    folder, scratch = tmp_path_factory.mktemp("weights"), small_model()
    scratch.load_model().save_pretrained(folder)
    scratch.load_processing().save(folder)
    return at_path(scratch, str(folder))


@pytest.fixture
def verified(start_run, make_module, lora, weights, tmp_path):
    """``verified(steps=…)``: a run of so many steps after ``fit``, its verification, and its module."""

    def run(steps=7, model=weights):
        generation = Generation(max_new_tokens=8, temperature=0.7, top_p=0.9, batch_size=4)
        folder = tmp_path / "run"
        check = Verification(folder=str(folder), checkpoints=str(folder / "checkpoints"), generation=generation)
        module = make_module(model=model, tuner=lora(), rate=1e-2)
        dense = {"sampling": "dense"}
        start_run(limit=4, batch_size=4, module=module, callbacks=[check], max_epochs=steps, data=dense)
        return check, module

    return run


def finished(check, module):
    """The error that a verification ends with, and what it printed."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with pytest.raises(QcvlError) as caught:
        check.finish(module, console)
    return str(caught.value), console.file.getvalue()


def test_untrained_weights_pass_all_but_the_overfit_and_the_files_say_so(verified, tmp_path):
    check, module = verified()
    error, printed = finished(check, module)
    assert error.startswith("1 of 8 checks failed (overfit)") and "next: where the loss still falls" in printed
    told = json.loads((tmp_path / "run/verify.json").read_text())
    assert [row["check"] for row in told["checks"]] == CHECKS and told["passed"] is False
    assert {row["check"] for row in told["checks"] if not row["passed"]} == {"overfit"}
    assert told["facts"]["device"] == "cpu" and "(qwen3_vl, " in told["facts"]["model"]
    markdown = (tmp_path / "run/verify.md").read_text()
    assert markdown.count("| PASS |") == 7 and markdown.count("| FAIL |") == 1
    assert not list((tmp_path / "run").glob("merged-*"))  # the merged weights are not kept


def test_too_few_steps_and_a_damaged_checkpoint_are_rows_and_do_not_hide_the_others(verified, tmp_path):
    check, module = verified(steps=3)
    weights = tmp_path / "run/checkpoints/last/adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    error, printed = finished(check, module)
    assert error.startswith("3 of 8 checks failed (overfit, speed, reload)")
    assert "CheckpointError" in printed and "1 steps timed" in printed


def test_an_estimate_that_is_off_fails_the_run(verified, monkeypatch):
    from qcvl.callbacks import verification

    real = verification.step_memory
    monkeypatch.setattr(verification, "step_memory", lambda *parts: real(*parts)._replace(activations=0))
    check, module = verified()
    assert "(overfit, memory)" in finished(check, module)[0]


def test_a_reloaded_model_that_answers_otherwise_fails_the_run(verified, monkeypatch):
    from qcvl.callbacks import verification

    def spoiled(spec):
        plain = verification_load(spec)
        with torch.no_grad():
            plain.model.language_model.norm.weight.neg_()  # the least likely token is now the best
        return plain

    check, module = verified()
    verification_load = verification.load_plain
    monkeypatch.setattr(verification, "load_plain", spoiled)
    error, printed = finished(check, module)
    assert "reload" in error and "became" in printed


def test_a_model_without_weights_is_refused_before_the_first_step(verified, small_model):
    with pytest.raises(ConfigError, match="model: has no weights to verify; give those of a folder"):
        verified(model=small_model())
