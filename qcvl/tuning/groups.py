"""Parameter groups, one rate each, and the table of towers that is printed before training starts."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import TOWERS, Tower, tower_of
from qcvl.tuning.adapters import base_name
from qcvl.tuning.settings import TrainingStage, Tuner, Way

# Modules whose 2-D weights map features to features. Embeddings, heads and position tables are left to AdamW, as
# Muon's author advises: https://kellerjordan.github.io/posts/muon/
BLOCK = re.compile(r"(^|\.)(layers|blocks|merger|deepstack_merger_list)\.")


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

    Each has ``params``, ``lr`` (the stage's rate times ``lr_multiplier``), ``weight_decay`` (0 on 1-d parameters),
    ``tower``, ``way``, ``decay``, ``matrix`` (a fully trained 2-D weight inside a block) and a unique ``name``.

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
            rate = stage.rates[way] * lr_multiplier
            groups += _split(named[tower], lr=rate, weight_decay=weight_decay, tower=tower, way=way)
    return groups


def module_groups(module: nn.Module, name: str, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of a module beside the model, such as an auxiliary head: AdamW's, under ``tower=name``."""
    return _split(module.named_parameters(), lr=lr, weight_decay=weight_decay, tower=name, way="full")


def tower_table(model: nn.Module, groups: list[dict[str, Any]], tuner: Tuner, stage: TrainingStage) -> list[TowerRow]:
    """One row a tower, in the order vision, aligner, llm; ``source`` spells the product that made the rate.

    ``total`` counts the model's own weights (a tied head once), ``trained`` the numbers in ``groups``.
    """
    total = dict.fromkeys(TOWERS, 0)
    for name, parameter in model.named_parameters():
        if not _is_added(model, name):
            total[tower_of(base_name(name))] += parameter.numel()
    return [_row(tower, total[tower], groups, tuner, stage) for tower in TOWERS]


def _row(tower: Tower, total: int, groups: list[dict[str, Any]], tuner: Tuner, stage: TrainingStage) -> TowerRow:
    way = tuner.way(tower, stage.towers)
    mine = [group for group in groups if group["tower"] == tower]
    trained = sum(parameter.numel() for group in mine for parameter in group["params"])
    if way == "frozen":
        return TowerRow(tower, total, trained, way, None, f"stage={stage.number} leaves it out")
    rate = mine[0].get("initial_lr", mine[0]["lr"])  # a scheduler writes the present rate to lr
    multiplier = rate / stage.rates[way]
    source = f"stage={stage.number} {way} {_short(stage.rates[way])} x model.lr_multiplier {_short(multiplier)}"
    return TowerRow(tower, total, trained, way, rate, source)


def _split(parameters: Iterable[tuple[str, nn.Parameter]], **shared: Any) -> list[dict[str, Any]]:
    """The named parameters as groups that share ``shared``, apart by weight decay and by Muon flag."""
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        matrix = shared["way"] == "full" and parameter.ndim == 2 and BLOCK.search(base_name(name)) is not None
        parts.setdefault((parameter.ndim > 1, matrix), []).append(parameter)
    return [
        {
            **shared,
            "params": params,
            "weight_decay": shared["weight_decay"] if decay else 0.0,
            "decay": decay,
            "matrix": matrix,
            "name": "/".join(
                [shared["tower"], shared["way"], "decay" if decay else "no_decay", *(["matrix"] if matrix else [])]
            ),
        }
        for (decay, matrix), params in sorted(parts.items(), reverse=True)
    ]


def _is_added(model: nn.Module, name: str) -> bool:
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
