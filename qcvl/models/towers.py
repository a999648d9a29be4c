"""The three towers of a Qwen vision-language model, told apart by parameter and module names."""

from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

Tower = Literal["vision", "aligner", "llm"]
TOWERS: tuple[Tower, ...] = ("vision", "aligner", "llm")
ALIGNER_PARTS = ("merger", "deepstack_merger_list")  # children of `visual` that project into the language model


class Count(NamedTuple):
    """Parameters of a tower: all of them, and those that require a gradient."""

    total: int
    trainable: int


def tower_of(name: str) -> Tower:
    """The tower of a dotted parameter or module name, with or without peft's and Lightning's prefixes.

    Everything under ``visual`` is vision, except its merger and deepstack mergers, which are the aligner; the rest
    (text layers, embeddings, ``lm_head``) is llm.
    """
    parts = name.split(".")
    if "visual" not in parts:
        return "llm"
    below = parts[parts.index("visual") + 1 :]
    return "aligner" if below and below[0] in ALIGNER_PARTS else "vision"


def is_router(name: str) -> bool:
    """Whether a parameter or module name is that of a router, which sends a token to some of a layer's experts."""
    return ".mlp.gate." in f"{name}."


def tower_modules(model: "nn.Module", tower: Tower) -> dict[str, "nn.Module"]:
    """The fewest modules that together hold one tower, by their names in ``model``.

    A deepstack merger list is given as its members, since peft saves modules and not lists of them.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        parent, _, leaf = name.rpartition(".")
        under_visual = parent.split(".")[-1] == "visual" and leaf != "deepstack_merger_list"
        in_list = parent.split(".")[-1] == "deepstack_merger_list"
        text = "visual" not in name.split(".") and leaf in ("language_model", "lm_head")
        if (under_visual or in_list or text) and tower_of(name) == tower and any(True for _ in module.parameters()):
            found[name] = module
    return found


def linear_names(model: "nn.Module", tower: Tower) -> list[str]:
    """Full names of a tower's linear layers, the places adapters can sit; ``lm_head`` is never among them.

    An adapter on the head of a model with tied embeddings merges wrongly, and no recipe trains one.
    """
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and tower_of(name) == tower and name.split(".")[-1] != "lm_head"
    ]


def count_parameters(model: "nn.Module") -> dict[Tower, Count]:
    """Parameters per tower, each shared tensor (tied embeddings) counted once."""
    total: Counter[Tower] = Counter()
    trainable: Counter[Tower] = Counter()
    for name, parameter in model.named_parameters():
        tower = tower_of(name)
        total[tower] += parameter.numel()
        trainable[tower] += parameter.numel() if parameter.requires_grad else 0
    return {tower: Count(total[tower], trainable[tower]) for tower in TOWERS}
