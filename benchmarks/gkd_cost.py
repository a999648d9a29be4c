"""What distillation costs: a training step of ``objective=gkd_forward_only`` beside one of plain fine-tuning.

Full fine-tuning and LoRA at stage 2 (vision frozen) of a random-weight Qwen3-VL of 125M parameters with the vocabulary
of Qwen3 (151,669 ids): the teacher is the model as it was at the start, the same from a cache of its 64 likeliest
tokens that an earlier run has filled, or a checkpoint of equal size at a path. Contenders of a tuner are processes that
train the same records in turns, a step at a time on one core; a ratio is the median over the steps of distillation's
seconds over plain fine-tuning's at the same step, in CPU time (user and system) and by the clock. Memory is a process's
peak, and the part of it above the idle model.

    python benchmarks/gkd_cost.py --deeppcb FOLDER --tokenizer FOLDER [--quick]

``FOLDER`` of DeepPCB holds PCBData/, that of the tokenizer Qwen3's tokenizer.json; without them demo photos and the
embedded model stand in.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from trainers.turns import Speed, Turns, race
from trainers.workload import (
    CHATS_A_PAIR,
    EMBEDDED,
    SHAPE,
    Workload,
    chat_lines,
    parse,
    photo_lines,
    spread,
    write_lines,
    write_tokenizer,
)

MIB = 2**20
PACK, ACCUMULATE = 1500, 2  # tokens of a pack, packs of a step
TOP_K = 64
TEACHER, CACHE = "teacher", "cache"  # in the folder of a workload
OBJECTIVE = "objective=gkd_forward_only"


class Row(NamedTuple):
    """One row of the table, and the most that its time and memory may be of plain fine-tuning's."""

    tuner: str
    teacher: str
    target: float | None
    memory: float | None = None

    @property
    def name(self) -> str:
        """Of the contender."""
        return f"{self.tuner}-{self.teacher}"

    def overrides(self, folder: Path) -> list[str]:
        """Of ``python -m qcvl.train``, for a workload in ``folder``."""
        own = ["stage=2", f"tuner={self.tuner}", f"paths.output_dir={folder / self.name}"]
        return (
            own
            + {
                "none": [],
                "self": [OBJECTIVE],
                "cached": [OBJECTIVE, f"objective.top_k={TOP_K}", f"objective.teacher_cache={folder / CACHE}"],
                "other": [OBJECTIVE, f"objective.teacher={folder / TEACHER}"],
            }[self.teacher]
        )


TOLD = {"none": "no teacher", "self": "itself", "cached": "itself, cached", "other": "another of equal size"}
ROWS = (
    Row("full", "none", None),
    Row("full", "self", 1.4, 1.25),
    Row("full", "cached", 1.1),
    Row("full", "other", 1.7),
    Row("lora", "none", None),
    Row("lora", "self", 1.55, 1.25),
    Row("lora", "cached", 1.1),
)


class Cost(NamedTuple):
    """Ratios to plain fine-tuning: of seconds, and of bytes."""

    cpu: float
    wall: float
    peak: float
    extra: float


def cost(taught: Speed, plain: Speed) -> Cost:
    """What distillation costs. The first step is left out: it meets everything for the first time."""
    steps = list(zip(taught.turns, plain.turns, strict=True))[1:] or list(zip(taught.turns, plain.turns, strict=True))
    cpu, wall = (median(one[clock] / other[clock] for one, other in steps) for clock in (0, 1))
    return Cost(cpu, wall, taught.peak / plain.peak, taught.extra / plain.extra)


def prepare(asked: argparse.Namespace, folder: Path) -> Workload:
    """The workload, and the teacher at a path."""
    photos = 4 if asked.quick else 12
    lines = spread(photo_lines(asked.deeppcb, folder), photos) + list(chat_lines(CHATS_A_PAIR * photos))
    model = EMBEDDED
    if asked.tokenizer is not None:
        place = folder / "tokenizer"
        write_tokenizer(asked.tokenizer, place, None)
        model = (*SHAPE, f"model.tokenizer={place}")
    workload = Workload(
        folder=str(folder),
        train=write_lines(folder / "train.jsonl", lines),
        samples=len(lines),
        passes=1,
        model=model,
        packing_length=PACK,
        accumulate=1 if asked.quick else ACCUMULATE,
        batch=0,
    )
    workload.write()
    write_teacher(workload, folder / TEACHER)
    return workload


def write_teacher(workload: Workload, folder: Path) -> None:
    """A checkpoint of the workload's model with other random weights."""
    from qcvl import config

    settings = config.build(config.load("train", [*workload.overrides(), "model.seed=1"])).settings
    settings.model.load_model().save_pretrained(folder)
    settings.model.load_processing().save(folder)


def compare(workload: Workload, rows: Sequence[Row]) -> dict[str, Speed]:
    """Train by each row, those of a tuner in turns, after the cache is filled."""
    folder, core, speeds = Path(workload.folder), max(os.sched_getaffinity(0)), {}

    def run(names: Sequence[str]) -> dict[str, Speed]:
        return race(__file__, names, folder, workload.samples, workload.passes, core)

    if cached := [row.name for row in rows if row.teacher == "cached"]:
        run(cached[:1])  # of both tuners: their teacher is the same
    for tuner in dict.fromkeys(row.tuner for row in rows):
        speeds |= run([row.name for row in rows if row.tuner == tuner])
    return speeds


def show(rows: Sequence[Row], speeds: dict[str, Speed]) -> None:
    """Print the table in Markdown, a JSON line a row, and one of them all."""
    print("| tuner | teacher | CPU s a step | CPU time | wall clock | peak MiB (above idle) | peak | extra | at most |")
    print("|---|---|---|---|---|---|---|---|---|")
    numbers: dict[str, float] = {}
    lines = []
    for row in rows:
        speed = speeds[row.name]
        found = cost(speed, speeds[f"{row.tuner}-none"])
        seconds = median(turn.seconds for turn in speed.turns)
        target = "" if row.target is None else f"{row.target}x" + (f", peak {row.memory}x" if row.memory else "")
        memory = f"{speed.peak / MIB:.0f} ({speed.extra / MIB:.0f})"
        ratios = " | ".join(f"{ratio:.2f}x" for ratio in found[:2])
        peaks = " | ".join(f"{ratio:.2f}x" for ratio in found[2:])
        print(f"| {row.tuner} | {TOLD[row.teacher]} | {seconds:.2f} | {ratios} | {memory} | {peaks} | {target} |")
        if row.teacher == "none":
            continue
        rounded = {name: round(value, 3) for name, value in found._asdict().items()}
        numbers |= {f"{row.name}_{name}": value for name, value in rounded.items()}
        lines.append(
            json.dumps({"name": f"gkd_cost/{row.name}", "ratio": rounded["cpu"], **rounded, "target": row.target})
        )
    print("\nCPU, one thread; ratios are to the same tuner without a teacher\n", *lines, sep="\n")
    first = next(name for name in numbers if name.endswith("_cpu"))
    print(json.dumps({"name": "gkd_cost", "ratio": numbers[first], "peer": "objective=sft", **numbers}))


def contend(name: str, folder: Path, core: int) -> None:
    """Train what lies in ``folder`` as one contender; runs in a process of its own."""
    turns, workload = Turns(core, 0), Workload.read(folder)
    import torch
    from trainers import ours

    torch.set_num_threads(1)
    (row,) = (row for row in ROWS if row.name == name)
    ours.train(turns, workload, "", row.overrides(folder))


def main(arguments: Sequence[str] = ()) -> None:
    """Compare; ``--quick`` trains few photos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few photos, a step is a micro-batch")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="*", choices=names, help="rows beside plain fine-tuning")
    asked = parse(parser, arguments)
    if asked.contender:
        contend(asked.contender, Path(asked.work), int(asked.core))
        return
    chosen = [row for row in ROWS if asked.only is None or row.name in asked.only]
    tuners = {row.tuner for row in chosen}
    rows = [row for row in ROWS if row in chosen or (row.teacher == "none" and row.tuner in tuners)]
    with tempfile.TemporaryDirectory() as folder:
        show(rows, compare(prepare(asked, Path(folder)), rows))


if __name__ == "__main__":
    main(sys.argv[1:])
