"""Full fine-tuning on one CPU core: ``qcvl.train`` beside transformers' ``Trainer`` and TRL's ``SFTTrainer``.

Dense whole photos and short chats, one to two, in real tokens a CPU second (padding does not count), and the peak of
memory above the idle model. Random-weight Qwen3-VL of 125M parameters with the vocabulary of Qwen3 (151,669 ids) and
of 54M with 16,384 ids; a third set of samples of equal length, where padding costs nothing. The contenders are
processes that train the same records in turns, a pass at a time; figures are medians over the passes. The peers'
settings: group_by_length, fused AdamW, no gradient checkpointing, float32, a micro-batch of 2 (``--tune`` tries others)
and of TRL its head on label positions. Photos are decoded and cut for them beforehand.

    python benchmarks/training.py --deeppcb FOLDER --tokenizer FOLDER [--quick | --tune]

``FOLDER`` of DeepPCB holds PCBData/, that of the tokenizer Qwen3's tokenizer.json; without them demo photos and the
embedded model stand in. ``pip install qcvl[bench]`` for TRL.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from measure import report
from trainers.turns import Speed, Turns, race
from trainers.workload import (
    CHATS_A_PAIR,
    EMBEDDED,
    SHAPE,
    STEP_SAMPLES,
    Workload,
    chat_lines,
    photo_lines,
    spread,
    write_lines,
    write_tokenizer,
)

VOCABULARIES = {"125M, vocabulary 151,669": None, "54M, vocabulary 16,384": 16_384}
PEERS = ("Trainer", "SFTTrainer")
BATCHES = (1, 2, 4)  # that --tune tries
BATCH = 2  # of the peers' micro-batches
BUDGET, ACCUMULATE = 1500, 2  # of qcvl's
MIB = 2**20


class Bench:
    """The files of one run of the benchmark, and the races on them."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.photos = photo_lines(asked.deeppcb, folder)
        self.chats = list(chat_lines(CHATS_A_PAIR * len(self.photos)))
        self.core = max(os.sched_getaffinity(0))
        self.peers = [name for name in PEERS if name == "Trainer" or find_spec("trl") is not None]

    def model(self, name: str) -> tuple[str, ...]:
        """qcvl's overrides of one model."""
        if self.asked.tokenizer is None:
            return EMBEDDED
        place = self.folder / f"tokenizer-{VOCABULARIES[name]}"
        if not place.exists():
            write_tokenizer(self.asked.tokenizer, place, VOCABULARIES[name])
        return (*SHAPE, f"model.tokenizer={place}")

    def workload(self, model: str, photos: int, passes: int, *, equal: bool = False, batch: int = BATCH) -> Workload:
        """Records for one race: ``photos`` of them and twice as many chats, or one photo again and again."""
        lines = spread(self.photos, photos) + spread(self.chats, CHATS_A_PAIR * photos)
        if equal:
            lines = [sorted(self.photos, key=len)[len(self.photos) // 2]] * STEP_SAMPLES
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Workload(
            folder=str(folder),
            train=write_lines(folder / "train.jsonl", lines),
            samples=len(lines),
            passes=passes,
            model=self.model(model),
            budget=BUDGET,
            accumulate=ACCUMULATE,
            batch=batch,
        )

    def race(self, workload: Workload, names: Sequence[str]) -> dict[str, Speed]:
        """Train a workload by each of ``names``, in turns."""
        workload.write()
        return race(__file__, names, Path(workload.folder), workload.samples, workload.passes, self.core)


def against(speeds: dict[str, Speed]) -> tuple[float, float, float]:
    """qcvl over the faster peer: speed, memory above the idle model, and that without gradients and moments."""
    ours, peers = speeds["qcvl"], [speed for name, speed in speeds.items() if name != "qcvl"]
    best = max(peers, key=lambda speed: speed.rate)
    return ours.rate / best.rate, ours.extra / best.extra, ours.activations / best.activations


def shown(speeds: dict[str, Speed]) -> str:
    """Rates and memory of all contenders in a line."""
    return ", ".join(f"{name} {speed.rate:.0f} tokens/s {speed.extra / MIB:.0f} MiB" for name, speed in speeds.items())


def pack_fill(workload: Workload) -> float:
    """Tokens of the planned micro-batches over what they could hold."""
    from qcvl import config
    from qcvl.data.loader import TrainLoader

    run = config.build(config.load("train", workload.overrides()))
    run.datamodule.setup("fit")
    loader = run.datamodule.train_dataloader()
    assert isinstance(loader, TrainLoader)
    return float(loader._lengths.of(0).sum()) / (len(loader) * workload.budget)


def compare(bench: Bench, quick: bool) -> None:
    """Races of both models on mixed and equal lengths, then what each trick gives."""
    photos, passes = (4, 1) if quick else (12, 3)
    rows, numbers = {}, {}
    for model in VOCABULARIES if bench.asked.tokenizer else ["embedded"]:
        key = model.split(",")[0].lower()
        for name, equal in (("mixed", False), ("equal", True)):
            if equal and quick:
                continue
            speeds = bench.race(bench.workload(model, photos, passes, equal=equal), ["qcvl", *bench.peers])
            ratio, memory, activations = against(speeds)
            rows[f"{model}, {name} lengths"] = (
                f"CPU: {ratio:.2f}x, memory {memory:.2f}x (activations {activations:.2f}x); {shown(speeds)}"
            )
            numbers |= {
                f"ratio_{key}_{name}": ratio,
                f"memory_{key}_{name}": memory,
                f"activations_{key}_{name}": activations,
            }
            print(f"{model}, {name}: {shown(speeds)}; passes {speeds}", file=sys.stderr)
    model = next(iter(VOCABULARIES))
    rows |= tricks(bench, model, photos // 2, bench.asked.without[:1] if quick else bench.asked.without)
    everything = bench.workload(model, len(bench.photos), 1)
    fill = pack_fill(everything)
    rows["packs"] = f"{fill:.1%} full, {len(bench.photos)} photos and {len(bench.chats)} chats"
    if missing := [name for name in PEERS if name not in bench.peers]:
        rows["left out"] = f"{', '.join(missing)}: pip install 'qcvl[bench]' (trl, datasets)"
    report("training", rows, ratio=next(iter(numbers.values())), peer=" and ".join(bench.peers), fill=fill, **numbers)


def tricks(bench: Bench, model: str, photos: int, names: Sequence[str]) -> dict[str, str]:
    """What training is without each trick, in turns with training as it is."""
    rows = {}
    for name in names:
        speeds = bench.race(bench.workload(model, photos, 1), ["qcvl", f"qcvl-{name}"])
        whole, without = speeds.values()
        rows[f"without {name}"] = (
            f"CPU: {without.rate / whole.rate:.2f}x the speed, {without.extra / whole.extra:.2f}x the memory"
        )
        print(f"{name}: {speeds}", file=sys.stderr)
    return rows


def tune(bench: Bench) -> None:
    """Print the peers' speed by the size of a micro-batch."""
    for model in VOCABULARIES if bench.asked.tokenizer else ["embedded"]:
        for batch in BATCHES:
            print(
                model,
                f"micro-batch {batch}:",
                shown(bench.race(bench.workload(model, 12, 1, batch=batch), bench.peers)),
            )


def contend(name: str, folder: Path, core: int) -> None:
    """Train what lies in ``folder`` as one contender; runs in a process of its own."""
    turns, workload = Turns(core), Workload.read(folder)
    import torch

    torch.set_num_threads(1)
    kind, _, without = name.partition("-")
    if kind == "qcvl":
        from trainers import ours

        ours.train(turns, workload, without)
    else:
        from trainers import peers

        peers.train(turns, workload, kind)


def main(arguments: Sequence[str] = ()) -> None:
    """Compare; ``--quick`` trains one pass of few photos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few photos, one pass, no equal lengths, one trick")
    parser.add_argument("--tune", action="store_true", help="only the peers' speed by their micro-batch")
    parser.add_argument("--deeppcb", type=Path, help="the folder that holds PCBData/")
    parser.add_argument("--tokenizer", type=Path, help="the folder of Qwen3's tokenizer.json (or .xz)")
    tricks_ = ["packing", "label-only head", "attention per sample", "batched vision", "linear patches", "fused AdamW"]
    parser.add_argument("--without", nargs="*", default=tricks_, help="tricks to train without")
    for hidden in ("--contender", "--work", "--core"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.contender:
        contend(asked.contender, Path(asked.work), int(asked.core))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked, Path(folder))
        tune(bench) if asked.tune else compare(bench, asked.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
