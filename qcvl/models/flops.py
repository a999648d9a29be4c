"""Floating-point operations of a training step, counted from the model's layers, what of them trains, and the batch.

A multiplication and an addition are two operations, and matrix products are all that counts. A product costs its
forward once, the gradient of its input once more where something before it trains, and that of its weight once more
where the weight itself trains; so a tower below everything that trains costs its forward alone. What activation
checkpointing computes again is not counted, nor are padding, the blank cell of a row of text, and what an adapter does
besides its linear layers (DoRA's norms, the rotations of BOFT).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from qcvl.errors import QcvlError
from qcvl.models.forward import unwrap

Place = tuple[float, float]  # (block, step in the block): what comes before what in one stream
Unit = Literal["patch_value", "patch", "cell", "token", "label", "frame_pair", "window_pair", "causal_pair"]
ATTENTION, END = 3, math.inf
BEFORE: Place = (-2, 0)  # all of a stream
STEPS = {
    **dict.fromkeys(("norm1", "input_layernorm", "ln_q", "norm"), 0),
    **dict.fromkeys(("qkv", "q_proj", "k_proj", "v_proj"), 1),
    **dict.fromkeys(("q_norm", "k_norm"), 2),
    **dict.fromkeys(("proj", "o_proj"), 4),
    **dict.fromkeys(("norm2", "post_attention_layernorm"), 5),
    **dict.fromkeys(("linear_fc1", "fc1", "gate_proj", "up_proj", "gate_up_proj", "gate", "0"), 6),
    **dict.fromkeys(("linear_fc2", "fc2", "down_proj", "2"), 7),
}
WRAPPERS = re.compile(r"\.(base_layer|modules_to_save\.\w+)(?=\.|$)")
STREAM = re.compile(
    r"model\.(?P<visual>visual)\.(patch_embed|pos_embed|blocks\.(?P<block>\d+))\."
    r"|model\.visual\.(?P<merger>merger|deepstack_merger_list\.\d+)\."
    r"|(model\.language_model\.(embed_tokens|layers\.(?P<layer>\d+)|(?P<last>norm))|(?P<head>lm_head))\."
)


class Product(NamedTuple):
    """A matrix product: ``size`` multiplications per ``unit``, at ``place`` of ``stream``; whether its weight trains.

    ``backwards`` is how many products of the same size its input's gradient takes: two of attention, else one.
    """

    stream: str
    place: Place
    unit: Unit
    size: float
    trains: bool
    backwards: int = 1


@dataclass(frozen=True)
class StepFlops:
    """Operations per unit of a batch, forward and backward."""

    rates: Mapping[Unit, float]
    merge: int
    window: int | None

    def of(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Operations of a training step on one packed row (see ``data.batch.collate``)."""
        amounts = batch_amounts(batch, self.merge, self.window)
        return sum(rate * amounts[unit] for unit, rate in self.rates.items())


def batch_amounts(batch: Mapping[str, torch.Tensor], merge: int, window: int | None) -> dict[Unit, int]:
    """How many of each unit a row holds.

    Args:
        batch: ``segments``, ``label_kinds [1, L]``, ``pixel_values [N, values]`` and ``image_grid_thw``.
        merge: patches along the side of a merged cell.
        window: merged cells along the side of an attention window, None where there are no windows.

    A frame attends within itself and a window within itself, in pairs of patches; a sample causally, in pairs of
    tokens, each with itself and all before it.
    """
    grids, segments = batch["image_grid_thw"].tolist(), batch["segments"].tolist()
    patches = sum(time * rows * columns for time, rows, columns in grids)
    sides = [(time, rows // merge, columns // merge) for time, rows, columns in grids]
    return {
        "patch_value": patches * batch["pixel_values"].shape[1],
        "patch": patches,
        "cell": patches // merge**2,
        "token": sum(segments),
        "label": int(batch["label_kinds"][0, 1:].count_nonzero()),
        "frame_pair": sum(time * (rows * columns) ** 2 for time, rows, columns in grids),
        "window_pair": 0
        if window is None
        else merge**4 * sum(time * _squares(rows, window) * _squares(columns, window) for time, rows, columns in sides),
        "causal_pair": sum(length * (length + 1) // 2 for length in segments),
    }


def _squares(side: int, window: int) -> int:
    """The sum of squared lengths of the windows along one side; the last may be shorter."""
    return side // window * window**2 + (side % window) ** 2


def step_flops(model: nn.Module) -> StepFlops:
    """What a training step of ``model`` costs, plain or wrapped by peft, with what requires a gradient now.

    Raises:
        QcvlError: for a layer whose place among the others is not known.
    """
    core = unwrap(model)
    vision = core.config.vision_config
    first = _first_gradient(core)
    rates: defaultdict[Unit, float] = defaultdict(float)
    for product in _products(core):
        asked = first.get(product.stream, (END, END)) < product.place
        forwards = 1 + product.backwards * asked + product.trains
        rates[product.unit] += 2 * product.size * forwards
    pixels = getattr(vision, "window_size", None)
    merge = vision.spatial_merge_size
    return StepFlops(dict(rates), merge, pixels and pixels // merge // vision.patch_size)


def _first_gradient(core: nn.Module) -> dict[str, Place]:
    """Where gradients of activations begin in each stream: at its first trained weight, or where another flows in."""
    first: dict[str, Place] = {}

    def begin(stream: str, place: Place) -> None:
        first[stream] = min(place, first.get(stream, place))

    for name, parameter in core.named_parameters():
        if parameter.requires_grad and (located := _locate(name)):
            begin(*located)
    # Of each merger: the last place it sees of the blocks, and where its output enters the text layers.
    mergers: dict[str, tuple[Place, Place]] = {"merger": ((END, END), BEFORE)}
    for number, block in enumerate(getattr(core.config.vision_config, "deepstack_visual_indexes", ())):
        mergers[f"deepstack_merger_list.{number}"] = (block, END), (number, END)
    for stream, (source, target) in mergers.items():
        if "visual" in first and first["visual"] <= source:
            begin(stream, BEFORE)
        if stream in first:
            begin("llm", target)
    return first


def _locate(name: str) -> tuple[str, Place] | None:
    """The stream of a parameter or module and its place there; None for what a step does not run.

    Streams are ``visual`` (embeddings and blocks), each merger for itself, and ``llm``, its head included.
    """
    name = WRAPPERS.sub("", name) + "."
    match = STREAM.match(name)
    if match is None or ".original_module." in name:
        return None
    below = name[match.end() :].split(".")
    late = 0.5 if "lora_B" in below else 0.0  # its input is lora_A's output
    if match["head"]:
        return "llm", (END, 1)
    if match["last"]:
        return "llm", (END, 0)
    block = match["block"] or match["layer"]
    stream = "visual" if match["visual"] else match["merger"] or "llm"
    if block is None and not match["merger"]:
        return stream, (-1, late)
    step = next((STEPS[part] for part in below if part in STEPS), None)
    if step is None:
        return None if below == [""] else (stream, (int(block or 0), END))
    return stream, (int(block or 0), step + late)


def _products(core: nn.Module) -> list[Product]:
    products = []
    for name, module in core.named_modules():
        for matrix, size, trains in _matrices(name, module, core):
            if (located := _locate(matrix)) is None:
                continue
            stream, place = located
            if place[1] == END:
                raise QcvlError(
                    f"perf/mfu: {name} ({type(module).__name__}) is a layer whose place among the others is not known; "
                    "train without the count: ~callbacks.utilization"
                )
            products.append(Product(stream, place, _unit(stream, place, module), size, trains))
            if (pairs := _pairs(matrix, core)) and isinstance(module, nn.Linear):
                width = module.in_features  # that of all heads; scores and their product with the values
                products.append(Product(stream, (place[0], ATTENTION), pairs, 2 * width, False, backwards=2))
    return products


def _matrices(name: str, module: nn.Module, core: nn.Module) -> Iterator[tuple[str, float, bool]]:
    """The weight matrices that a module itself applies: name, multiplications a row, and whether they train."""
    if isinstance(module, nn.Linear):
        yield name, module.in_features * module.out_features, module.weight.requires_grad
    elif isinstance(module, nn.Conv3d):  # the patch embedding: kernel == stride, so each value meets each channel once
        yield name, module.out_channels, module.weight.requires_grad
    else:
        text = core.config.text_config
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3:  # all experts of a mixture in one tensor; a token meets a few of them
                share = text.num_experts_per_tok / len(parameter)
                yield f"{name}.{own}", parameter.numel() * share, parameter.requires_grad
            elif own == "weight" and name.endswith(".mlp.gate"):  # chooses the experts
                yield name, parameter.numel(), parameter.requires_grad


def _unit(stream: str, place: Place, module: nn.Module) -> Unit:
    """What a product is applied to."""
    if isinstance(module, nn.Conv3d):
        return "patch_value"
    if stream == "llm":
        return "label" if place[0] == END else "token"
    return "patch" if stream == "visual" else "cell"


def _pairs(name: str, core: nn.Module) -> Unit | None:
    """What attends to what in the block of a matrix; None unless it is the one that tells the heads' width.

    That is the query projection of a vision block and the output projection of a text layer.
    """
    name = WRAPPERS.sub("", name)
    if name.endswith(".self_attn.o_proj"):
        return "causal_pair"
    if not name.endswith(".attn.qkv"):
        return None
    whole = getattr(core.config.vision_config, "fullatt_block_indexes", None)
    return "frame_pair" if whole is None or int(name.split(".")[-3]) in whole else "window_pair"
