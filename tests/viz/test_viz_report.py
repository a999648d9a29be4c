"""Terminal tables: order, units, directions, and texts that look like markup."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from qcvl.viz.report import headline, results_table, settings_tree, towers_table

INITIAL = {"eval/val/dense_f1@0.5": 0.1, "eval/val/loss": 2.0, "eval/val/dense_objects": 40}
FINAL = {
    "eval/val/loss": 0.5,
    "eval/val/dense_objects": 40,
    "eval/val/dense_r@0.5": 0.9,
    "eval/val/dense_f1@0.5": 0.85,
    "eval/val/json_failed": 0.25,
    "eval/val/line_f1@0.5": 0.5,
}


def rendered(renderable: object) -> str:
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def cells(table: object) -> dict[str, list[str]]:
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return {name: list(values) for name, *values in zip(*columns, strict=True)}


def styles(table: object) -> dict[str, str]:
    return {
        str(name): change.style for name, change in zip(table.columns[0].cells, table.columns[3].cells, strict=True)
    }


def test_shares_are_percentages_and_losses_numbers_with_their_change():
    rows = cells(results_table(INITIAL, FINAL))

    assert rows["eval/val/dense_f1@0.5"] == ["10.0 %", "85.0 %", "+75.0"]
    assert rows["eval/val/loss"] == ["2.0000", "0.5000", "-1.5000"]
    assert rows["eval/val/dense_objects"] == ["40", "40", "+0"]
    assert rows["eval/val/dense_r@0.5"] == ["–", "90.0 %", "–"]


def test_the_best_column_appears_only_when_asked_for():
    assert cells(results_table(INITIAL, FINAL, {"eval/val/loss": 0.25}))["eval/val/loss"][-1] == "0.2500"
    assert len(results_table(INITIAL, FINAL).columns) == 4


def test_rows_begin_with_losses_and_put_f1_before_recall_and_regions_before_lines():
    assert list(cells(results_table(INITIAL, FINAL))) == [
        "eval/val/loss",
        "eval/val/dense_f1@0.5",
        "eval/val/dense_r@0.5",
        "eval/val/line_f1@0.5",
        "eval/val/json_failed",
        "eval/val/dense_objects",
    ]


@pytest.mark.parametrize(
    ("key", "before", "after", "style"),
    [
        ("loss", 1.0, 0.5, "green"),
        ("loss", 0.5, 1.0, "red"),
        ("dense_f1@0.5", 0.1, 0.2, "green"),
        ("bbox_2d_p@0.75", 0.2, 0.1, "red"),
        ("token_acc", 0.1, 0.2, "green"),
        ("json_valid", 0.1, 0.2, "green"),
        ("json_truncated", 0.1, 0.2, "red"),
        ("dense_duplicate_rate", 0.1, 0.2, "red"),
        ("line_chamfer_px", 3.0, 1.0, "green"),
        ("dense_predictions", 3, 9, "dim"),
        ("dense_f1@0.5", 0.1, 0.1000001, "dim"),
    ],
)
def test_a_change_is_green_when_it_is_for_the_better(key, before, after, style):
    assert styles(results_table({key: before}, {key: after}))[key] == style


def test_a_headline_of_several_sources_keeps_all_of_the_pooled_scores_and_the_dense_f1_of_each():
    pooled = {"eval/loss": 1.0, "eval/dense_f1@0.5": 0.5, "eval/quad_f1@0.5": 0.4, "eval/json_valid": 1.0}
    each = {"eval/zh/dense_f1@0.5": 0.6, "eval/zh/quad_f1@0.5": 0.3, "eval/en/dense_f1@0.5": 0.2}
    assert headline(pooled | each) == pooled | {"eval/zh/dense_f1@0.5": 0.6, "eval/en/dense_f1@0.5": 0.2}
    alone = {"eval/loss": 1.0, "eval/val/dense_f1@0.5": 0.5, "eval/val/quad_f1@0.5": 0.4}
    assert headline(alone) == alone


def test_results_without_a_first_evaluation_have_one_column_of_values():
    table = results_table({}, {"eval/loss": 1.0})
    assert [column.header for column in table.columns] == ["metric", "value"]


def test_a_headline_keeps_f1_at_half_and_leaves_out_the_other_detection_scores():
    assert headline({"loss": 1, "dense_f1@0.5": 2, "dense_f1@0.75": 3, "dense_p@0.5": 4, "json_valid": 5}) == {
        "loss": 1,
        "dense_f1@0.5": 2,
        "json_valid": 5,
    }


def test_a_headline_takes_the_iou_that_was_asked_for_and_half_where_it_was_not_measured():
    metrics = {f"eval/val/dense_{name}@{iou}": 1 for name in ("f1", "p", "map_constant") for iou in (0.33, 0.5)}
    metrics["eval/val/dense_map_constant@0.5:0.95"] = 1
    assert set(headline(metrics, 0.33)) == {"eval/val/dense_f1@0.33", "eval/val/dense_map_constant@0.33"}
    assert (
        set(headline(metrics))
        == {"eval/val/dense_f1@0.5", "eval/val/dense_map_constant@0.5"}
        == set(headline(metrics, 0.6))
    )


def test_a_headline_shows_the_dense_scores_of_groups_scored_apart():
    names = ("dense_f1@0.5", "dense_map_constant@0.5", "line_f1@0.5", "json_valid")
    metrics = {f"eval/val/{part}{name}": 1.0 for part in ("", "seen/", "unseen/") for name in names}
    apart = {key for key in headline(metrics) if "seen" in key}
    assert apart == {f"eval/val/{part}/{name}" for part in ("seen", "unseen") for name in names[:2]}
    assert len(headline(metrics)) == 8
    assert headline({"eval/zh/summary_exact": 1.0}) == {"eval/zh/summary_exact": 1.0}


def test_values_stand_beside_their_intervals_and_map_behind_f1_in_percent():
    values = {"eval/dense_map_constant@0.5": 0.5, "eval/dense_p@0.5": 0.75, "eval/dense_f1@0.5": 0.8949}
    rows = cells(results_table({}, values, intervals={"eval/dense_f1@0.5": (0.861, 0.9236)}))
    assert rows == {
        "eval/dense_f1@0.5": ["89.5 % [86.1, 92.4]"],
        "eval/dense_p@0.5": ["75.0 %"],
        "eval/dense_map_constant@0.5": ["50.0 %"],
    }
    assert list(rows)[0] == "eval/dense_f1@0.5" and list(rows)[-1] == "eval/dense_map_constant@0.5"


def test_a_settings_tree_shows_every_value_and_no_text_becomes_markup():
    config = {
        "model": {"_target_": "qcvl.models.spec.ModelSpec", "path": "[red]/data/[/x]", "layers": [2, 3], "tower": None},
        "ops": [{"_target_": "qcvl.augment.crop.Crop", "p": 0.5}],
        "prompt": "line 1\nline 2",
        "empty": {},
        "name": "",
    }
    text = rendered(settings_tree(config, "run [1]"))

    for part in ("run [1]", "[red]/data/[/x]", "[2, 3]", "tower: null", "qcvl.models.spec.ModelSpec", "p: 0.5",
                 r'"line 1\nline 2"', "empty: {}", 'name: ""', "qcvl.augment.crop.Crop"):  # fmt: skip
        assert part in text


def test_a_towers_table_ends_with_the_sums_and_names_where_a_rate_is_from():
    rows = [
        SimpleNamespace(tower="vision", total=3000, trained=0, how="frozen", rate=None, source="stage 2"),
        SimpleNamespace(tower="llm", total=1000, trained=40, how="lora", rate=1e-4, source="stage.rates[llm]"),
    ]
    text = rendered(towers_table(rows))

    assert "stage.rates[llm]" in text
    vision, llm, total = (next(row.split() for row in text.splitlines() if f" {name} " in row) for name in
                          ("vision", "llm", "sum"))  # fmt: skip
    assert vision[1:5] == ["3,000", "0", "0.00%", "frozen"]
    assert llm[1:6] == ["1,000", "40", "4.00%", "lora", "0.0001"]
    assert total[1:4] == ["4,000", "40", "1.00%"]
