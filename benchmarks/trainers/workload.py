"""What every contender trains: the records, the model's shape, and as what qcvl is configured."""

import argparse
import json
import lzma
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qcvl.models.tiny import SPECIAL_TOKENS, TINY_FOLDER

STEP_SAMPLES = 12  # of an optimizer step, on average
PAIRS, CHATS_A_PAIR = 200, 2

# small_60m with 8 text layers of 10 and 10 vision blocks of 12: 46M parameters beside the vocabulary's
SHAPE = (
    "model=small_60m",
    "model.architecture.text_config.num_hidden_layers=8",
    "model.architecture.vision_config.depth=10",
    "model.architecture.vision_config.deepstack_visual_indexes=[4]",
    "model.min_cells=400",
    "model.max_cells=400",  # 640x640 pixels: DeepPCB's photos whole
)
EMBEDDED = ("model=tiny_scratch",)
SETTINGS = (
    "data=jsonl",
    "data.num_workers=0",
    "prompts=en",
    "augment=none",
    "stage=3",
    "tuner=full",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.enable_checkpointing=false",
    "trainer.limit_val_batches=0",
    "~callbacks.evaluation",
    "~callbacks.metrics",
    "~callbacks.checkpoint",
)


@dataclass(frozen=True)
class Workload:
    """One comparison: JSONL files, a model, and how long to train.

    ``train`` holds the records of a pass, ``samples`` of them; ``passes`` are epochs. ``model`` are qcvl's overrides.
    """

    folder: str
    train: str
    samples: int
    passes: int
    model: tuple[str, ...]
    packing_length: int
    accumulate: int
    batch: int
    precision: str = "32-true"

    @classmethod
    def read(cls, folder: Path) -> "Workload":
        """The workload that ``write`` left in a folder."""
        values = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        return cls(**{**values, "model": tuple(values["model"])})

    def write(self) -> None:
        """Keep it for the contenders' processes."""
        text = json.dumps(asdict(self))
        (Path(self.folder) / "workload.json").write_text(text, encoding="utf-8")

    def overrides(self) -> list[str]:
        """The settings of ``python -m qcvl.train`` for this workload."""
        own = (
            f"data.train={self.train}",
            f"data.val={self.train}",  # never looked at
            "data.packing=best_fit",
            f"data.packing_length={self.packing_length}",
            f"paths.output_dir={self.folder}/run",
            f"trainer.max_epochs={self.passes}",
            f"trainer.accumulate_grad_batches={self.accumulate}",
            f"trainer.precision={self.precision}",
        )
        return [*self.model, *SETTINGS, *own]


def photo_lines(deeppcb: Path | None, folder: Path) -> list[str]:
    """JSONL lines of whole photos with their defects: ``PAIRS`` DeepPCB pairs, or demo photos without those."""
    if deeppcb is None:
        from qcvl.data.scenes.demo import write_demo

        demo = write_demo(folder / "demo", train=16, val=8)
        lines = (demo / "train_en.jsonl").read_text(encoding="utf-8").splitlines()
        return [_absolute(line, demo) for line in lines]
    from qcvl.data.formats.deeppcb import to_records

    records = list(to_records(deeppcb, "train", None))
    return [record.to_json() for record in records[:: len(records) // PAIRS][:PAIRS]]


def _absolute(line: str, folder: Path) -> str:
    record = json.loads(line)
    record["images"] = [str(folder / image) for image in record["images"]]
    return json.dumps(record, ensure_ascii=False)


def chat_lines(count: int) -> Iterator[str]:
    """JSONL lines of short questions and answers without a photo."""
    draw = random.Random(0)
    parts = ["solder mask", "copper trace", "via", "pin header", "test pad", "drill hole", "silkscreen", "connector"]
    faults = ["an open", "a short", "a mousebite", "a spur", "spurious copper", "a pin-hole", "a scratch"]
    reasons = [
        "the current has to go through what is left of it",
        "etching went on for too long there",
        "the mask was a little out of place, which shows on the neighbours as well",
        "dust lay on the film",
    ]
    for _ in range(count):
        part, fault = draw.choice(parts), draw.choice(faults)
        question = f"What does {fault} near the {part} mean?"
        answer = f"The {part} has {fault}: " + "; ".join(draw.sample(reasons, draw.randint(1, 3))) + "."
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield json.dumps({"messages": turns})


def spread(lines: Sequence[str], count: int) -> list[str]:
    """``count`` of the lines, evenly spread, again from the start where there are fewer."""
    step = max(len(lines) // count, 1)
    return [lines[number * step % len(lines)] for number in range(count)]


def write_lines(path: Path, lines: Sequence[str]) -> str:
    """Write a JSONL file; returns its path."""
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
    return str(path)


def write_tokenizer(source: Path, folder: Path, size: int | None) -> str:
    """The tokenizer files of ``source`` with a vision-language chat template; returns the folder.

    Args:
        source: holds ``tokenizer.json`` (or ``tokenizer.json.xz``) and ``tokenizer_config.json`` of Qwen3.
        folder: is made.
        size: ids to keep, the byte pairs that were merged first and the special tokens; None keeps all.
    """
    folder.mkdir(parents=True)
    packed = source / "tokenizer.json.xz"
    text = lzma.decompress(packed.read_bytes()) if packed.is_file() else (source / "tokenizer.json").read_bytes()
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    tokenizer = json.loads(text)
    if size is not None:
        _cut(tokenizer, size)
        settings.pop("added_tokens_decoder", None)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    template = (TINY_FOLDER / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return str(folder)


def _cut(tokenizer: dict[str, Any], size: int) -> None:
    """Leave a byte-level BPE ``size`` ids: its first ones, and the special tokens after them."""
    kept = size - len(SPECIAL_TOKENS)
    model = tokenizer["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < kept}
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    model["merges"] = [list(pair) for pair in pairs if "".join(pair) in model["vocab"]]
    known = {token["content"]: token for token in tokenizer["added_tokens"]}
    tokenizer["added_tokens"] = [{**known[name], "id": kept + number} for number, name in enumerate(SPECIAL_TOKENS)]


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """What a benchmark was asked for, with where its data lie, and what its contenders' processes are told."""
    parser.add_argument("--deeppcb", type=Path, help="the folder that holds PCBData/")
    parser.add_argument("--tokenizer", type=Path, help="the folder of Qwen3's tokenizer.json (or .xz)")
    for hidden in ("--contender", "--work", "--core"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)
