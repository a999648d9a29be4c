"""Tables by class and by group: what they show, how many rows, and at 80 columns."""

import pytest
from rich.console import Console

from qcvl.metrics.classes import ClassScores, ClassTable, Confusion, GroupScores
from qcvl.metrics.counts import DetectionCounts
from qcvl.viz.scores import score_tables

CLASSES = [
    ClassScores("open [red]", DetectionCounts(tp=3, fp=1, fn=1), 0.7),
    ClassScores("铭牌/颜色:蓝色", DetectionCounts(tp=1, fn=3), 0.25),
    ClassScores("ghost", DetectionCounts(fp=2), None),
]
TABLE = ClassTable(0.33, CLASSES, [Confusion("open [red]", "ghost", 2)])
GROUPS = [
    GroupScores("board 7", 4, DetectionCounts(tp=1, fp=1, fn=1), True),
    GroupScores("board 9", 2, DetectionCounts(), False),
]


def rows(renderables, width: int = 80) -> list[list[str]]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        for item in renderables:
            console.print(item)
    return [" ".join(line.split()) for line in capture.get().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
def test_classes_misnamed_objects_and_groups_have_a_table_each(width):
    text = rows(score_tables(TABLE, GROUPS, "board"), width)
    assert "Classes (found from IoU 0.33 on)" in text
    assert "open [red] 4 3 1 1 75.0 75.0 75.0 70.0" in text
    assert "铭牌/颜色:蓝色 4 1 3 0 100.0 25.0 40.0 25.0" in text
    assert "ghost 0 0 0 2 0.0 – – –" in text
    assert "mean 87.5 50.0 57.5 47.5" in text  # of the two classes that have true objects
    assert "open [red] ghost 2" in text
    assert "board photos true missed false F1 % in training" in text
    assert "board 7 4 2 1 1 50.0 seen" in text and "board 9 2 0 0 0 – unseen" in text


def test_what_has_no_rows_has_no_table():
    assert score_tables(ClassTable(0.5, [], []), [], "board") == []
    text = rows(score_tables(ClassTable(0.5, [], []), [GroupScores("7", 1, DetectionCounts(tp=1), None)], "board"))
    assert "board photos true missed false F1 %" in text and "7 1 1 0 0 100.0" in text


def test_long_tables_end_with_where_the_rest_is():
    many = [ClassScores(f"part {n}", DetectionCounts(tp=1), 1.0) for n in range(50)]
    text = rows(score_tables(ClassTable(0.5, many, []), [], "board"))
    assert "30 more in classes.json" in text and any(row.startswith("part 19 ") for row in text)
    assert not any(row.startswith("part 20 ") for row in text)
