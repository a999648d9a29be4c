"""Full fine-tuning on one CPU core: ``qcvl.train`` beside transformers' ``Trainer`` and TRL's ``SFTTrainer``.

Dense whole photos (pairs of 640x640 pixels) and short chats, one to two, in real tokens a CPU second (padding does not
count), and the peak of memory above the idle model. Random-weight Qwen3-VL of 125M parameters with the vocabulary of
Qwen3 (151,669 ids) and of 54M with 16,384 ids; a third set of samples of equal length, where padding costs nothing. The
contenders are processes that train the same records in turns, a pass at a time; figures are medians over the passes.
The peers' settings: fused AdamW, no gradient checkpointing, a micro-batch of 2 (``--tune`` tries others), of TRL its
head on label positions, and samples of like length together; each also trains in random order, as it does where nobody
asks for another. Photos are decoded and cut for them beforehand. ``--precision`` is that of all. Measured: see
trainers/README.md.

Each contender's floating point operations for a real token are counted in its first pass: at equal efficiency their
ratio is that of the speeds. By the shapes of these models and 12 photos with 24 chats (15,576 tokens, 4,649 labels),
qcvl needs .74 GFLOP a token with 151,669 ids and .62 with 16,384, of which vision is 57 % and 68 %, the same for all.
The peers need, as multiples of that (samples sorted by length for the first row; what attention computes twice in its
backward pass, which the counter sees, left out):

    order, micro-batch     padding   Trainer 151,669   SFTTrainer   Trainer 16,384   SFTTrainer
    like lengths, 2            2 %        1.50             1.04           1.11            1.05
    random, 2                 38 %        2.04             1.21           1.36            1.25
    random, 4                 57 %        2.71             1.43           1.68            1.51
    random, 8 (default)       64 %        3.14             1.57           1.88            1.68

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
    parse,
    photo_lines,
    spread,
    write_lines,
    write_tokenizer,
)

VOCABULARIES = {"125M, vocabulary 151,669": None, "54M, vocabulary 16,384": 16_384}
PEERS = ("Trainer", "SFTTrainer")
RANDOM = "-random"  # a peer's samples in random order
BATCHES = (1, 2, 4)  # that --tune tries
BATCH = 2  # of the peers' micro-batches
LENGTHS = {1500: 4, 2600: 2}  # tokens of a pack that --tune tries, and packs of a step
LENGTH = 1500
TRICKS = ("packing", "label-only head", "attention per sample", "batched vision", "linear patches", "fused AdamW")
VARIANTS = [*(f"without {trick}" for trick in TRICKS), "with torch.compile"]
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

    def workload(
        self, model: str, photos: int, passes: int, *, equal: bool = False, batch: int = 0, length: int = LENGTH
    ) -> Workload:
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
            packing_length=length,
            accumulate=LENGTHS[length],
            batch=batch or self.asked.batch,
            precision=self.asked.precision,
        )

    def race(self, workload: Workload, names: Sequence[str]) -> dict[str, Speed]:
        """Train a workload by each of ``names``, in turns."""
        workload.write()
        return race(__file__, names, Path(workload.folder), workload.samples, workload.passes, self.core)


def against(speeds: dict[str, Speed], order: str = "") -> dict[str, float]:
    """qcvl over the faster peer of an order: speed and what operations allow, memory with and without the state."""
    ours, ends = speeds["qcvl"], tuple(f"{name}{order}" for name in PEERS)
    best = max((speed for name, speed in speeds.items() if name in ends), key=lambda speed: speed.rate)
    return {
        "ratio": ours.rate / best.rate,
        "wall": ours.wall / best.wall,
        "operations": best.operations / ours.operations,
        "memory": ours.extra / best.extra,
        "activations": ours.activations / best.activations,
    }


def said(ratios: dict[str, float]) -> str:
    """What ``against`` found, for a table."""
    return (
        "CPU: {ratio:.2f}x (clock {wall:.2f}x; operations allow {operations:.2f}x at equal efficiency), "
        "memory {memory:.2f}x, without gradients and moments {activations:.2f}x"
    ).format(**ratios)


def shown(speed: Speed) -> str:
    """A contender's figures in a line."""
    return (
        f"{speed.rate:.1f} tokens/s (clock {speed.wall:.1f}), {speed.extra / MIB:.0f} MiB "
        f"({speed.activations / MIB:.0f} without gradients and moments), {speed.padding:.0%} padding, "
        f"{speed.operations / 1e9:.2f} GFLOP a token, {speed.rate * speed.operations / 1e9:.0f} GFLOP/s"
    )


def pack_fill(workload: Workload) -> float:
    """Tokens of the planned micro-batches over what they could hold."""
    from qcvl import config
    from qcvl.data.loader import TrainLoader

    run = config.build(config.load("train", workload.overrides()))
    run.datamodule.setup("fit")
    loader = run.datamodule.train_dataloader()
    assert isinstance(loader, TrainLoader)
    return float(loader._lengths.of(0).sum()) / (len(loader) * workload.packing_length)


def compare(bench: Bench, quick: bool) -> None:
    """Races of both models on mixed and equal lengths, then what each trick gives."""
    photos, passes = (2, 1) if quick else (bench.asked.photos, bench.asked.passes)
    rows, numbers = {}, {}
    models = list(VOCABULARIES) if bench.asked.tokenizer else ["embedded"]
    for model in models[-1:] if quick else models:
        key = model.split(",")[0].lower()
        for name, equal in (("mixed", False), ("equal", True)):
            if equal and quick:
                continue
            for order in ("",) if equal or quick else ("", RANDOM):  # one after the other: memory is for three
                peers = [f"{peer}{order}" for peer in bench.peers]
                speeds = bench.race(bench.workload(model, photos, passes, equal=equal), ["qcvl", *peers])
                ratios = against(speeds, order)
                rows[f"{model}, {name} lengths{order}"] = said(ratios)
                rows |= {f"  {model}, {name}{order}: {one}": shown(speed) for one, speed in speeds.items()}
                numbers |= {f"{figure}_{key}_{name}{order}": value for figure, value in ratios.items()}
                print(f"{model}, {name}{order}: {speeds}", file=sys.stderr)
    model = models[-1] if quick else models[0]
    rows |= variants(bench, model, max(photos // 2, 1), bench.asked.variants[:1] if quick else bench.asked.variants)
    everything = {length: bench.workload(model, len(bench.photos), 1, length=length) for length in LENGTHS}
    fills = {length: pack_fill(workload) for length, workload in everything.items()}
    told = ", ".join(f"{fill:.1%} full of {length} tokens" for length, fill in fills.items())
    rows["packs"] = f"{told}: {len(bench.photos)} photos and {len(bench.chats)} chats"
    if missing := [name for name in PEERS if name not in bench.peers]:
        rows["left out"] = f"{', '.join(missing)}: pip install 'qcvl[bench]' (trl, datasets)"
    first, all_peers = next(iter(numbers.values())), " and ".join(bench.peers)
    report("training", rows, ratio=first, peer=all_peers, fill=max(fills.values()), **numbers)


def variants(bench: Bench, model: str, photos: int, names: Sequence[str]) -> dict[str, str]:
    """What training is without each trick, and compiled, in turns with training as it is; the last of the passes."""
    rows = {}
    for name in names:
        passes = 1 if name.startswith("without") else 2  # the first compiles
        speeds = bench.race(bench.workload(model, photos, passes), ["qcvl", f"qcvl-{name}"])
        plain, other = speeds.values()
        rows[name] = (
            f"CPU: {other.rates[-1] / plain.rates[-1]:.2f}x the speed, {other.extra / plain.extra:.2f}x the memory"
        )
        print(f"{name}: {speeds}", file=sys.stderr)
    return rows


def tune(bench: Bench) -> None:
    """Print the peers' speed by the size of a micro-batch, and qcvl's by the length of a pack."""
    for model in VOCABULARIES if bench.asked.tokenizer else ["embedded"]:
        tried = [(f"packs of {length}", {"length": length}, ["qcvl"]) for length in LENGTHS]
        tried += [(f"micro-batch {batch}", {"batch": batch}, bench.peers) for batch in BATCHES]
        for what, setting, names in tried:
            for name in names:  # one at a time: large micro-batches of two would not fit beside each other
                speeds = bench.race(bench.workload(model, bench.asked.photos, 1, **setting), [name])
                print(f"{model}, {what}, {name}: {shown(speeds[name])}", flush=True)


def contend(name: str, folder: Path, core: int) -> None:
    """Train what lies in ``folder`` as one contender; runs in a process of its own."""
    workload = Workload.read(folder)
    turns = Turns(core, workload.samples)
    import torch

    torch.set_num_threads(1)
    kind, _, variant = name.partition("-")
    if kind == "qcvl":
        from trainers import ours

        ours.train(turns, workload, variant)
    else:
        from trainers import peers

        peers.train(turns, workload, kind, variant)


def main(arguments: Sequence[str] = ()) -> None:
    """Compare; ``--quick`` trains one pass of few photos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16,384 ids, few photos, one pass, one trick")
    parser.add_argument("--tune", action="store_true", help="only the peers' speed by their micro-batch")
    parser.add_argument("--photos", type=int, default=12, help="photos of a pass")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH, help="the peers' micro-batch")
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="of all contenders")
    parser.add_argument("--variants", nargs="*", default=VARIANTS, choices=VARIANTS, help="of qcvl, beside it as it is")
    asked = parse(parser, arguments)
    if asked.contender:
        contend(asked.contender, Path(asked.work), int(asked.core))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked, Path(folder))
        tune(bench) if asked.tune else compare(bench, asked.quick)


if __name__ == "__main__":
    main(sys.argv[1:])
