import json

import pytest

from qcvl.viz.dashboard import build_workspace, layout_json, picture_tables, sections

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")  # of wandb-workspaces


def test_the_layout_that_wandb_gets_holds_every_plot_and_groups_runs_by_sweep():
    layout = json.loads(layout_json(build_workspace("me", "mine", "view", ["val", "line_2"])))["section"]
    made = layout["panelBankConfig"]["sections"]
    wanted = sections(["val", "line_2"])
    assert [part["name"] for part in made] == [*wanted, "Pictures"]
    for part, plots in zip(made, wanted.values(), strict=False):
        drawn = [(panel["config"]["chartTitle"], tuple(panel["config"]["metrics"])) for panel in part["panels"]]
        assert drawn == [(plot.title, plot.keys) for plot in plots]
        patterns = [panel["config"].get("metricRegex") for panel in part["panels"]]
        assert patterns == [plot.pattern for plot in plots]
    for key in picture_tables(["val", "line_2"]):
        assert key in json.dumps(made[-1])
    assert layout["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]


def test_each_validation_source_has_scores_of_its_own():
    named = sections(["line_2"])
    assert "Scores: val" not in named
    keys = [key for plot in named["Scores: line_2"] for key in (*plot.keys, plot.pattern or "") if key]
    assert keys and all(key.startswith("eval/line_2/") for key in keys)
