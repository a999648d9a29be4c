import importlib.util
import json
import subprocess

import numpy as np
import pytest

NAMES = ["augment", "doctor", "generate", "jsonl", "packing", "patches", "photo_chain", "row_layout", "tiles"]
SLOW = ["compose_time", "gkd_cost", "training"]  # each starts processes that import a trainer
PARTS = {"gkd_cost": ["--only", "lora-self"]}  # what is enough of a long one


@pytest.fixture
def script(readme, monkeypatch):
    """``script("patches")``: a benchmark as a module."""
    folder = readme.checkout / "benchmarks"
    monkeypatch.syspath_prepend(folder)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def last_line(script, capsys):
    """``last_line("patches")``: the JSON that a quick run of a benchmark ends with."""

    def run(name):
        script(name).main(["--quick", *PARTS.get(name, ())])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_benchmark_ends_with_its_name_and_ratio_as_json(last_line, name):
    row = last_line(name)
    assert row["name"] == name and row["ratio"] > 0 and row["peer"]


def test_patches_and_losses_are_those_of_the_peer(last_line):
    assert last_line("patches")["max_abs_difference"] <= 2 / 255  # one grey level: values run from -1 to 1
    assert last_line("row_layout")["loss_difference"] <= 1e-4


def test_packs_of_three_sets_are_full_and_cost_ranks_that_run_side_by_side_the_same(script):
    packing = script("packing")
    for name, lengths in packing.length_sets(scale=1):
        rule = packing.Packing("best_fit", packing.CAPACITY)
        plan = packing.epoch(packing.Packs(np.sort(lengths.tokens)[::-1], rule, packing.RANKS), lengths)
        assert sorted(index for step in plan for pack in step for index in pack) == list(range(len(lengths.tokens)))
        assert max(lengths.tokens[pack].sum() for step in plan for pack in step) <= packing.CAPACITY
        slowest, mean = packing.waits(plan, lengths.costs)
        assert packing.fill_share(plan, lengths.tokens)[1] >= 0.99 and slowest / mean <= 1.03, name


def test_the_benchmark_of_gpus_trains_a_small_shape_on_a_cpu_and_says_what_it_ran_on(last_line):
    row = last_line("gpu")
    assert row["name"] == "gpu" and row["device"]
    assert row["tiny_lora_eager_600"] > 0 and row["tiny_full_eager_600"] > 0


@pytest.mark.slow
def test_the_benchmark_of_gpus_compiles_blocks_where_asked(script, capsys):
    script("gpu").main(["--tiny", "--tuners", "lora", "--kernels", "compile"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tiny_lora_compile_600"] > 0


@pytest.mark.slow
def test_the_cost_of_distillation_is_told_by_row_with_its_target(script, capsys):
    script("gkd_cost").main(["--quick", "--only", "lora-self"])
    table, _, lines = capsys.readouterr().out.partition("CPU, one thread")
    assert [row.split(" | ")[:2] for row in table.splitlines()[2:4]] == [["| lora", "no teacher"], ["| lora", "itself"]]
    row = json.loads(lines.splitlines()[2])
    assert row["name"] == "gkd_cost/lora-self" and row["target"] == 1.55
    assert min(row[name] for name in ("cpu", "wall", "peak", "extra")) > 0


def test_a_cost_is_the_median_over_the_same_steps_after_the_first(script):
    from trainers.turns import Speed, Turn

    def speed(seconds, peak):
        turns = tuple(Turn(value, 2 * value + 1) for value in seconds)
        rates = {"rate": 1.0, "rates": (1.0,), "wall": 1.0, "padding": 0.0, "operations": 0.0}
        return Speed(**rates, extra=peak // 2, activations=0, peak=peak, turns=turns)

    found = script("gkd_cost").cost(speed([90, 2, 6, 20], 500), speed([1, 2, 4, 10], 400))
    assert found == (1.5, pytest.approx(13 / 9), 1.25, 1.25)  # steps of 1, 1.5 and 2 times the seconds


def test_make_bench_runs_every_benchmark(readme):
    there = {path.stem for path in (readme.checkout / "benchmarks").glob("*.py")} - {"measure"}
    assert there == {*NAMES, *SLOW, "gpu"}
    done = subprocess.run(["make", "-n", "bench"], cwd=readme.checkout, capture_output=True, text=True)
    assert all(f"benchmarks/{name}.py" in done.stdout for name in there) and "measure.py" not in done.stdout


def test_a_median_is_taken_over_the_rounds_after_the_first(readme, monkeypatch):
    monkeypatch.syspath_prepend(readme.checkout / "benchmarks")
    from measure import median_seconds

    now = [0.0]
    lengths = iter([100, 100, 1, 10, 2, 30, 9, 20])  # first round: two slow starts; then (1, 10), (2, 30), (9, 20)

    def work():
        now[0] += next(lengths)

    assert median_seconds([work, work], repeats=3, clock=lambda: now[0]) == [2, 20]
