"""benchmarks/distillation: its tables from known rows, and one short run of the script as a process."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def compare(readme, monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(readme.checkout / "benchmarks" / "distillation")
    import compare

    return compare


def row(f1, *, seconds=0.5, **losses):
    scores = {"f1": [0.0, f1], "place_f1": [0.0, f1], "token_acc": 0.5, "eval_sft_loss": 1.0}
    return scores | {"losses": losses, "steps": 7, "core_minutes": 1.0, "step_seconds": seconds}


def cells(table, name):
    """The cells of the one line that begins with ``name``."""
    (found,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_seeds_of_one_arm_share_a_line_with_their_mean(compare):
    rows = {"sft_7_seed0": row(0.1), "distilled_7_seed0": row(0.5), "sft_7_seed2": row(0.2), "stage2_gkd": row(0.9)}
    table = compare.student_table(rows)
    assert cells(table, "sft")[1:4] == ["7", "10.0% 20.0%", "15.0%"]
    assert cells(table, "distilled")[1:4] == ["7", "50.0%", "50.0%"]
    assert "90" not in table


def test_a_recipe_stands_beside_the_sft_of_its_own_stage(compare):
    rows = {"sft_stage2": row(0.1, seconds=0.5), "sft_stage3": row(0.1, seconds=2.0)}
    rows["stage3_gkd_visual"] = row(0.2, seconds=3.0, sft_loss=[2.0, 1.0], vision_kd_loss=[0.0, 0.25])
    found = cells(compare.recipe_table(rows), "`stage3_gkd_visual`")
    assert found[1:] == ["7", "2 → 1", "", "0 → 0.25", "0.0% → 20.0%", "3.000", "1.50"]


def test_arms_of_a_seed_differ_in_their_objective_alone_and_start_from_the_same_weights(compare, tmp_path):
    options = compare.parse(["--out", str(tmp_path), "--seeds", "3", "--photos", "10", "--held-out", "5"])
    sft, distilled = [set(run.settings) for run in compare.chosen(options) if run.name.endswith("seed3")]
    assert {"seed=3", "model.seed=3", "trainer.max_steps=300"} <= sft & distilled
    assert all(setting.startswith("objective") for setting in sft ^ distilled)
    counts = {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "photos").glob("*.jsonl")}
    assert counts == {"train_zh.jsonl": 6, "train_en.jsonl": 4, "val_zh.jsonl": 3, "val_en.jsonl": 2}


@pytest.mark.slow
def test_the_script_trains_a_student_and_does_not_train_it_again(readme, tmp_path):
    script = readme.checkout / "benchmarks" / "distillation" / "compare.py"
    command = [sys.executable, script, "--out", tmp_path, "--parts", "student", "--arms", "distilled", "--seeds", "0"]
    command += ["--steps", "2", "--photos", "40", "--held-out", "5"]

    def run():
        return subprocess.run(command, capture_output=True, text=True, timeout=280, check=True, cwd=tmp_path).stdout

    first = run()
    (name, kept), *others = json.loads((tmp_path / "results.json").read_text()).items()
    assert name == "distilled_2_seed0" and not others
    assert kept["steps"] == 2 and kept["step_seconds"] > 0 and 0 <= kept["f1"][1] <= 1
    assert set(kept["losses"]) == {"sft_loss", "llm_kd_loss", "vision_kd_loss"}
    assert name in first and run() == first.replace(f"{name} …\n", "")
