"""Adapters through peft: one path for every method that names target modules."""

import dataclasses
from collections.abc import Sequence

import peft
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from qcvl.errors import CheckpointError, ConfigError
from qcvl.models.towers import Tower, tower_modules, tower_of
from qcvl.tuning.full import make_trainable
from qcvl.tuning.settings import PeftTuner
from qcvl.tuning.targets import target_names

ADAPTER_NAME = "default"
OWNED_FIELDS = ("peft_type", "target_modules", "modules_to_save", "inference_mode", "task_type")


@dataclasses.dataclass(frozen=True)
class AdapterModules:
    """Full module names of an adapter: ``targets`` carry adapter tensors, ``saved`` are trained copies of modules."""

    targets: frozenset[str] = frozenset()
    saved: frozenset[str] = frozenset()


def add_adapters(
    model: nn.Module, tuner: PeftTuner, towers: Sequence[Tower], extra_modules: AdapterModules | None = None
) -> peft.PeftModel:
    """Wrap ``model`` with adapters on ``towers`` and on ``extra_modules``; only those of ``towers`` train, in float32.

    Raises:
        ConfigError: for an unknown method or option, or target modules that match nothing.
        CheckpointError: when ``extra_modules`` are not in ``model`` or are of another kind than ``tuner`` makes.
    """
    modules = _modules_of(model, tuner, towers, extra_modules or AdapterModules())
    config = peft_config(tuner, modules)
    own = {id(parameter) for parameter in model.parameters()}
    model.requires_grad_(False)
    wrapped = peft.get_peft_model(model, config, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=True)
    for name, parameter in wrapped.named_parameters():
        if id(parameter) in own or not parameter.is_floating_point():
            parameter.requires_grad_(False)
            continue
        make_trainable(parameter)  # peft leaves modules_to_save in the base's bf16; kept adapters stay exact as well
        parameter.requires_grad_(tower_of(base_name(name)) in towers)
    return wrapped


def peft_config(tuner: PeftTuner, modules: AdapterModules) -> peft.PeftConfig:
    """The config object of ``tuner.method`` over ``modules``, by peft's own mapping from names to classes.

    Raises:
        ConfigError: naming the setting that the method's config class does not have.
    """
    kind = _config_class(tuner.method)
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    owned = set(OWNED_FIELDS) | {_field_for(kind, setting) for setting in ("rank", "alpha", "dropout")}
    if unknown := [name for name in tuner.options if name not in known or name in owned]:
        raise ConfigError(
            f"tuner.options: {', '.join(unknown)} cannot be set for method {tuner.kind}; expected fields of "
            f"peft.{kind.__name__} that the tuner does not set itself: {', '.join(sorted(known - owned))}"
        )
    values = {
        "target_modules": sorted(modules.targets) or DUMMY_TARGET_MODULES,
        "modules_to_save": sorted(modules.saved) or None,
        **tuner.options,
    }
    for setting in ("rank", "alpha", "dropout"):
        value = getattr(tuner, setting)
        if value is None:
            continue
        if (name := _field_for(kind, setting)) is None:
            raise ConfigError(
                f"tuner.{setting}={value}: peft.{kind.__name__} has no such setting; set tuner.{setting}=null"
            )
        values[name] = value
    return kind(**values)


def base_name(name: str) -> str:
    """The name a parameter or module of a peft model has in the model under it.

    Example:
        >>> base_name("base_model.model.model.visual.merger.modules_to_save.default.norm.weight")
        'model.visual.merger.norm.weight'
    """
    name = name.removeprefix("base_model.model.")
    for inner in (f".modules_to_save.{ADAPTER_NAME}", ".original_module", ".base_layer"):
        name = name.replace(inner, "")
    return name


def _modules_of(model: nn.Module, tuner: PeftTuner, towers: Sequence[Tower], extra: AdapterModules) -> AdapterModules:
    adapted = [tower for tower in towers if tuner.way(tower, towers) == "adapter"]
    whole = [tower for tower in towers if tuner.way(tower, towers) == "full"]
    targets = {*target_names(model, adapted, tuner.target_modules), *extra.targets}
    saved = {*(name for tower in whole for name in tower_modules(model, tower)), *extra.saved}
    present = {name for name, _ in model.named_modules()}
    if missing := sorted((extra.targets | extra.saved) - present):
        raise CheckpointError(
            f"the checkpoint adapts {len(missing)} module(s) that {type(model).__name__} does not have, first "
            f"{missing[0]}; start from a checkpoint of the same architecture"
        )
    if both := sorted(name for name in targets if any(name == s or name.startswith(s + ".") for s in saved)):
        raise CheckpointError(
            f"{both[0]} would be an adapter and fully trained at once ({len(both)} module(s)): the checkpoint in "
            "stage.init_from moved that tower in the other way; use the tuner of the earlier stage"
        )
    return AdapterModules(frozenset(targets), frozenset(saved))


def _config_class(method: str) -> type[peft.PeftConfig]:
    """Peft's config class of ``method`` among those that adapt named modules."""
    classes = {kind.value.lower(): config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    usable = {
        name: config
        for name, config in classes.items()
        if {"target_modules", "modules_to_save"} <= {field.name for field in dataclasses.fields(config)}
    }
    if method.lower() not in usable:
        raise ConfigError(f"tuner.method={method}: expected one of peft's {', '.join(sorted(usable))}")
    return usable[method.lower()]


def _field_for(kind: type[peft.PeftConfig], setting: str) -> str | None:
    """The name peft's config class gives to ``rank``, ``alpha`` or ``dropout``: ``r``, ``lora_alpha`` …."""
    names = {field.name for field in dataclasses.fields(kind)}
    if setting == "rank":
        return "r" if "r" in names else None
    candidates = [name for name in names if name == setting or name.endswith(f"_{setting}")]
    # LoHa and LoKr have rank_dropout and module_dropout; dropping modules is the one every such method shares.
    candidates = [name for name in candidates if not name.startswith(("rank_", "regularization_"))]
    return min(candidates, key=len, default=None)
