"""Training speed on one GPU: Qwen3-VL shapes with random weights in bfloat16, packed rows, LoRA and full.

    python benchmarks/gpu.py [--shapes 4b 8b] [--tuners lora full] [--lengths 16384 61440] [--kernels eager compile]

Tokens a second, model FLOP/s and MFU by ``qcvl.models.flops`` (vision counted, frozen parts at what they cost, no
recomputation), MFU by the text-only convention (6 x parameters of the language model x tokens), and peak memory. Full
fine-tuning takes 8-bit Adam (bitsandbytes), or torch's fused AdamW where that is absent. ``--kernels`` are those of
``model.compile`` and ``model.liger`` (which needs ``qcvl[liger]``) beside torch's own. ``--tiny`` trains a small shape,
on a CPU as well. Needs torch, transformers, lightning, peft and this package.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from measure import report

from qcvl.callbacks.peaks import peak_tflops
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.models.build import checkpoint_activations
from qcvl.models.flops import step_flops
from qcvl.models.forward import hidden_states, unwrap
from qcvl.models.liger import use_liger
from qcvl.models.speed import compile_blocks, speed_up
from qcvl.models.towers import TOWERS
from qcvl.modules.sft import answer_loss

VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
TEXT_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
# config.json of Qwen3-VL-4B-Instruct and -8B-Instruct
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "4b": (TEXT_4B, {**VISION, "deepstack_visual_indexes": [5, 11, 17]}, True),
    "8b": (
        {**TEXT_4B, "hidden_size": 4096, "intermediate_size": 12288},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
        | {"deepstack_visual_indexes": [8, 16, 24]},
        False,
    ),
    "tiny": (
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2},
        {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "deepstack_visual_indexes": [0]},
        True,
    ),
}
IMAGE_PAD, TEXT_START = 151_655, 1000
SIDE, LABELS, CAPTION = 28, 200, 250  # a photo of 784 visual tokens (896x896 pixels), an answer, all its text
IGNORE = -100
PATCH_VALUES = 3 * 16**2  # of a still photo: not repeated along time


class Measured(NamedTuple):
    """One setting's seconds a step, tokens of a step, operations and peak bytes."""

    seconds: float
    tokens: int
    flops: float
    text_flops: float
    memory: int


def build(shape: str, device: torch.device, checkpointing: bool, kernels: str) -> torch.nn.Module:
    """The random-weight model of a shape, in bfloat16 on a GPU and float32 on a CPU."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    text, vision, tied = SHAPES[shape]
    heads = {"num_key_value_heads": min(8, text["num_attention_heads"]), "head_dim": 32 if shape == "tiny" else 128}
    sections = [6, 5, 5] if shape == "tiny" else [24, 20, 20]
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": sections, "mrope_interleaved": True}
    config = AutoConfig.for_model(
        "qwen3_vl",
        text_config={**text, **heads, "vocab_size": 151_936, "rope_parameters": rope, "tie_word_embeddings": tied},
        vision_config={**vision, "out_hidden_size": text["hidden_size"], "patch_size": 16},
        tie_word_embeddings=tied,
        image_token_id=IMAGE_PAD,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    speed_up(model, "auto")
    if kernels == "liger":
        use_liger(model)
    if kernels == "compile":
        compile_blocks(model)
    if checkpointing:
        checkpoint_activations(model, TOWERS)
    return model.train()


def tune(model: torch.nn.Module, tuner: str) -> tuple[torch.nn.Module, torch.optim.Optimizer, str]:
    """The model with what trains, an optimizer over it, and the optimizer's name."""
    if tuner == "lora":
        from peft import LoraConfig, get_peft_model

        parts = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=parts))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if tuner == "full" and trained[0].is_cuda and find_spec("bitsandbytes"):
        from bitsandbytes.optim import AdamW8bit

        return model, AdamW8bit(trained, lr=1e-5), "8-bit AdamW"
    return model, torch.optim.AdamW(trained, lr=1e-5, fused=True), "AdamW"


def packed_row(model: torch.nn.Module, length: int, device: torch.device, side: int) -> dict[str, Any]:
    """A row of whole photos with answers, ``length`` tokens at most, as ``data.batch.collate`` makes them."""
    cells = side**2
    segment = cells + CAPTION
    count = max(length // segment, 1)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(TEXT_START, 100_000, (count, CAPTION), generator=generator)
    ids = torch.cat([text[:, :20], torch.full((count, cells), IMAGE_PAD), text[:, 20:]], dim=1)
    labels = ids.clone()
    labels[:, :-LABELS] = IGNORE
    grid = torch.tensor([[1, 2 * side, 2 * side]])
    types = (ids[:1] == IMAGE_PAD).int()
    seen, _ = unwrap(model).model.get_rope_index(ids[:1], mm_token_type_ids=types, image_grid_thw=grid)
    positions = torch.cat([torch.arange(segment)[None], seen[:, 0]])
    row = {
        "input_ids": ids.view(1, -1),
        "labels": labels.view(1, -1),
        "label_kinds": (labels != IGNORE).view(1, -1).to(torch.int8),
        "position_ids": positions.repeat(1, count)[:, None],
        "pixel_values": torch.rand(count * 4 * cells, PATCH_VALUES, generator=generator),
        "image_grid_thw": grid.repeat(count, 1),
    }
    return {**{name: tensor.to(device) for name, tensor in row.items()}, "segments": torch.tensor([segment] * count)}


def measure(
    shape: str, tuner: str, kernels: str, length: int, device: torch.device, steps: int
) -> tuple[Measured, str]:
    """Median seconds of ``steps`` optimizer steps after one to warm up (and to compile)."""
    model, optimizer, name = tune(build(shape, device, tuner == "full", kernels), tuner)
    side = 4 if shape == "tiny" else SIDE
    row = packed_row(model, length, device, side)
    inputs = {**row, "segments": tuple(row["segments"].tolist())}
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        hidden = hidden_states(model, inputs)
        sums = answer_loss(model, hidden.states, row["labels"], row["label_kinds"])
        (sums["sft_sum"].sum() / row["label_kinds"].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)
        times.append(time.perf_counter() - start)
    text = unwrap(model).model.language_model
    size = sum(parameter.numel() for parameter in text.parameters())
    tokens = row["input_ids"].numel()
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    seconds = statistics.median(times[1:])
    return Measured(seconds, tokens, step_flops(model).of(row), 6.0 * size * tokens, memory), name


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def shown(result: Measured, peak: float | None) -> str:
    """One row of the table; MFU only where the GPU's best is known."""
    rate = result.flops / result.seconds / 1e12
    parts = [f"{result.tokens / result.seconds:.0f} tokens/s", f"{rate:.3g} TFLOP/s"]
    if peak is not None:
        text = result.text_flops / result.seconds / 1e12 / peak
        parts += [f"MFU {rate / peak:.3f} (text only {text:.3f})"]
    return ", ".join([*parts, f"{result.memory / 2**30:.1f} GiB"] if result.memory else parts)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure each shape, tuner and length; ``--quick`` and ``--tiny`` take a small shape and one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["4b", "8b"], choices=["4b", "8b"])
    parser.add_argument("--tuners", nargs="*", default=["lora", "full"], choices=["lora", "full"])
    parser.add_argument("--lengths", nargs="*", type=int, default=[16_384, 32_768, 61_440])
    parser.add_argument("--kernels", nargs="*", default=["eager"], choices=["eager", "compile", "liger"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", "--quick", action="store_true", help="a small shape, on a CPU as well")
    asked = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not asked.tiny:
        nothing = "no GPU is visible to torch, so nothing is measured; --tiny runs a small shape on the CPU"
        report("gpu", {"device": nothing}, device="none")
        return
    device = torch.device("cuda" if has_gpu else "cpu")
    name = torch.cuda.get_device_name() if has_gpu else "CPU, no GPU is visible to torch"
    peak = peak_tflops(name) if has_gpu else None
    shapes, lengths, steps = (["tiny"], [600], 1) if asked.tiny else (asked.shapes, asked.lengths, asked.steps)
    rows, numbers = {"device": name, "labels": f"{LABELS} a photo, one of {len(LABEL_KINDS)} kinds"}, {}
    for shape, tuner, kernels, length in itertools.product(shapes, asked.tuners, asked.kernels, lengths):
        key = f"{shape} {tuner} {kernels} {length}"
        try:
            result, optimizer = measure(shape, tuner, kernels, length, device, steps)
        except torch.cuda.OutOfMemoryError:
            rows[key] = "out of memory"
        else:
            rows[f"{key}, {optimizer}"] = shown(result, peak)
            numbers[key.replace(" ", "_")] = result.tokens / result.seconds
        if has_gpu:
            torch.cuda.empty_cache()
    report("gpu", rows, device=name, **numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
