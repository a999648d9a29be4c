"""Several runs in one table (terminal, ``runs.csv``, ``runs.md``) and one plot (``runs.png``)."""

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qcvl.viz.report import ABSENT, headline
from qcvl.viz.runs import RunFolder, Runs
from qcvl.viz.runs_plot import save_plot

_STYLES = {"finished": "", "failed": "red", "unfinished": "yellow"}
_SHORT = re.compile(r"/(dense_f1@[\d.]+|json_valid|summary_exact)$")  # what the terminal and the plot have room for


def write_report(runs: Runs, folder: Path) -> list[Path]:
    """Write ``runs.csv`` (every final metric), ``runs.md`` and ``runs.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("runs.csv", "runs.md", "runs.png")]
    everything = (key for run in runs.runs for key in run.metrics.get("final", {}))
    all_keys = list(dict.fromkeys([*shown_keys(runs), *everything]))
    with paths[0].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(_rows(runs, all_keys, repr))
    paths[1].write_text(_markdown(_rows(runs, shown_keys(runs), _number)), encoding="utf-8")
    save_plot(runs, few_keys(runs), paths[2])
    return paths


def print_runs(runs: Runs, folder: Path, console: Console) -> None:
    """Print the table and why runs failed, write the files of ``write_report`` and say where they are."""
    console.print(runs_table(runs))
    for run in runs.runs:
        if run.error:
            console.print(f"{run.state:11} {run.name}: {run.error}", highlight=False, markup=False, soft_wrap=True)
    for path in write_report(runs, folder):
        kind = "plot" if path.suffix == ".png" else "table"
        console.print(f"{kind:11} {path}", highlight=False, markup=False, soft_wrap=True)


def runs_table(runs: Runs) -> Table:
    """One row a run: its own overrides, its state and a few final scores; the best run is marked."""
    keys = few_keys(runs)
    table = Table(title="Runs", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("run", *runs.varied, "state"):
        table.add_column(Text(name), overflow="fold")
    for key in keys:
        table.add_column(Text(key), justify="right", overflow="fold")
    for run in runs.runs:
        best = run is runs.best
        cells = [f"{run.name} *" if best else run.name, *_chosen(run, runs.varied), run.state]
        cells += [_number(run.metrics.get("final", {}).get(key)) for key in keys]
        table.add_row(*(Text(cell) for cell in cells), style="bold green" if best else _STYLES[run.state])
    if runs.best is not None:
        table.caption = Text(f"* best: {'highest' if runs.mode == 'max' else 'lowest'} final {runs.monitor}")
    return table


def shown_keys(runs: Runs) -> list[str]:
    """The metrics of ``runs.md``: what is monitored, then the scores that ``results_table`` shows too."""
    scores = [key for run in runs.runs for key in headline(run.metrics.get("final", {}))]
    return list(dict.fromkeys([*([runs.monitor] if runs.monitor else []), *scores]))


def few_keys(runs: Runs) -> list[str]:
    """What is monitored, and the first scores to look at: of all sources together where there are several."""
    keys = shown_keys(runs)
    scores = [key for key in keys if _SHORT.search(key)]
    scores = [key for key in scores if key.count("/") == 1] or scores
    return [key for key in keys if key == runs.monitor or key in scores] or keys


def _rows(runs: Runs, keys: Sequence[str], written: Callable[[float], str]) -> list[list[str]]:
    """The header and a row a run, for files, with the reason of a failure."""
    rows = [["run", "best", *runs.varied, "state", *keys, "error"]]
    for run in runs.runs:
        final = run.metrics.get("final", {})
        numbers = [written(final[key]) if key in final else "" for key in keys]
        mark = "*" if run is runs.best else ""
        rows.append([run.name, mark, *_chosen(run, runs.varied), run.state, *numbers, run.error])
    return rows


def _chosen(run: RunFolder, keys: Sequence[str]) -> list[str]:
    return [run.overrides.get(key, ABSENT) for key in keys]


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"
