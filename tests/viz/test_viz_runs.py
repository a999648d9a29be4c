import csv
import json
import math

import cv2
import pytest
import yaml
from rich.console import Console

from qcvl.errors import DataError
from qcvl.viz.runs import read_run, read_runs
from qcvl.viz.runs_plot import draw_plot
from qcvl.viz.runs_report import few_keys, print_runs

F1 = "eval/val/dense_f1@0.5"


@pytest.fixture
def add_run(tmp_path):
    """``add_run("0", ["tuner.rank=4"], final={…})``: a run's folder as training and a sweep leave it."""

    def add(name, overrides, *, final=None, error=None, monitor="eval/loss", mode="min"):
        folder = tmp_path / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
        settings = {"callbacks": {"metrics": {"monitor": monitor, "mode": mode}}} if monitor else {"job": "evaluate"}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        values = {"initial": {"eval/loss": 9.0}} | ({} if final is None else {"final": final})
        (folder / "metrics.json").write_text(json.dumps(values))
        if error:
            (folder / "error.txt").write_text(f"{error}\n\nTraceback\n")
        return folder

    return add


@pytest.fixture
def sweep(add_run, tmp_path):
    """Four jobs: two finished, one failed, one unfinished."""
    add_run("0", ["data=demo", "++tuner.rank=4", 'stage="1"'], final={"eval/loss": 0.5, F1: 0.25})
    add_run("1", ["data=demo", "++tuner.rank=8", 'stage="1"'], error="RuntimeError: [x] | boom")
    add_run("2", ["data=demo", "++tuner.rank=4", 'stage="2"'], final={"eval/loss": 0.25, F1: 0.5})
    add_run("10", ["data=demo", "++tuner.rank=8", 'stage="2"'])
    return tmp_path


def test_each_job_is_read_with_its_state_and_what_sets_it_apart(sweep):
    runs = read_runs(sweep)
    assert [(run.name, run.state) for run in runs.runs] == [
        ("0", "finished"),
        ("1", "failed"),
        ("2", "finished"),
        ("10", "unfinished"),
    ]
    assert runs.varied == ("tuner.rank", "stage")  # data is the same in all
    assert [tuple(run.overrides[key] for key in runs.varied) for run in runs.runs] == [
        ("4", "1"),
        ("8", "1"),
        ("4", "2"),
        ("8", "2"),
    ]
    assert runs.runs[1].error == "RuntimeError: [x] | boom"


@pytest.mark.parametrize(("mode", "best"), [("min", "a"), ("max", "b")])
def test_the_best_is_the_end_of_the_scale_that_the_checkpoints_look_for(add_run, tmp_path, mode, best):
    for name, value in (("a", 0.1), ("b", 0.9), ("c", 0.5), ("d", math.nan)):
        add_run(name, [f"seed={name}"], final={"eval/loss": value}, mode=mode)
    add_run("e", ["seed=e"], final={"eval/loss": -5.0 if mode == "min" else 5.0}, mode=mode, error="failed at its end")
    assert read_runs(tmp_path).best.name == best


def test_runs_that_monitor_nothing_have_no_best(add_run, tmp_path):
    add_run("0", [], final={F1: 0.5}, monitor=None)
    runs = read_runs(tmp_path)
    assert (runs.best, runs.monitor, runs.varied) == (None, None, ())
    print_runs(runs, tmp_path / "out", Console(quiet=True))
    assert F1 in (tmp_path / "out/runs.md").read_text()


def test_damaged_files_make_a_run_unfinished_and_stop_nothing(sweep):
    (sweep / "0/metrics.json").write_text('{"final": {"eval/lo')
    (sweep / "2/config.yaml").write_text("a: [")
    assert read_run(sweep / "0").state == "unfinished"
    runs = read_runs(sweep)
    assert runs.best.name == "2" and runs.monitor == "eval/loss"  # as the other jobs say


def test_the_folder_of_a_day_holds_runs_too_and_one_without_runs_is_refused(add_run, tmp_path):
    add_run("train/2026-01-01/09-00-00", [], final={"eval/loss": 1.0})
    assert [run.name for run in read_runs(tmp_path / "train").runs] == ["2026-01-01/09-00-00"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no runs; give the folder of a sweep"):
        read_runs(tmp_path / "empty")
    with pytest.raises(DataError, match="no such folder"):
        read_runs(tmp_path / "absent")


def test_terminal_and_files_say_the_same_about_every_job(sweep, tmp_path):
    console = Console(width=120, record=True, quiet=False, file=(tmp_path / "terminal.txt").open("w"))
    print_runs(read_runs(sweep), tmp_path / "out", console)
    printed = console.export_text()
    assert ["2", "*", "4", "2", "finished", "0.2500", "0.5000"] in [line.split() for line in printed.splitlines()]
    assert ["10", "8", "2", "unfinished", "–", "–"] in [line.split() for line in printed.splitlines()]
    assert "failed      1: RuntimeError: [x] | boom" in printed and "* best: lowest final eval/loss" in printed
    with (tmp_path / "out/runs.csv").open(newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["2"] == {"run": "2", "best": "*", "tuner.rank": "4", "stage": "2", "state": "finished"} | {
        "eval/loss": "0.25", F1: "0.5", "error": ""
    }  # fmt: skip
    assert (rows["1"]["state"], rows["1"]["eval/loss"], rows["1"]["error"]) == (
        "failed",
        "",
        "RuntimeError: [x] | boom",
    )
    markdown = (tmp_path / "out/runs.md").read_text().splitlines()
    assert markdown[4] == "| 2 | * | 4 | 2 | finished | 0.2500 | 0.5000 |  |"
    assert markdown[3].endswith(r"| RuntimeError: [x] \| boom |")


def test_the_plot_names_every_run_at_its_value_and_stars_the_best(sweep, tmp_path):
    runs = read_runs(sweep)
    figure = draw_plot(runs, ["eval/loss", F1])
    assert len(figure.axes) == 4  # two metrics by two overrides
    for axes, key in zip(figure.axes[:2], runs.varied, strict=True):
        named = {line for text in axes.texts for line in text.get_text().splitlines()}
        assert named == {"0", "2", "1 failed", "10 unfinished"}
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert list(star.get_ydata()) == [0.25]
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert len(crosses) == len({run.overrides[key] for run in runs.runs if run.state != "finished"})
    assert figure.get_suptitle() == "2 of 4 runs finished; best: 2 (eval/loss 0.25)"
    print_runs(read_runs(sweep), tmp_path / "out", Console(quiet=True))
    picture = cv2.imread(str(tmp_path / "out/runs.png"))
    assert picture.shape[0] > 500 and picture.std() > 10


def test_numbers_stand_at_their_value_and_wide_spans_are_logarithmic(add_run, tmp_path):
    for index, (rate, rank) in enumerate([("1e-5", "4"), ("1e-4", "5"), ("1e-3", "6")]):
        add_run(str(index), [f"rate={rate}", f"rank={rank}"], final={"eval/loss": float(index)})
    rate, rank = draw_plot(read_runs(tmp_path), ["eval/loss"]).axes
    assert (rate.get_xscale(), rank.get_xscale()) == ("log", "linear")
    drawn = [line.get_xdata()[0] for line in rate.lines if line.get_marker() in "*o"]
    assert drawn == [1e-5, 1e-4, 1e-3]


def test_runs_at_one_point_are_named_together(add_run, tmp_path):
    for index, seed in enumerate("123"):
        add_run(str(index), [f"seed={seed}", f"tuner={'lora' if index else 'full'}"], final={"eval/loss": 1.0})
    tuner = draw_plot(read_runs(tmp_path), ["eval/loss"]).axes[1]
    assert sorted(text.get_text() for text in tuner.texts) == ["0", "1, 2"]
    add_run("3", ["seed=4", "tuner=full"], error="boom")
    add_run("4", ["seed=5", "tuner=full"])
    add_run("5", ["seed=6", "tuner=full"], error="boom")
    tuner = draw_plot(read_runs(tmp_path), ["eval/loss"]).axes[1]
    assert sorted(text.get_text() for text in tuner.texts) == ["0", "1, 2", "3, 5 failed\n4 unfinished"]


def test_of_several_sources_terminal_and_plot_show_the_scores_of_all_together(add_run, tmp_path):
    scores = {"eval/zh/dense_f1@0.5": 0.1, "eval/en/dense_f1@0.5": 0.3, "eval/dense_f1@0.5": 0.2}
    add_run("0", ["stage=1"], final={"eval/loss": 0.5, **scores})
    add_run("1", ["stage=2"], final={"eval/loss": 0.4, **scores})
    assert few_keys(read_runs(tmp_path)) == ["eval/loss", "eval/dense_f1@0.5"]
