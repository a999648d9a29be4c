"""A table of checks that passed or failed: for the terminal, for a file, and to post."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

MARKS = {True: "PASS", False: "FAIL"}
COLORS = {True: "green", False: "bold red"}
COLUMNS = ("check", "result", "found", "expected")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check: whether it passed, what was found and expected, and what to do where it failed."""

    check: str
    passed: bool
    found: str
    expected: str
    advice: str


def verdict_table(verdicts: Sequence[Verdict], facts: Mapping[str, str]) -> Table:
    """One row a check, under a title of ``facts``; below a failed one, what to do next."""
    title = "\n".join(f"{name} {value}" for name, value in facts.items())
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in verdicts:
        mark = Text(MARKS[row.passed], style=COLORS[row.passed])
        table.add_row(Text(row.check), mark, Text(row.found), Text(row.expected))
        if not row.passed:
            table.add_row("", "", Text(f"next: {row.advice}", style="yellow"), "")
    return table


def verdict_markdown(verdicts: Sequence[Verdict], facts: Mapping[str, str]) -> str:
    """The same as a Markdown text; advice follows the table."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [(row.check, MARKS[row.passed], row.found, row.expected) for row in verdicts]
    table = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    told = [f"- {name}: {value}" for name, value in facts.items()]
    advice = [f"- {row.check}: {row.advice}" for row in verdicts if not row.passed]
    parts = [told, table, *([["What to do next:", "", *advice]] if advice else [])]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
