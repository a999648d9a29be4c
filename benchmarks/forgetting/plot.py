"""The way of each method through (new F1, old F1)."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matching import Point


def mean_way(seeds: Mapping[int, Sequence[Point]]) -> tuple[list[float], list[float]]:
    """New and old F1 of each point, means over the seeds."""
    columns = list(zip(*seeds.values(), strict=True))
    return [statistics.mean(p.new for p in column) for column in columns], [
        statistics.mean(p.old for p in column) for column in columns
    ]


def draw(runs: Mapping[str, Mapping[int, Sequence[Point]]], level: float, path: Path) -> None:
    """One line a method, a mark a point, all from the base model at the upper left."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.8), dpi=100)
    for (method, seeds), mark in zip(runs.items(), "osv^DPX*h", strict=False):
        axes.plot(*mean_way(seeds), marker=mark, markersize=5, linewidth=1.2, label=method)
    axes.axvline(level, color="0.7", linewidth=1, zorder=0)
    axes.set(xlabel="F1 on the new task", ylabel="F1 on the old task", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(fontsize=7, loc="center left")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
