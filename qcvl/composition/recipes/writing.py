"""A translated recipe as a file of the ``experiment`` group."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qcvl.composition.recipes.reading import read_settings
from qcvl.composition.recipes.translation import Recipe, translate
from qcvl.errors import ConfigError

NAMES = ("ms_swift_config", "lmms_config", "qwen_finetune_config")  # of formats; a file itself says which it is


def convert_recipe(source: Path, output: Path) -> Recipe:
    """Read another trainer's YAML or command and write ``<folder>/experiment/<name>.yaml``; returns what was read.

    Raises:
        ConfigError: for a source without settings, or an output that Hydra would not find as an experiment.
    """
    if output.suffix != ".yaml" or output.parent.name != "experiment":
        raise ConfigError(f"output: {output} is no experiment; expected FOLDER/experiment/NAME.yaml")
    recipe = translate(read_settings(source))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(experiment_text(recipe, source.name), encoding="utf-8")
    return recipe


def experiment_text(recipe: Recipe, name: str) -> str:
    """The YAML of an experiment: group choices, settings, and the names that are left over as comments."""
    lines = [
        "# @package _global_",
        f"# From {name}. What it does not state is as in the chosen groups.",
        "defaults:",
        *(f"  - override /{group}: {_scalar(choice)}" for group, choice in recipe.groups.items()),
        "",
    ]
    text = "\n".join(lines) + "\n" + _dumped(_nested(recipe.settings))
    if recipe.left:
        text += "\n# Left over:\n" + "".join(f"#   {line}\n" for line in left_lines(recipe))
    return text


def left_lines(recipe: Recipe) -> list[str]:
    """``name value: why`` of each setting without a counterpart."""
    return [f"{name}{'' if value is None else f' {value}'}: {why}" for name, value, why in recipe.left]


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _dumped(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, default_flow_style=None) if tree else ""


def _scalar(choice: str | list[str]) -> str:
    """A choice as YAML writes it; a digit stays a text, as Hydra wants it."""
    if isinstance(choice, list):
        return f"[{', '.join(choice)}]"
    return f'"{choice}"' if choice.isdigit() else choice
