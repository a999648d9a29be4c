"""Rules between DeepSpeed and the other groups: what it cannot do, refused before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

NO_EXPERTS = (
    "ZeRO-3 gathers each layer's weights on all ranks in one recorded order, all experts for the few that a token "
    "uses, and ranks whose tokens are routed elsewhere would wait for each other; use strategy=deepspeed_zero2"
)


def experts_are_not_dealt(cfg: DictConfig) -> str | None:
    """ZeRO-3 takes no mixture of experts, as far as the settings or a local folder tell that a model is one."""
    model_type = _model_type(cfg)
    if zero_stage(cfg) != 3 or not is_mixture(model_type):
        return None
    return f"trainer.strategy: model is a {model_type}, a mixture of experts: {NO_EXPERTS}"


def deepspeed_steps_by_adamw(cfg: DictConfig) -> str | None:
    """DeepSpeed's flat shares hold parts of several weights: AdamW takes each number by itself, and others do not."""
    target = str(OmegaConf.select(cfg, "optimizer._target_"))
    if zero_stage(cfg) is None or target.endswith(".AdamW"):
        return None
    return (
        f"optimizer: DeepSpeed lays weights of many shapes end to end and steps each device's share, which AdamW alone "
        f"can do; found {target.rpartition('.')[2]}, use optimizer=adamw (ZeRO deals its moments over the devices)"
    )


def four_bits_are_not_dealt(cfg: DictConfig) -> str | None:
    """ZeRO-3 cuts weights into shares, which four-bit weights with their scales are not made for."""
    if zero_stage(cfg) != 3 or OmegaConf.select(cfg, "tuner.quantization") is None:
        return None
    return (
        "tuner.quantization: ZeRO-3 deals the numbers of a weight and four-bit weights are packed with scales of "
        "blocks; use strategy=deepspeed_zero2, or tuner=lora"
    )


def ranks_need_whole_gradients(cfg: DictConfig) -> str | None:
    """AdaLoRA changes gradients before the step, by importance over whole matrices."""
    if zero_stage(cfg) is None or str(OmegaConf.select(cfg, "tuner.method")).lower() != "adalora":
        return None
    return "tuner: AdaLoRA changes gradients that DeepSpeed holds in shares; use tuner=lora or strategy=ddp"


def deepspeed_runs_on_gpus(cfg: DictConfig) -> str | None:
    """An accelerator that is named must be a GPU; ``auto`` is looked at when the trainer is made."""
    accelerator = OmegaConf.select(cfg, "trainer.accelerator")
    if zero_stage(cfg) is None or accelerator in (None, "auto", "gpu", "cuda"):
        return None
    return f"trainer.accelerator: {accelerator}, and DeepSpeed needs GPUs; use strategy=ddp, or trainer.accelerator=gpu"


def deepspeed_clips_norms(cfg: DictConfig) -> str | None:
    """DeepSpeed clips by the norm."""
    if zero_stage(cfg) is None or OmegaConf.select(cfg, "trainer.gradient_clip_algorithm") != "value":
        return None
    return "trainer.gradient_clip_algorithm: DeepSpeed clips by the norm alone; use norm"


def teachers_share_no_dealt_weights(cfg: DictConfig) -> str | None:
    """The student as it started shares what stays frozen, which stage 3 deals behind the teacher's back."""
    if zero_stage(cfg) != 3 or not distils(cfg) or cfg.objective.teacher != "self":
        return None
    full = str(OmegaConf.select(cfg, "tuner._target_")).endswith(".FullTuner")
    biases = OmegaConf.select(cfg, "tuner.bias") not in (None, "none")
    if not full and not biases and not OmegaConf.select(cfg, "tuner.full_towers"):
        return None
    return (
        "objective.teacher: self is a copy of what trains in full that shares the rest, which ZeRO-3 deals; name the "
        "folder that the run starts from (whole on each device), or use strategy=deepspeed_zero2 or fsdp"
    )


ZERO_RULES = (
    experts_are_not_dealt,
    deepspeed_steps_by_adamw,
    four_bits_are_not_dealt,
    ranks_need_whole_gradients,
    deepspeed_runs_on_gpus,
    deepspeed_clips_norms,
    teachers_share_no_dealt_weights,
)


def zero_stage(cfg: DictConfig) -> int | None:
    """The stage of ``strategy=deepspeed_*``; None with any other strategy."""
    strategy = OmegaConf.select(cfg, "trainer.strategy")
    if not isinstance(strategy, DictConfig) or not str(strategy.get("_target_")).endswith(".ZeroStrategy"):
        return None
    zero = strategy.get("zero") or {}
    return 3 if str(zero.get("_target_")).endswith(".Zero3") else zero.get("stage")


def distils(cfg: DictConfig) -> bool:
    """Whether the objective asks a teacher."""
    return str(OmegaConf.select(cfg, "objective._target_")).endswith(".GKD")


def is_mixture(model_type: str | None) -> bool:
    """Whether models of a type, by its name in ``config.json``, have experts."""
    return str(model_type).endswith("_moe")


def _model_type(cfg: DictConfig) -> str | None:
    """The type that the settings name, or a local folder's ``config.json``; None: known only once it is fetched."""
    named = OmegaConf.select(cfg, "model.architecture.model_type")
    path = OmegaConf.select(cfg, "model.path")
    if named is not None or not isinstance(path, str):
        return named
    try:
        config: Any = json.loads((Path(path).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the model's own error says what is wrong with the folder
    return config.get("model_type") if isinstance(config, dict) else None
