"""A run that goes wrong prints one command, and that command names the module it went wrong in."""

import re
import shlex

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_that_a_failed_run_prints_makes_its_first_bad_step_again(command, small_run, tmp_path):
    far_too_fast = ("stage.rates.adapter=1e30", "stage.rates.full=1e30", "trainer.gradient_clip_val=null")
    run = tmp_path / "a run"
    quick = ("data.val_generate=0", "stage=2", *far_too_fast)
    error = command("train", *small_run, *quick, f"hydra.run.dir='{run}'").error()
    assert error.startswith("3 optimizer steps in a row had a loss or gradient that is not finite")
    (step,) = (run / "nonfinite").iterdir()
    assert {path.name for path in step.iterdir()} >= {"rank-0.json", "trained.safetensors", "config.yaml"}

    python, *words = shlex.split(re.search(r"which module made it: (.*)", error)[1])
    assert python == "python" and words[:2] == ["-m", "qcvl.train"] and words[-1] == f"replay='{step}'"
    again = command("train", *words[2:])
    assert again.code == 0, again.output
    assert "NOT the same" not in again.output and "settings differ" not in again.output
    found = re.search(r"first not finite: the ([\w ]+) of (\S+)", again.output)
    assert found and found[2].startswith(("model.", "loss")), again.output
    (kept,) = (tmp_path / "outputs/replay").glob("*/*/replay.txt")
    assert found[0] in kept.read_text() and found[2] in kept.read_text()

    others = command("train", *words[2:], "tuner=dora").error()
    assert re.search(r"replay: \d+ trained tensors are not those of", others)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_ranks_hold_in_parts_is_kept_whole_and_made_again_by_one(command, small_run, tmp_path, strategy):
    far_too_fast = ("stage.rates.adapter=1e30", "stage.rates.full=1e30", "trainer.gradient_clip_val=null")
    two = (f"strategy={strategy}", "trainer.devices=2", "data.batch_size=2")
    run = tmp_path / "run"
    ended = command("train", *small_run, *two, "data.val_generate=0", *far_too_fast, f"hydra.run.dir={run}")
    assert ended.code != 0 and "3 optimizer steps in a row" in ended.output
    words = shlex.split(re.search(r"which module made it: (.*)", ended.output)[1])
    again = command("train", *words[3:])
    assert again.code == 0, again.output
    assert "settings differ" not in again.output
    assert re.search(r"first not finite: the ([\w ]+) of (model\.|loss)", again.output), again.output
