"""Parameter groups, one rate each, and the table of towers that is printed before training starts."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import TOWERS, Tower, tower_of
from qcvl.tuning.adapters import base_name
from qcvl.tuning.quantization import weight_count
from qcvl.tuning.settings import TrainingStage, Tuner, Way

# Modules whose 2-D weights map features to features. Embeddings, heads and position tables are left to AdamW, as
# Muon's author advises: https://kellerjordan.github.io/posts/muon/
BLOCK = re.compile(r"(^|\.)(layers|blocks|merger|deepstack_merger_list)\.")
NUMBERED = re.compile(r"(^|\.)(?:layers|blocks)\.(\d+)\.")
BELOW = re.compile(r"(^|\.)(patch_embed|pos_embed|embed_tokens)\.")  # come before the first block


@dataclass(frozen=True)
class TowerRow:
    """One line of the start-up table: ``trained`` of ``total`` numbers move, ``how``, at ``rate``, set where."""

    tower: Tower
    total: int
    trained: int
    how: Way
    rate: float | None
    source: str


def parameter_groups(
    model: nn.Module, tuner: Tuner, stage: TrainingStage, lr_multiplier: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups over the trainable parameters of ``model``: one per tower, decay and Muon flag.

    Each has ``params``, ``lr`` (the tower's rate times ``lr_multiplier`` and the group's ``share`` of it, by layer
    decay and LoRA+), ``weight_decay`` (0 on 1-d parameters), ``tower``, ``way``, ``decay``, ``matrix`` (a fully trained
    2-D weight inside a block) and a unique ``name``.

    Raises:
        ConfigError: when a tower of the stage has nothing to train.
    """
    named: dict[Tower, list[tuple[str, nn.Parameter]]] = {tower: [] for tower in TOWERS}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            named[tower_of(base_name(name))].append((name, parameter))
    groups = []
    for tower in TOWERS:
        way = tuner.way(tower, stage.towers)
        if bool(named[tower]) != (way != "frozen"):
            raise ConfigError(
                f"stage={stage.number} says tower {tower} is {way}, but {len(named[tower])} of its tensors are "
                "trainable; call tuner.setup(model, stage.towers) first and make no change to requires_grad after it"
            )
        if way != "frozen":
            rate = stage.rate(tower, way) * lr_multiplier
            shares = _shares(model, tower, tuner, stage)
            groups += _split(named[tower], shares, lr=rate, weight_decay=weight_decay, tower=tower, way=way)
    return groups


def module_groups(module: nn.Module, name: str, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of a module beside the model, such as an auxiliary head: AdamW's, under ``tower=name``."""
    return _split(module.named_parameters(), lambda _: 1.0, lr=lr, weight_decay=weight_decay, tower=name, way="full")


def tower_table(model: nn.Module, groups: list[dict[str, Any]], tuner: Tuner, stage: TrainingStage) -> list[TowerRow]:
    """One row a tower, in the order vision, aligner, llm; ``source`` spells the product that made the rate.

    ``total`` counts the model's own weights (a tied head once), ``trained`` the numbers in ``groups``.
    """
    total = dict.fromkeys(TOWERS, 0)
    for name, parameter in model.named_parameters():
        if not is_added(model, name):
            total[tower_of(base_name(name))] += weight_count(parameter)
    return [_row(tower, total[tower], groups, tuner, stage) for tower in TOWERS]


def _row(tower: Tower, total: int, groups: list[dict[str, Any]], tuner: Tuner, stage: TrainingStage) -> TowerRow:
    way = tuner.way(tower, stage.towers)
    mine = [group for group in groups if group["tower"] == tower]
    trained = sum(parameter.numel() for group in mine for parameter in group["params"])
    if way == "frozen":
        who = f"tuner={tuner.kind}" if tower in stage.towers else f"stage={stage.number}"
        return TowerRow(tower, total, trained, way, None, f"{who} leaves it out")
    top = max(mine, key=lambda group: group["share"])
    rate = top.get("initial_lr", top["lr"]) / top["share"]  # a scheduler writes the present rate to lr
    multiplier = rate / stage.rate(tower, way)
    source = f"stage={stage.number} {way} {_short(stage.rate(tower, way))} x model.lr_multiplier {_short(multiplier)}"
    if shares := sorted({group["share"] for group in mine} - {1.0}):
        source += f" x {_short(shares[0])}" + (f" to {_short(max(shares[-1], 1.0))}" if len(shares) > 1 else " in part")
    return TowerRow(tower, total, trained, way, rate, source)


def _shares(model: nn.Module, tower: Tower, tuner: Tuner, stage: TrainingStage) -> Callable[[str], float]:
    """What each parameter's rate is multiplied by: ``layer_decay`` per block above it, and B's ratio (LoRA+).

    Embeddings lie below the first block; norms, heads and mergers above the last.
    """
    blocks = {int(match[2]) for name, _ in model.named_parameters() if (match := _block_of(name, tower))}
    ratio = getattr(tuner, "b_rate_ratio", 1.0)

    def share(name: str) -> float:
        match = _block_of(name, tower)
        above = len(blocks) - 1 - int(match[2]) if match else len(blocks) * bool(BELOW.search(name))
        return stage.layer_decay**above * (ratio if ".lora_B." in name else 1.0)

    return share


def _block_of(name: str, tower: Tower) -> re.Match[str] | None:
    return NUMBERED.search(name) if tower_of(base_name(name)) == tower else None


def _split(
    parameters: Iterable[tuple[str, nn.Parameter]], share: Callable[[str], float], lr: float, **shared: Any
) -> list[dict[str, Any]]:
    """The named parameters as groups that have ``shared``, apart by weight decay, Muon flag and share of ``lr``."""
    parts: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        dimensions = len(getattr(parameter, "ds_shape", parameter.shape))  # the former where ZeRO-3 holds a share
        matrix = shared["way"] == "full" and dimensions == 2 and BLOCK.search(base_name(name)) is not None
        parts.setdefault((dimensions > 1, matrix, share(name)), []).append(parameter)
    return [
        {
            **shared,
            "lr": lr * part,
            "share": part,
            "params": params,
            "weight_decay": shared["weight_decay"] if decay else 0.0,
            "decay": decay,
            "matrix": matrix,
            "name": "/".join(
                [
                    shared["tower"],
                    shared["way"],
                    "decay" if decay else "no_decay",
                    *(["matrix"] if matrix else []),
                    *([f"x{part:.6g}"] if part != 1 else []),
                ]
            ),
        }
        for (decay, matrix, part), params in sorted(parts.items(), key=lambda item: item[0], reverse=True)
    ]


def is_added(model: nn.Module, name: str) -> bool:
    """Whether a parameter came with the adapter and is not one of the model's own."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)
    is_peft = hasattr(model, "peft_config")
    return is_peft and (".modules_to_save." in name or (prefix is not None and prefix in name))


def _short(number: float) -> str:
    """``5e-5`` rather than ``5e-05``, ``1e-4`` rather than ``0.0001``, and ``100``."""
    if number >= 0.01:
        return f"{number:g}"
    mantissa, exponent = f"{number:.5e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
