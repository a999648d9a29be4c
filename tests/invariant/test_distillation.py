"""``experiment=stage3_gkd_visual`` as users try it first: few samples, frequent checkpoints, a look at the log."""

import json

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_short_run_logs_the_three_losses_and_saves(command, small_run, tmp_path):
    short = (
        "data.sample_limit=32",
        "data.batch_size=2",
        "trainer.max_steps=11",
        "callbacks.checkpoint.every_n_train_steps=5",
    )
    goal = ("objective.max_completion_length=16", "data.val_generate=0", "hydra.run.dir=run")
    done = command("train", "experiment=stage3_gkd_visual", *small_run, *short, *goal)
    assert done.code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "run/logging.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "train/loss" in row]
    assert len(steps) == 11
    for row in steps:
        parts = [row[f"train/{name}"] for name in ("sft_loss", "llm_kd_loss", "vision_kd_loss")]
        assert row["train/loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert steps[-1]["train/llm_kd_loss"] > 0 and steps[-1]["train/vision_kd_loss"] > 0
    assert all("eval/llm_kd_loss" not in row for row in rows)
    made = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert {"step-5", "step-10", "last", "best"} <= made
    assert (tmp_path / "run/checkpoints/last/adapter_model.safetensors").is_file()
