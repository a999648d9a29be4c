"""The forgetting benchmark: where methods are compared, what seeds say together, and the whole script in small."""

import json
import math
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def parts(readme, monkeypatch):
    monkeypatch.syspath_prepend(readme.checkout / "benchmarks" / "forgetting")
    import forgetting
    import matching
    import plot

    return SimpleNamespace(forgetting=forgetting, matching=matching, plot=plot)


def test_old_f1_is_read_from_the_line_between_the_points_around_the_level(parts):
    point, old_at = parts.matching.Point, parts.matching.old_at
    way = [point(0, 0.0, 1.0), point(12, 0.4, 0.6), point(24, 0.8, 0.2), point(36, 0.7, 0.0)]
    assert old_at(way, 0.5) == pytest.approx(0.5)  # a quarter of the way from .6 to .2
    assert old_at(way, 0.4) == 0.6 and old_at(way, 0.8) == pytest.approx(0.2)
    assert old_at(way, 0.81) is None


def test_old_f1_counts_where_the_level_is_reached_first_not_where_it_is_reached_again(parts):
    point, old_at = parts.matching.Point, parts.matching.old_at
    way = [point(0, 0.0, 1.0), point(1, 0.6, 0.9), point(2, 0.4, 0.5), point(3, 0.6, 0.1)]
    assert old_at(way, 0.5) == pytest.approx(1 - 0.1 * 5 / 6)


def test_the_interval_of_paired_seeds_is_students(parts):
    middle, half = parts.matching.paired([0.5, 0.7, 0.9, 0.6, 0.8], [0.4, 0.5, 0.6, 0.2, 0.3])
    assert middle == pytest.approx(0.3)  # differences .1 .2 .3 .4 .5, whose deviation is sqrt(.025)
    assert half == pytest.approx(2.776 * math.sqrt(0.025) / math.sqrt(5))
    assert parts.matching.paired([0.5], [0.4]) == (pytest.approx(0.1), math.inf)


def test_the_table_compares_only_seeds_that_both_methods_brought_to_the_level(parts):
    lines = [{"method": "base", "seed": 0, "at": 0, "new": 0.0, "old": 1.0}]
    for method, seed, new, old in (("SFT", 0, 1.0, 0.0), ("SFT", 1, 1.0, 0.2), ("half rate", 0, 1.0, 0.5)):
        lines.append({"method": method, "seed": seed, "at": 12, "new": new, "old": old})
    lines.append({"method": "half rate", "seed": 1, "at": 12, "new": 0.4, "old": 0.9})
    rows = parts.forgetting.table(parts.forgetting.read_runs(lines), 0.5)
    assert rows[2].startswith("| SFT | 2 of 2 | 0.550 |  |")
    assert rows[3] == "| half rate | 1 of 2 | 0.750 | +0.250 ± inf | 0.700 | 0.700 |"


def test_interpolation_scales_what_adapters_add_and_refuses_weights_that_moved_without_one(parts):
    model = torch.nn.ParameterDict({"lora_A": torch.ones(2), "lora_B": torch.ones(2), "base": torch.ones(2)})
    with pytest.raises(AssertionError, match="base"):
        parts.forgetting.shrink(model, 0.25)
    model["base"].requires_grad_(False)
    model["lora_B"].data.fill_(1)
    parts.forgetting.shrink(model, 0.25)
    assert [model[name].tolist() for name in ("lora_A", "lora_B", "base")] == [[1, 1], [0.25, 0.25], [1, 1]]


@pytest.mark.slow
def test_the_script_goes_on_where_it_ended_and_draws_what_it_found(parts, tmp_path, capsys):
    results, picture = tmp_path / "results.jsonl", tmp_path / "plot.png"
    small = ["--results", str(results), "--seeds", "0", "--steps", "4", "--every", "2", "--photos", "2"]
    parts.forgetting.main([*small, "--methods", "SFT"])
    first = results.read_text()
    parts.forgetting.main([*small, "--methods", "SFT", "anchor, weight 1", "--plot", str(picture), "--level", "0"])
    assert results.read_text().startswith(first)
    found = [(line["method"], line["at"]) for line in map(json.loads, results.read_text().splitlines())]
    ways = [("SFT", 2), ("SFT", 4), *(("interpolated weights", part) for part in (0.25, 0.5, 0.75, 1))]
    assert found == [("base", 0), *ways, ("anchor, weight 1", 2), ("anchor, weight 1", 4)]
    assert capsys.readouterr().out.count("| anchor, weight 1 |") == 1
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 60_000


def test_a_negative_is_its_scene_with_white_for_black_and_says_the_same(parts, tmp_path):
    from qcvl.data.images import load_image
    from qcvl.data.scenes.records import SceneRecords
    from qcvl.schema.records import Record

    parts.forgetting.write_negatives(tmp_path / "val.jsonl", 2, seed=3)
    lines = (tmp_path / "val.jsonl").read_text().splitlines()
    for line, scene in zip(lines, SceneRecords(2, 3, "base", "en"), strict=True):
        record = Record.from_json(line)
        assert [note.desc for note in record.annotations] == [note.desc for note in scene.annotations]
        assert (load_image(str(tmp_path / record.images[0])) + scene.images[0] == 255).all()


@pytest.mark.slow  # seven whole configurations are composed
def test_every_method_is_a_run_that_training_takes_and_differs_in_what_its_name_says(parts, tmp_path):
    from qcvl import config

    def built(method):
        written = {"seed": 1, "steps": 4, "every": 2, "photos": 3, "data": str(tmp_path), "folder": str(tmp_path)}
        return config.instantiate_settings(config.load("train", parts.forgetting.settings(method, **written)))

    runs = {method: built(method) for method in parts.forgetting.METHODS}
    assert all((run.stage.number, run.tuner.method, run.seed) == (3, "lora", 1) for run in runs.values())
    assert runs["half rate"].stage.rates["adapter"] == runs["SFT"].stage.rates["adapter"] / 2
    assert (runs["SFT"].tuner.rank, runs["rank 4"].tuner.rank) == (32, 4)
    assert dict(runs["5 % replay"].data.weights) == {"new": 0.95, "old": 0.05}
    shares = {method: run.objective.llm_kd_weight for method, run in runs.items() if method.startswith("anchor")}
    assert shares == {"anchor, weight 0.25": 0.25, "anchor, weight 1": 1, "anchor, drawn answers": 1}
    assert [runs[f"anchor, {name}"].objective.lmbda for name in ("weight 1", "drawn answers")] == [0, 0.5]
