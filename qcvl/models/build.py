"""Making the torch model of a setting: weights from a folder, or random weights from a seed."""

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from qcvl.errors import CheckpointError, ConfigError
from qcvl.models.context import extend_context
from qcvl.models.liger import use_liger
from qcvl.models.spec import Processing
from qcvl.models.speed import compile_blocks, speed_up
from qcvl.models.towers import TOWERS, Tower, tower_of

if TYPE_CHECKING:
    from qcvl.models.settings import ModelSettings, ModelSpec, ScratchModel

TEXT_OUTPUT = re.compile(r"\.language_model\.layers\.\d+\.(self_attn\.o_proj|mlp(\.experts)?\.down_proj)$")
VISION_OUTPUT = re.compile(r"\.visual\.blocks\.\d+\.(attn\.proj|mlp\.(linear_fc2|fc2|down_proj))$")


def load_pretrained(folder: Path, spec: "ModelSpec") -> PreTrainedModel:
    """The model in ``folder``, from safetensors only, without looking anything up in the hub.

    Raises:
        CheckpointError: when weights are damaged, missing, or of other shapes than config.json says.
    """
    dtype = spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        extend_context(config, spec.context_factor)
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except SafetensorError as error:
        raise CheckpointError(f"{folder}: a weight file is damaged ({error}); copy the checkpoint again") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: transformers cannot load it ({error})") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} tensors of config.json's model are not in its weights "
            f"({', '.join(missing[:3])}, …); the two do not belong together"
        )
    return _finish(model, spec)


def build_scratch(spec: "ScratchModel", processing: Processing) -> PreTrainedModel:
    """Random weights for ``spec.architecture`` over the tokenizer's vocabulary; equal for equal seeds."""
    config = scratch_config(spec.architecture, processing)
    extend_context(config, spec.context_factor)
    with torch.random.fork_rng(devices=[]):  # constructing draws numbers that are overwritten below
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    initialise(model, spec)
    model.generation_config.eos_token_id = processing.turn_end
    model.generation_config.pad_token_id = processing.pad
    return _finish(model.to(torch.bfloat16 if spec.dtype == "bfloat16" else torch.float32), spec)


def scratch_config(architecture: dict[str, Any], processing: Processing) -> PreTrainedConfig:
    """The Hugging Face config of an architecture, with vocabulary size and token ids from the tokenizer."""
    tokens = processing.tokenizer.get_vocab().values()
    text = {**architecture["text_config"], "vocab_size": max(tokens) + 1}
    text |= {"eos_token_id": processing.turn_end, "pad_token_id": processing.pad}
    width = "hidden_size" if architecture["model_type"] == "qwen2_vl" else "out_hidden_size"  # of what the merger gives
    vision = {**architecture["vision_config"], width: text["hidden_size"]}
    ids = {
        "image_token_id": processing.image_pad,
        "video_token_id": processing.video_pad,
        "vision_start_token_id": processing.vision_start,
        "vision_end_token_id": processing.vision_end,
    }
    parts = {"text_config": text, "vision_config": vision, **ids}
    rest = {key: value for key, value in architecture.items() if key not in {"model_type", *parts}}
    return AutoConfig.for_model(architecture["model_type"], **rest, **parts)


@torch.no_grad()
def initialise(model: PreTrainedModel, spec: "ScratchModel") -> None:
    """Overwrite all weights: normal with ``init_std``, biases 0, norms 1, a position table sine-cosine."""
    generator = torch.Generator().manual_seed(spec.seed)
    depth = {TEXT_OUTPUT: model.config.text_config.num_hidden_layers, VISION_OUTPUT: model.config.vision_config.depth}
    for name, module in model.named_modules():
        if name == "lm_head":
            continue
        for maps, weight in _maps(module).items():
            where = ".".join(part for part in (name, maps) if part)
            layers = next((count for pattern, count in depth.items() if pattern.search(where)), None)
            shrink = math.sqrt(2 * layers) if layers and spec.scale_residual_outputs else 1.0
            weight.normal_(0.0, spec.init_std / shrink, generator=generator)
        bias = getattr(module, "bias", None)
        if bias is not None:
            bias.zero_()
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.normal_(0.0, spec.init_std, generator=generator)
    _position_table(model, spec.position_table_scale)


def _maps(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of one module that map features to features, by their names; a linear layer's has the empty name."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.Conv3d):
        return {"": module.weight}
    own = dict(module.named_parameters(recurse=False))
    return {name: weight for name, weight in own.items() if weight.ndim > 1}  # a router's, and all experts' in one


def _position_table(model: PreTrainedModel, scale: float | None) -> None:
    """Fill the vision position table of the families that have one.

    Raises:
        ConfigError: for a scale without a table, or a table without a scale.
    """
    table = getattr(model.model.visual, "pos_embed", None)
    if (table is None) != (scale is None):
        family = model.config.model_type
        raise ConfigError(
            f"model.position_table_scale={scale}: "
            + (f"{family} has no vision position table; set it to null" if table is None else f"{family} needs one")
        )
    if table is not None:
        table.weight.copy_(scale * sine_cosine_table(*table.weight.shape))


def sine_cosine_table(positions: int, width: int) -> torch.Tensor:
    """Float32 ``[positions, width]``: sines and cosines of row and column over a square grid of ``positions`` places.

    Half the width encodes the row and half the column, each at ``width / 4`` wavelengths, as in Vaswani et al. (2017).
    """
    side = math.isqrt(positions)
    rates = 10_000 ** (-torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    angles = torch.arange(side, dtype=torch.float32)[:, None] * rates
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(positions, width)


def _finish(model: PreTrainedModel, spec: "ModelSettings") -> PreTrainedModel:
    """Fast paths, and activation checkpoints where asked."""
    speed_up(model, spec.attn)
    if chosen := spec.gradient_checkpointing:
        checkpoint_activations(model, TOWERS if isinstance(chosen, bool) else chosen)
    if spec.liger:
        use_liger(model)
    if spec.compile:
        compile_blocks(model)
    return model


def checkpoint_activations(model: PreTrainedModel, towers: Collection[Tower]) -> None:
    """Recompute layers of ``towers`` in backward instead of keeping their activations.

    The non-reentrant form needs no gradient at its inputs. transformers and peft would still hook the embeddings to
    make one, which keeps a graph through frozen layers, so the model's method that sets those hooks does nothing here.
    """
    model.enable_input_require_grads = _no_hooks  # type: ignore[method-assign]
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:  # transformers below 5.22
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for name, module in model.named_modules():
        if getattr(module, "gradient_checkpointing", False) and tower_of(name) not in towers:
            module.gradient_checkpointing = False


def _no_hooks() -> None:
    """Stands in for `PreTrainedModel.enable_input_require_grads`."""
