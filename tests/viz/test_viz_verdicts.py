"""A table of verdicts, for the terminal and to post."""

import io

from rich.console import Console

from qcvl.viz.verdicts import Verdict, verdict_markdown, verdict_table

ROWS = [
    Verdict("logits", True, "differ by 1e-7", "at most 1e-4", "unused"),
    Verdict("labels", False, "[bold] | said", "all of it", "read label_audit.txt"),
]
FACTS = {"model": "my_weights", "device": "cpu"}


def test_the_terminal_shows_a_row_a_check_and_advice_for_failed_ones_alone():
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(verdict_table(ROWS, FACTS))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert lines[:2] == ["model my_weights", "device cpu"]
    assert "logits PASS differ by 1e-7 at most 1e-4" in lines
    assert "labels FAIL [bold] | said all of it" in lines and "next: read label_audit.txt" in lines
    assert "unused" not in console.file.getvalue()


def test_the_markdown_has_the_same_rows_with_bars_escaped():
    assert verdict_markdown(ROWS, FACTS) == (
        "- model: my_weights\n- device: cpu\n\n"
        "| check | result | found | expected |\n| --- | --- | --- | --- |\n"
        "| logits | PASS | differ by 1e-7 | at most 1e-4 |\n"
        "| labels | FAIL | [bold] \\| said | all of it |\n\n"
        "What to do next:\n\n- labels: read label_audit.txt\n"
    )
    assert "What to do next" not in verdict_markdown(ROWS[:1], FACTS)
