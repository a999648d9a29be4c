"""Model weights in a checkpoint folder: only what was trained for adapters, the whole model otherwise."""

import copy
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qcvl.errors import CheckpointError
from qcvl.models.towers import Tower
from qcvl.tuning.adapters import ADAPTER_NAME, AdapterModules
from qcvl.tuning.settings import FullTuner, Tuner

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
# Fields that change what the same tensors compute; a checkpoint must agree with the tuner in each.
MEANING = (
    *("peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "alpha_pattern"),
    *("boft_block_size", "boft_block_num", "boft_n_butterfly_factor"),
    *("n_frequency", "scaling", "random_loc_seed"),
)


def save_model(model: nn.Module, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write the weights of ``model`` into an existing folder, loadable by plain transformers or peft.

    A peft model gives ``adapter_model.safetensors`` with the adapters (of frozen towers too) and the trained copies in
    ``modules_to_save``, no base weights; any other model its whole weights. ``state_dict`` replaces the model's own
    where a strategy had to gather it.
    """
    write_model(model, saved_tensors(model, state_dict), folder)


def saved_tensors(model: nn.Module, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What ``save_model`` writes of a model, by its names in the file; the tensors are the model's own."""
    if isinstance(model, peft.PeftModel):
        return _adapter_state(model, state_dict)
    return dict(model.state_dict() if state_dict is None else state_dict)


def write_model(model: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``saved_tensors``, or copies of them, as ``save_model`` does; the model's present weights do not matter."""
    if not isinstance(model, peft.PeftModel):
        model.save_pretrained(folder, state_dict=dict(tensors))
        return
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        Path(folder) / ADAPTER_WEIGHTS,
        metadata={"format": "pt"},
    )
    config = copy.copy(model.peft_config[ADAPTER_NAME])
    config.inference_mode = True
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # equal checkpoints are equal files
    config.save_pretrained(folder)


def init_from(
    model: nn.Module, tuner: Tuner, towers: Sequence[Tower], folder: Path, held: Collection[str] = ()
) -> nn.Module:
    """Set up ``model`` by ``tuner`` for ``towers``, starting from the weights in ``folder``; returns what to train.

    A full checkpoint is loaded into the base first. An adapter checkpoint makes the adapter cover the modules of both
    stages, and its tensors are copied by name; those of towers outside ``towers`` stay frozen and are saved again.

    Raises:
        CheckpointError: when the checkpoint's kind, rank or modules do not fit ``tuner`` and ``model``.
    """
    if not is_adapter(folder):
        load_full(model, folder)
        return tuner.setup(model, towers, held=held)
    if isinstance(tuner, FullTuner):
        raise CheckpointError(
            f"{folder}: holds an adapter, and tuner=full trains the weights themselves; merge it first with "
            "`python -m qcvl.export` and set model.path to the result, or use the tuner it was trained with"
        )
    model = tuner.setup(model, towers, extra_modules=adapter_modules(folder), held=held)
    load_adapter(model, folder)
    return model


def is_adapter(folder: Path) -> bool:
    """Whether a checkpoint folder holds an adapter (true) or a whole model (false).

    Raises:
        CheckpointError: when it holds neither.
    """
    folder = Path(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        return True
    if (folder / "config.json").is_file():
        return False
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise CheckpointError(
        f"{folder}: expected {ADAPTER_CONFIG} or config.json, found: {there or 'an empty folder'}; "
        "give a checkpoint folder, such as outputs/…/checkpoints/last"
    )


def adapter_modules(folder: Path) -> AdapterModules:
    """The modules an adapter checkpoint covers, by their names in the base model; read from its tensors' names.

    Adapters on parameters (peft's ``target_parameters``, for fused experts) are not among them: they have no module of
    their own, and the tuner names them again.
    """
    config = read_adapter_config(folder)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[peft.PeftType(config["peft_type"])]
    names = [name.removeprefix(PREFIX) for name in read_adapter(folder)]
    listed = config.get("modules_to_save") or []
    targets = {name.rsplit(f".{prefix}", 1)[0] for name in names if f".{prefix}" in name}
    saved = {entry for entry in listed if any(name.startswith(f"{entry}.") for name in names)}
    if not targets and not saved:
        raise CheckpointError(
            f"{folder}: its tensors name no module of {config['peft_type']}; {ADAPTER_WEIGHTS} is foreign"
        )
    holders = tuple("." + name.rpartition(".")[0] for name in config.get("target_parameters") or ())
    modules = {name for name in targets if not name.replace(".base_layer", "").endswith(holders)}
    return AdapterModules(frozenset(modules), frozenset(saved))


def load_adapter(model: peft.PeftModel, folder: Path) -> None:
    """Copy an adapter checkpoint into ``model`` by name; modules it does not cover keep their start.

    Raises:
        CheckpointError: for another method or rank, a tensor without a place, or one of another shape.
    """
    config, saved, places = read_adapter_config(folder), read_adapter(folder), _adapter_state(model)
    if config.get("rank_pattern"):
        raise CheckpointError(
            f"{folder}: AdaLoRA has dealt its ranks, no two modules alike, and a new schedule would start above them; "
            "merge it with `python -m qcvl.export` and set model.path to the result"
        )
    own = json.loads(json.dumps(model.peft_config[ADAPTER_NAME].to_dict(), default=sorted))
    if differ := [name for name in MEANING if config.get(name) != own.get(name)]:
        raise CheckpointError(
            f"{folder}: "
            + "; ".join(
                f"{name} is {config.get(name)} in the checkpoint, {own.get(name)} in the tuner" for name in differ
            )
            + "; set the tuner as in the checkpoint, or merge it first with `python -m qcvl.export`"
        )
    if homeless := sorted(saved.keys() - places.keys()):
        raise CheckpointError(
            f"{folder}: {len(homeless)} of {len(saved)} tensors have no place in the model, first {homeless[0]}; "
            "expected a checkpoint of the same architecture and tuner"
        )
    if misfits := [name for name in sorted(saved) if saved[name].shape != places[name].shape]:
        name = misfits[0]
        raise CheckpointError(
            f"{folder}: {name} is {list(saved[name].shape)}, the model expects {list(places[name].shape)} "
            f"({len(misfits)} such tensors); set tuner.rank as in the checkpoint"
        )
    peft.set_peft_model_state_dict(model, saved, adapter_name=ADAPTER_NAME)


def load_full(model: nn.Module, folder: Path) -> None:
    """Replace all weights of ``model`` (a transformers model without adapters) by those in ``folder``.

    Raises:
        CheckpointError: when the folder's weights are damaged or those of another architecture.
    """
    try:
        source = type(model).from_pretrained(folder, dtype="auto", local_files_only=True, use_safetensors=True)
        model.load_state_dict(source.state_dict())
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its weights do not fit {type(model).__name__}: {error}") from error


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter checkpoint on the CPU, by their names in the file."""
    path = Path(folder) / ADAPTER_WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"{path}: missing beside {ADAPTER_CONFIG}; expected a folder written by qcvl.train or peft"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); use another checkpoint") from None


def read_adapter_config(folder: Path) -> dict:
    """``adapter_config.json`` as plain data; its ``peft_type`` is one that peft knows."""
    path = Path(folder) / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        peft.PeftType(config["peft_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: is no adapter config of peft ({error!r}); use another checkpoint") from None
    return config


def _adapter_state(model: peft.PeftModel, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Adapter tensors and trained copies by their names in a file; never embeddings, never a look at the hub."""
    return peft.get_peft_model_state_dict(
        model,
        state_dict=None if state_dict is None else dict(state_dict),
        adapter_name=ADAPTER_NAME,
        save_embedding_layers=False,
    )
