"""The settings in another trainer's file, flat: YAML of any nesting, or a shell script that starts a training."""

import ast
import operator
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from qcvl.errors import ConfigError

Settings = dict[str, Any]

_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)=(.*)$", re.DOTALL)
_ARITHMETIC = re.compile(r"\$\(\(([^()]+)\)\)")
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def read_settings(path: Path) -> Settings:
    """Setting names (their last part, dashes as underscores) and values of a YAML file or a shell script.

    A mapping that a trainer takes whole (``lr_scheduler_kwargs``, ``augmentation``) is entered like any other; of
    names that come twice the last one wins, as on a command line. Variables a script sets are put in their places,
    others stay as they are written.

    Raises:
        ConfigError: for a file that is missing or holds no settings.
    """
    if not path.is_file():
        raise ConfigError(f"input: {path} not found; give a YAML file or a shell script that starts a training")
    text = path.read_text(encoding="utf-8")
    found = dict(_from_yaml(text, path) if path.suffix in (".yaml", ".yml") else _from_script(text, path))
    if not found:
        raise ConfigError(f"input: {path} holds no settings; expected the YAML or the command of a training")
    return found


def _from_yaml(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"input: {path} is no valid YAML: {' '.join(str(error).split())}; correct it") from error
    jobs = content if isinstance(content, list) else [content]
    for job in jobs:
        if not isinstance(job, dict):
            raise ConfigError(f"input: {path} holds {type(job).__name__}; expected settings by name")
        yield from _leaves(job)


def _leaves(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        else:
            yield str(key), _typed(value) if isinstance(value, str) else value  # YAML 1.1 reads 1e-6 as a text


def _from_script(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """``NAME=value`` before a command and ``--name value`` (or ``--name=value``, or a bare ``--flag``) behind one."""
    text = re.sub(r"\\\r?\n", " ", text)
    try:
        words = shlex.split(_ARITHMETIC.sub(_computed, text), comments=True)
    except ValueError as error:
        raise ConfigError(
            f"input: {path} cannot be read as a shell script ({error}); give the command alone"
        ) from error
    variables: dict[str, str] = {}
    name: str | None = None
    values: list[str] = []
    for word in [*words, "--"]:
        if word.startswith("--"):
            if name is not None:
                yield name, _value(values)
            key, closed, value = word[2:].partition("=")
            name, values = key.replace("-", "_"), []
            if closed:  # what follows belongs to no option: the script that torchrun starts
                yield name, _typed(_expanded(value, variables))
                name = None
        elif name is not None:
            values.append(_expanded(word, variables))
        elif assignment := _ASSIGNMENT.match(word):
            variables[assignment[1]] = assignment[2]
            yield assignment[1].lower(), _typed(assignment[2])


def _value(values: list[str]) -> Any:
    typed = [_typed(value) for value in values]
    return True if not typed else typed[0] if len(typed) == 1 else typed


def _typed(text: str) -> Any:
    """A word as YAML 1.2 means it: ``2e-7`` is a number too."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False}.get(text.lower(), text)


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), word)


def _computed(found: re.Match[str]) -> str:
    """The value of a shell's ``$((576*28*28))``; anything but whole numbers and + - * / stays as it is."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("not whole numbers")

    try:
        return str(value(ast.parse(found[1].replace("/", "//"), mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError):
        return found[0]
