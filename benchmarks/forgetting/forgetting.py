"""How much of an old task is left where a new one is learned: SFT and six remedies, paired seeds, one CPU core.

    python benchmarks/forgetting/forgetting.py --results outputs/forgetting.jsonl --plot outputs/forgetting.png

The old task is what the embedded model was trained on; the new one is the same scenes in negative. Each point is a line
of the results file; a second start goes on where the first ended.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matching import Point, old_at, paired
from methods import INTERPOLATED, METHODS, PARTS, settings
from negatives import write_negatives

Runs = dict[str, dict[int, list[Point]]]  # of a method, by seed


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    """F1 at IoU .5 with the description exactly right, on both tasks."""
    return {task: float(metrics[f"eval/{task}/dense_f1@0.5"]) for task in ("old", "new")}


def train(method: str, seed: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Points of one run; SFT also gives those between its end and the base."""
    from qcvl import config

    folder = Path(tempfile.mkdtemp(prefix="forgetting-"))
    start = time.process_time()
    chosen = {"steps": options.steps, "every": options.every, "photos": options.photos, "data": str(options.data)}
    run = config.build(config.load("train", settings(method, seed=seed, folder=str(folder), **chosen)))
    run.datamodule.prepare_data()
    run.datamodule.setup("fit")
    run.module.configure_model()
    if options.base_is_missing:
        run.trainer.validate(run.module, run.datamodule, verbose=False)
        yield {"method": "base", "seed": seed, "at": 0, **scores(run.trainer.callback_metrics)}
        options.base_is_missing = False
    run.trainer.fit(run.module, run.datamodule)
    seconds = time.process_time() - start
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    met = {row["step"] + 1: row for row in rows if "eval/old/dense_f1@0.5" in row and row["step"] > 0}
    for step, row in met.items():
        yield {"method": method, "seed": seed, "at": step, **scores(row), "core_seconds": round(seconds, 1)}
    if method == "SFT":
        for part in PARTS:
            shrink(run.module.model, part)
            run.trainer.validate(run.module, run.datamodule, verbose=False)
            yield {"method": INTERPOLATED, "seed": seed, "at": part, **scores(run.trainer.callback_metrics)}
            shrink(run.module.model, 1 / part)
        yield {"method": INTERPOLATED, "seed": seed, "at": 1, **scores(met[max(met)])}
    shutil.rmtree(folder)


def shrink(model: Any, part: float) -> None:
    """Multiply what adapters add to the base's weights: ``W + part * B A``, the weights between base and student."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_A" in name:
            continue
        assert "lora_B" in name, f"{name} moves without an adapter"
        parameter.data *= part


def collect(options: argparse.Namespace) -> None:
    """Run what the results file lacks, seed after seed."""
    options.data = options.results.absolute().parent / "negatives"
    for split, count, seed in (("train", 1000, 11), ("val", options.photos, 22)):
        write_negatives(options.data / f"{split}.jsonl", count, seed)
    for seed in options.seeds:
        for method in options.methods:
            lines = read_lines(options.results)
            if any(line["method"] == method and line["seed"] == seed for line in lines):
                continue
            options.base_is_missing = not any(line["method"] == "base" for line in lines)
            points = list(train(method, seed, options))  # a run is written whole
            with options.results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(point) + "\n" for point in points)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The points there are."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def read_runs(lines: list[dict[str, Any]]) -> Runs:
    """Points in their order, each run's beginning with the base."""
    base = next(Point(0, line["new"], line["old"]) for line in lines if line["method"] == "base")
    runs: Runs = {}
    for line in lines:
        if line["method"] != "base":
            points = runs.setdefault(line["method"], {}).setdefault(line["seed"], [base])
            points.append(Point(line["at"], line["new"], line["old"]))
    return {method: {seed: sorted(points) for seed, points in seeds.items()} for method, seeds in runs.items()}


def table(runs: Runs, level: float) -> list[str]:
    """Markdown: old-task F1 at ``level``, its difference to SFT over the seeds that both reached, and the ends."""
    rows = [
        f"| method | seeds | old F1 at new F1 {level:g} | less SFT's, 95 % | new F1 at the end | old F1 at the end |",
        "|---|---|---|---|---|---|",
    ]
    matched = {method: reached(seeds, level) for method, seeds in runs.items()}
    for method, seeds in runs.items():
        own, common = matched[method], sorted(matched[method].keys() & matched["SFT"].keys())
        if own:
            middle, half = paired([own[seed] for seed in common], [matched["SFT"][seed] for seed in common])
            at_level = f"{statistics.mean(own.values()):.3f}"
            versus = "" if method == "SFT" else f"{middle:+.3f} ± {half:.3f}"
        else:
            at_level, versus = "not reached", ""
        ends = [points[-1] for points in seeds.values()]
        new, old = (statistics.mean(column) for column in ([p.new for p in ends], [p.old for p in ends]))
        rows.append(f"| {method} | {len(own)} of {len(seeds)} | {at_level} | {versus} | {new:.3f} | {old:.3f} |")
    return rows


def reached(seeds: dict[int, list[Point]], level: float) -> dict[int, float]:
    """Old-task F1 at the level, by seed, of the seeds that reach it."""
    values = {seed: old_at(points, level) for seed, points in seeds.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, read and added to")
    parser.add_argument("--plot", type=Path, help="a PNG to draw")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="none: only read the results")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=96)
    parser.add_argument("--every", type=int, default=24, help="steps between points, 2 or more")
    parser.add_argument("--photos", type=int, default=40, help="held-out photos of each task")
    parser.add_argument("--level", type=float, default=0.6, help="new-task F1 at which methods are compared")
    options = parser.parse_args(arguments)
    collect(options)
    runs = read_runs(read_lines(options.results))
    print("\n".join(table(runs, options.level)))
    if options.plot:
        from plot import draw

        draw(runs, options.level, options.plot)


if __name__ == "__main__":
    sys.exit(main())
