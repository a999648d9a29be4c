"""What distillation brings on the tiny model: a smaller student from random weights, and the four recipes.

    python benchmarks/distillation/compare.py --out outputs/distillation

Each run is one ``python -m qcvl.train`` in a process of its own, and one entry of ``OUT/results.json``: a run that is
there is not made again, so a stopped comparison goes on where it was. The tables are printed as Markdown at the end.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2

from qcvl.data.prepared import prepare_folder
from qcvl.data.scenes.records import SceneRecords

HERE = Path(__file__).resolve().parent
F1, PLACE_F1 = "eval/dense_f1@0.5", "eval/dense_loc_f1@0.5"
LOSSES = ("sft_loss", "llm_kd_loss", "vision_kd_loss")
SHARES = {"zh": 0.6, "en": 0.4}  # of the photos
SCENE_SEEDS = {"train_zh": 1, "train_en": 2, "val_zh": 3, "val_en": 4}

STUDENT = (  # 2 layers for 3, MLPs half as wide, an eye half as wide; the embedded model's visual tokens and words
    "experiment=tiny_pretrain",
    "data=demo",
    "model.architecture.text_config.num_hidden_layers=2",
    "model.architecture.text_config.intermediate_size=160",
    "model.architecture.vision_config.depth=2",
    "model.architecture.vision_config.hidden_size=48",
    "model.architecture.vision_config.intermediate_size=144",
    "model.architecture.vision_config.deepstack_visual_indexes=[0]",
    "trainer.val_check_interval=1.0",
)
TEACHER = ("objective=gkd_forward_only", "objective.teacher=embedded:tiny", "objective.beta=0")
EYE = (
    "objective.visual_kd.enabled=true",
    "objective.visual_kd.distance=cosine",
    "objective.visual_kd.weight=3.0",
)
ARMS = {
    "sft": ("objective=sft",),
    "distilled": (*TEACHER, *EYE),
    "distilled_words": TEACHER,
}
RECIPES = {  # name: (its own settings, the run of SFT that it is compared with)
    "sft_stage2": (("stage=2", "tuner=lora"), None),
    "stage2_gkd": (("experiment=stage2_gkd",), "sft_stage2"),
    "gkd_forward_only": (("experiment=gkd_forward_only",), "sft_stage2"),
    "sft_stage3": (("stage=3", "tuner=lora"), None),
    "stage3_gkd": (("experiment=stage3_gkd",), "sft_stage3"),
    "stage3_gkd_visual": (("experiment=stage3_gkd_visual",), "sft_stage3"),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training run: its name in the results and what follows ``python -m qcvl.train``."""

    name: str
    settings: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are not there yet, then print the tables."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "results.json")
    for run in chosen(options):
        if run.name not in results.rows:
            results.add(run.name, train(run, options.out))
    print(student_table(results.rows), recipe_table(results.rows), sep="\n\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/distillation"))
    parser.add_argument("--parts", nargs="+", choices=("student", "recipes"), default=["student", "recipes"])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=["sft", "distilled"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of a student; 16 photos each")
    parser.add_argument("--photos", type=int, default=4000, help="that students train on")
    parser.add_argument("--held-out", type=int, default=100, help="photos that students answer")
    parser.add_argument("--recipe-steps", type=int, default=60, help="16 photos each")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    return options


def chosen(options: argparse.Namespace) -> list[Run]:
    """The runs in order: arms side by side within a seed, so that a comparison that is stopped holds whole pairs."""
    runs = []
    if "student" in options.parts:
        photos = draw_photos(options.out / "photos", {"train": options.photos, "val": options.held_out})
        common = (*STUDENT, *sources(photos), f"trainer.max_steps={options.steps}")
        runs += [
            Run(f"{arm}_{options.steps}_seed{seed}", (*common, *ARMS[arm], f"seed={seed}", f"model.seed={seed}"))
            for seed in options.seeds
            for arm in options.arms
        ]
    if "recipes" in options.parts:
        limit = f"trainer.max_steps={options.recipe_steps}"
        runs += [Run(name, (*settings, limit)) for name, (settings, _) in RECIPES.items()]
    return runs


def draw_photos(folder: Path, counts: Mapping[str, int]) -> Path:
    """Scenes as the embedded model was trained on, as PNG with a JSONL file for each split and language."""

    def draw(draft: Path) -> None:
        (draft / "images").mkdir()
        for name, seed in SCENE_SEEDS.items():
            split, language = name.split("_")
            scenes = SceneRecords(
                length=round(counts[split] * SHARES[language]), seed=seed, domain="base", language=language
            )
            lines = []
            for index, record in enumerate(scenes):
                file = f"images/{name}_{index:05d}.png"
                cv2.imwrite(str(draft / file), record.images[0][..., ::-1])
                lines.append(replace(record, images=(file,)).to_json() + "\n")
            (draft / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    return prepare_folder(folder, {"data": "distillation photos", **counts}, draw)


def sources(photos: Path) -> list[str]:
    """The settings that put these photos in place of the demo's."""
    return [f"data.{name.replace('_', '.')}.path={photos}/{name}.jsonl" for name in SCENE_SEEDS]


def train(run: Run, out: Path) -> Row:
    """Train, and read what the run says of itself.

    Raises:
        SystemExit: with the end of what it printed when it fails.
    """
    folder, clock = out / run.name, out / f"{run.name}.clock.json"
    shutil.rmtree(folder, ignore_errors=True)  # of a comparison that was stopped
    common = (
        f"data.folder={out}/demo",
        "data.num_workers=0",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false",
        "~callbacks.progress",
        "generation.max_new_tokens=256",
        "generation.batch_size=50",
        "trusted_targets=[step_clock]",
        "+callbacks.clock._target_=step_clock.StepClock",
        f"+callbacks.clock.path={clock}",
        f"hydra.run.dir={folder}",
    )
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "qcvl.train", *run.settings, *common]
    print(f"{run.name} …", flush=True)
    with (out / f"{run.name}.txt").open("w") as log:
        code = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT
        ).returncode
    if code:
        raise SystemExit(f"{run.name} ended with {code}:\n{(out / log.name).read_text()[-3000:]}")
    return read(folder) | json.loads(clock.read_text())


def read(folder: Path) -> Row:
    """Scores before and after, losses of the first and of the last ten steps, core-minutes of a finished run."""
    scores = json.loads((folder / "metrics.json").read_text())
    rows = [json.loads(line) for line in (folder / "logging.jsonl").read_text().splitlines()]
    losses = {name: [row[f"train/{name}"] for row in rows if f"train/{name}" in row] for name in LOSSES}
    return {
        "f1": [scores[when][F1] for when in ("initial", "final")],
        "place_f1": [scores[when][PLACE_F1] for when in ("initial", "final")],
        "token_acc": scores["final"]["eval/token_acc"],
        "eval_sft_loss": scores["final"]["eval/sft_loss"],
        "losses": {name: [values[0], statistics.mean(values[-10:])] for name, values in losses.items() if values},
        "steps": len(losses["sft_loss"]),
        "core_minutes": json.loads((folder / "cost.json").read_text())["core_minutes"],
    }


class Results:
    """The rows of finished runs, on disk as soon as they are known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, row: Row) -> None:
        self.rows[name] = row
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.rows, indent=1))
        draft.replace(self.path)


def student_table(rows: Mapping[str, Row]) -> str:
    """A line for each arm and number of steps, its seeds side by side."""
    groups: dict[str, list[Row]] = {}
    for name, row in rows.items():
        group, mark, _ = name.rpartition("_seed")
        if mark:
            groups.setdefault(group, []).append(row)
    lines = [
        "| student | steps | F1@.5 | mean | place F1@.5 | token accuracy | s a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for group, seeds in groups.items():
        f1 = [row["f1"][1] for row in seeds]
        cells = [group.rpartition("_")[0], str(seeds[0]["steps"]), " ".join(map(share, f1)), share(statistics.mean(f1))]
        cells += [
            " ".join(share(row["place_f1"][1]) for row in seeds),
            " ".join(share(row["token_acc"]) for row in seeds),
        ]
        lines.append(line([*cells, f"{statistics.mean(row['step_seconds'] for row in seeds):.3f}"]))
    return "\n".join(lines)


def recipe_table(rows: Mapping[str, Row]) -> str:
    """A line for each recipe beside the run of SFT with the same towers and tuner."""
    lines = [
        "| run | steps | sft_loss | llm_kd_loss | vision_kd_loss | F1@.5 | s a step | times SFT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (_, sft) in RECIPES.items():
        if name not in rows:
            continue
        row = rows[name]
        losses = [change(row["losses"].get(loss), "{:.3g}") for loss in LOSSES]
        ratio = f"{row['step_seconds'] / rows[sft]['step_seconds']:.2f}" if sft in rows else ""
        cells = [
            f"`{name}`",
            str(row["steps"]),
            *losses,
            change(row["f1"], "{:.1%}"),
            f"{row['step_seconds']:.3f}",
            ratio,
        ]
        lines.append(line(cells))
    return "\n".join(lines)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def share(value: float) -> str:
    return f"{value:.1%}"


def change(values: Sequence[float] | None, form: str) -> str:
    return "" if values is None else " → ".join(form.format(value) for value in values)


if __name__ == "__main__":
    main()
