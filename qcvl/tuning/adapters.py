"""Adapters through peft: one path for every method that names target modules."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from qcvl.errors import CheckpointError, ConfigError
from qcvl.models.towers import Tower, tower_modules, tower_of
from qcvl.tuning.freezing import is_under
from qcvl.tuning.full import make_trainable
from qcvl.tuning.quantization import quantize
from qcvl.tuning.settings import PeftTuner
from qcvl.tuning.targets import target_names

ADAPTER_NAME = "default"
# Fields of peft's config classes that the tuner's own settings decide. PiSSA, OLoRA and others of init_lora_weights
# change the base's weights, so that their checkpoints would not load on it.
OWNED_FIELDS = (
    *("peft_type", "target_modules", "modules_to_save", "inference_mode", "task_type", "bias"),
    *("init_lora_weights", "init_weights"),
    *("init_r", "tinit", "tfinal", "deltaT", "total_step", "orth_reg_weight", "rank_pattern"),
)


@dataclasses.dataclass(frozen=True)
class AdapterModules:
    """Full module names of an adapter: ``targets`` carry adapter tensors, ``saved`` are trained copies of modules."""

    targets: frozenset[str] = frozenset()
    saved: frozenset[str] = frozenset()


def add_adapters(
    model: nn.Module,
    tuner: PeftTuner,
    towers: Sequence[Tower],
    extra_modules: AdapterModules | None = None,
    held: Collection[str] = (),
) -> peft.PeftModel:
    """Wrap ``model`` with adapters on ``towers`` and on ``extra_modules``; only those of ``towers`` train, in float32.

    Raises:
        ConfigError: for an unknown method or option, or target modules that match nothing.
        CheckpointError: when ``extra_modules`` are not in ``model`` or are of another kind than ``tuner`` makes.
    """
    modules = _modules_of(model, tuner, towers, extra_modules or AdapterModules(), held)
    config = peft_config(tuner, modules)
    own = {id(parameter) for parameter in model.parameters()}
    model.requires_grad_(False)
    if tuner.quantization is not None:
        quantize(model, tuner.quantization, kept=modules.saved)
    wrapped = peft.get_peft_model(model, config, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=True)
    for name, parameter in wrapped.named_parameters():
        moves = tower_of(base_name(name)) in towers and not is_under(base_name(name), held)
        if id(parameter) in own:  # a bias, where peft left it free; it does so in towers that stay frozen as well
            moves = moves and parameter.requires_grad and tuner.way(tower_of(base_name(name)), towers) == "adapter"
        if not parameter.is_floating_point() or ".ranknum." in name or (id(parameter) in own and not moves):
            parameter.requires_grad_(False)
            continue
        make_trainable(parameter)  # peft leaves modules_to_save in the base's bf16; kept adapters stay exact as well
        parameter.requires_grad_(moves)
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
        **_start(tuner, known),
        **tuner.options,
    }
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[peft.PeftType(tuner.method.upper())]
    settings: dict[str, Any] = {name: getattr(tuner, name) for name in ("rank", "alpha", "dropout")}
    settings["bias"] = {"none": None, "adapted": f"{prefix}only", "all": "all"}[tuner.bias]
    if tuner.rank_schedule is not None:  # the steps are set once the run knows how many it has
        values |= {"init_r": tuner.rank_schedule["initial_rank"], "total_step": 1}
        values["orth_reg_weight"] = tuner.rank_schedule["orthogonality"]
    for setting, value in settings.items():
        if value is None:
            continue
        if (name := _field_for(kind, setting)) is None:
            nothing = "none" if setting == "bias" else "null"
            raise ConfigError(
                f"tuner.{setting}={getattr(tuner, setting)}: peft.{kind.__name__} has no such setting; set "
                f"tuner.{setting}={nothing}"
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


def _start(tuner: PeftTuner, known: Collection[str]) -> dict[str, Any]:
    """How the method's config class spells ``tuner.init``.

    Raises:
        ConfigError: where it has no choice of start.
    """
    name = next((name for name in ("init_lora_weights", "init_weights") if name in known), None)
    if name is not None:
        return {name: {"identity": True, "random": False}.get(tuner.init, tuner.init)}
    if tuner.init != "identity":
        raise ConfigError(f"tuner.init={tuner.init}: method {tuner.kind} has one start; set tuner.init=identity")
    return {}


def _modules_of(
    model: nn.Module, tuner: PeftTuner, towers: Sequence[Tower], extra: AdapterModules, held: Collection[str]
) -> AdapterModules:
    adapted = [tower for tower in towers if tuner.way(tower, towers) == "adapter"]
    whole = [tower for tower in towers if tuner.way(tower, towers) == "full"]
    if not adapted and not whole:
        raise ConfigError(
            f"tuner.target_modules={tuner.target_modules}: with tuner.full_towers={list(tuner.full_towers)} this moves "
            f"nothing of {', '.join(towers)}, which the stage trains; choose another tuner or other stage.towers"
        )
    targets = {*target_names(model, adapted, tuner.target_modules, held), *extra.targets}
    own = {name for tower in whole for name in tower_modules(model, tower) if not is_under(name, held)}
    saved = own | extra.saved
    if cut := sorted(path for path in held for name in own if path.startswith(f"{name}.")):
        raise ConfigError(
            f"stage.freeze_modules holds {cut[0]}, a part of a module that the tuner trains as a whole (a copy of it "
            f"goes into the adapter's file); freeze one of {', '.join(sorted(own))}, or use tuner=full"
        )
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
    if setting == "rank":  # AdaLoRA's r is unused: it starts at init_r and shrinks to target_r
        return next((name for name in ("target_r", "r") if name in names), None)
    candidates = [name for name in names if name == setting or name.endswith(f"_{setting}")]
    # LoHa and LoKr have rank_dropout and module_dropout; dropping modules is the one every such method shares.
    candidates = [name for name in candidates if not name.startswith(("rank_", "regularization_"))]
    return min(candidates, key=len, default=None)
