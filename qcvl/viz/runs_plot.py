"""Final metrics of several runs against the overrides in which they differ: one panel a metric and override."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcvl.viz.runs import RunFolder, Runs

_PANEL_INCHES = (4.2, 2.8)
_METRICS = 2  # rows of panels: the monitored metric, then the first of the others
_ROOM = 0.35  # of the height, below the points where runs without a value are named
_WIDE = 8.0  # largest over smallest number from which the axis is logarithmic
_TICKS = 6  # as many different numbers are written at their places; more get round ticks
_BEST, _OTHER, _WITHOUT = "tab:green", "tab:blue", "tab:red"


def save_plot(runs: Runs, metrics: Sequence[str], path: Path) -> None:
    """Write ``draw_plot`` as PNG."""
    draw_plot(runs, metrics).savefig(path, dpi=130)


def draw_plot(runs: Runs, metrics: Sequence[str]) -> Figure:
    """The first of ``metrics``: each run a point with its name, the best a star, those without a value a cross.

    A line joins the means where several runs share a value. Without differing overrides the runs stand side by side.
    """
    rows, columns = list(metrics[:_METRICS]) or [""], list(runs.varied) or [""]
    size = (_PANEL_INCHES[0] * len(columns), _PANEL_INCHES[1] * len(rows) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
    for row, metric in enumerate(rows):
        for column, key in enumerate(columns):
            _draw(panels[row][column], runs, metric, key)
            panels[row][column].set_ylabel(metric if column == 0 else "")
            panels[row][column].set_xlabel((key or "run") if row == len(rows) - 1 else "")
        low, high = panels[row][0].get_ylim()  # of the whole row
        if any(_value(run, metric) is None for run in runs.runs):
            panels[row][0].set_ylim(low - _ROOM * (high - low), high)
    figure.suptitle(_title(runs), fontsize=10)
    return figure


def _title(runs: Runs) -> str:
    done = sum(run.state == "finished" for run in runs.runs)
    text = f"{done} of {len(runs.runs)} runs finished"
    if runs.best is None:
        return text
    return f"{text}; best: {runs.best.name} ({runs.monitor} {runs.value(runs.best):.4g})"


def _draw(axes: Axes, runs: Runs, metric: str, key: str) -> None:
    places = _places(axes, [run.overrides.get(key, "") if key else run.name for run in runs.runs])
    values = [_value(run, metric) for run in runs.runs]
    by_place: dict[float, list[float]] = {}
    for place, value in zip(places, values, strict=True):
        if value is not None:
            by_place.setdefault(place, []).append(value)
    joined = sorted(by_place)
    axes.plot(joined, [sum(by_place[x]) / len(by_place[x]) for x in joined], color="0.8", zorder=1)
    points: dict[tuple[float, float], list[RunFolder]] = {}
    without: dict[float, dict[str, list[str]]] = {}
    for run, x, value in zip(runs.runs, places, values, strict=True):
        if value is None:
            state = "without value" if run.state == "finished" else run.state
            without.setdefault(x, {}).setdefault(state, []).append(run.name)
        else:
            points.setdefault((x, value), []).append(run)
    for (x, value), there in points.items():
        _mark(axes, ", ".join(run.name for run in there), x, value, best=runs.best in there)
    for x, names in without.items():
        _mark_without(axes, "\n".join(f"{', '.join(names[state])} {state}" for state in names), x)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.margins(x=0.15, y=0.15)


def _mark(axes: Axes, names: str, x: float, value: float, *, best: bool) -> None:
    marker, color, size = ("*", _BEST, 13) if best else ("o", _OTHER, 6)
    axes.plot([x], [value], marker, color=color, markersize=size, zorder=2)
    axes.annotate(names, (x, value), xytext=(6, 4), textcoords="offset points", size=8, color=color)


def _mark_without(axes: Axes, text: str, x: float) -> None:
    """A cross on the lower edge."""
    edge = axes.get_xaxis_transform()
    axes.plot([x], [0.03], "x", color=_WITHOUT, transform=edge, zorder=3)
    style: dict[str, Any] = {"color": _WITHOUT, "size": 7, "rotation": 90, "ha": "center", "va": "bottom"}
    axes.annotate(text, (x, 0.03), xycoords=edge, xytext=(0, 5), textcoords="offset points", **style)


def _value(run: RunFolder, metric: str) -> float | None:
    value = run.metrics.get("final", {}).get(metric) if run.state == "finished" else None
    return value if value is not None and math.isfinite(value) else None


def _places(axes: Axes, words: Sequence[str]) -> list[float]:
    """Where values stand on the x axis: numbers at their value, words side by side in the order they come in."""
    numbers = [_as_number(word) for word in words]
    placed = [number for number in numbers if number is not None]
    if len(placed) == len(words) and len(set(placed)) > 2:
        if min(placed) > 0 and max(placed) / min(placed) >= _WIDE:
            axes.set_xscale("log")
        if len(set(placed)) <= _TICKS:
            ticks = dict(zip(placed, words, strict=True))
            axes.set_xticks(list(ticks), list(ticks.values()), size=8)
            axes.set_xticks([], minor=True)
        elif axes.get_xscale() == "linear":
            axes.ticklabel_format(axis="x", scilimits=(-3, 5))
        return placed
    order = list(dict.fromkeys(words))
    if len(placed) == len(words):
        order.sort(key=float)
    axes.set_xticks(range(len(order)), [word or "(default)" for word in order], size=8)
    return [float(order.index(word)) for word in words]


def _as_number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
