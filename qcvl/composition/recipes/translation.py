"""Another trainer's settings as config groups and settings of qcvl, and what has no counterpart."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qcvl.composition.locations import CONF_DIR
from qcvl.composition.recipes.reading import Settings
from qcvl.models.towers import TOWERS

# Names that ms-swift, LMMS-Engine, qwen-vl-finetune and LLaMA-Factory share (they are transformers' mostly), and ours.
SAME = {
    "adam_epsilon": "optimizer.eps",
    "aligner_lr": "stage.aligner_lr",
    "dataloader_num_workers": "data.num_workers",
    "fps": "data.video.fps",
    "global_max_length": "global_max_length",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "llm_lr": "stage.llm_lr",
    "logging_steps": "trainer.log_every_n_steps",
    "lora_alpha": "tuner.alpha",
    "lora_dropout": "tuner.dropout",
    "lora_r": "tuner.rank",
    "lora_rank": "tuner.rank",
    "max_grad_norm": "trainer.gradient_clip_val",
    "max_length": "global_max_length",
    "max_steps": "trainer.max_steps",
    "min_lr": "lr_scheduler.min_lr",
    "mm_projector_lr": "stage.aligner_lr",
    "model_max_length": "global_max_length",
    "num_train_epochs": "stage.epochs",
    "per_device_eval_batch_size": "data.val_batch_size",
    "per_device_train_batch_size": "data.batch_size",
    "save_total_limit": "callbacks.checkpoint.keep_last",
    "seed": "seed",
    "video_fps": "data.video.fps",
    "video_max_frames": "data.video.max_frames",
    "video_max_pixels": "data.video.max_pixels",
    "video_min_frames": "data.video.min_frames",
    "video_min_pixels": "data.video.min_pixels",
    "vision_tower_lr": "stage.vit_lr",
    "vit_lr": "stage.vit_lr",
    "warmup_ratio": "lr_scheduler.warmup_ratio",
    "warmup_steps": "lr_scheduler.warmup_steps",
    "weight_decay": "optimizer.weight_decay",
}

# What qcvl has nothing to set for, by the beginning of its name, and why.
REASONS = {
    "output_dir": "a run writes into outputs/train/<date>/<time>; add hydra.run.dir=FOLDER to the command",
    "use_rmpad": "always so: samples lie one after another in one row without padding",
    "padding_free": "always so: samples lie one after another in one row without padding",
    "eval_strategy": "every run is scored before, while and after it trains; see trainer.val_check_interval",
    "resume_from_checkpoint": "another tool's checkpoint; merge it into a plain model and give that as model.path, or "
    "train that stage here and add stage.init_from=latest",
    "optimizer": "each tower has the rate of its stage and tuner; see stage.rates",
    "dataset": "give data.train=F.jsonl and data.val=F.jsonl; python -m qcvl.convert makes them",
    "val_dataset": "give data.val=F.jsonl; python -m qcvl.convert makes it",
    "data_": "give data.train=F.jsonl and data.val=F.jsonl; python -m qcvl.convert makes them",
    "nproc_per_node": "add trainer.devices=N strategy=ddp to the command",
    "num_processes": "add trainer.devices=N strategy=ddp to the command",
    "processor_": "tokenizer, template and image processor are those of the model",
    "modules_to_save": "the aligner's weights are trained in full where the stage moves that tower",
    "video_backend": "videos are read by PyAV or decord",
    "video_sampling_strategy": "by data.video.fps, or by data.video.num_frames where that is given",
    "attn_impl": "model.attn=auto takes flash-attn where it is",
}
NOTHING = "no counterpart"
SCHEDULES = {
    "cosine": "cosine_warmup_with_min_lr",
    "cosine_warmup_with_min_lr": "cosine_warmup_with_min_lr",
    "cosine_with_min_lr": "cosine_warmup_with_min_lr",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
TO_ZERO = ("cosine", "linear")  # elsewhere these end at a rate of 0
ADAMW, EIGHT_BIT = ("adamw", "adamw_torch", "adamw_torch_fused"), ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")
OPTIMIZERS = dict.fromkeys(ADAMW, "adamw") | dict.fromkeys(EIGHT_BIT, "adamw_8bit")
SILENT = ("type", "trainer_type", "enabled", "name", "train_type", "tuner_type", "lora_enable", "trainer_variant")

OPS = {  # ops of ms-swift's augmentation list: our name, and the names of parameters that differ
    "hflip": ("hflip", {"prob": "p"}),
    "vflip": ("vflip", {"prob": "p"}),
    "rotate": ("rotate", {"prob": "p", "max_deg": "max_rotation_degrees"}),
    "color_jitter": ("color_jitter", {"prob": "p"}),
    "gamma": ("gamma", {"prob": "p"}),
    "pad_to_multiple": ("pad_to_multiple", {}),
}
_DISTILLED = ("beta", "lmbda", "max_completion_length", "seq_kd", "sft_alpha", "temperature")  # as in our objective=gkd
_SIZE = re.compile(r"Qwen(2\.5|2|3)-VL-(\d+B(?:-A\d+B)?)", re.IGNORECASE)
_FREEZE = {"freeze_vit": "vision", "freeze_aligner": "aligner", "freeze_llm": "llm"}
_TUNE = {"tune_mm_vision": "vision", "tune_mm_mlp": "aligner", "tune_mm_llm": "llm"}
_WHOLE_MODELS = ("load_from_pretrained_path",)  # LMMS-Engine trains every tower unless told otherwise


@dataclass
class Recipe:
    """Choices of config groups, settings by their dotted names, and ``(name, value, why)`` of what is left over."""

    groups: dict[str, str | list[str]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    left: list[tuple[str, Any, str]] = field(default_factory=list)


def translate(given: Settings) -> Recipe:
    """The recipe that trains as ``given`` says, as far as qcvl can; every name is used, or listed in ``left``."""
    rest, recipe = dict(given), Recipe(groups={"data": "jsonl"})
    parts = (_model, _towers, _rates, _optimizer, _schedule, _precision, _logger, _saving, _augmentation, _distillation)
    for part in parts:
        part(rest, recipe)
    if rest.pop("filter_overlong", False):
        recipe.settings["data.overlong"] = "drop"
    if rest.get("video_backend") in ("pyav", "decord"):
        recipe.settings["data.video.backend"] = rest.pop("video_backend")
    for name in [name for name in rest if name in SAME]:
        value = rest.pop(name)
        if value is not None:  # their word for the default
            recipe.settings[SAME[name]] = value
    for name, value in rest.items():
        why = next((why for start, why in REASONS.items() if name.startswith(start)), NOTHING)
        if name not in SILENT and not (value is False and why == NOTHING):  # a thing that is off needs no counterpart
            recipe.left.append((name, value, why))
    return recipe


def _model(rest: Settings, recipe: Recipe) -> None:
    """The checkpoint, the group of its size, and its pixel budget in merged cells."""
    name, path = _take(rest, ("model", "model_name_or_path", "load_from_pretrained_path"), keep=_WHOLE_MODELS)
    budgets = {key: rest.pop(key) for key in ("max_pixels", "min_pixels") if key in rest}
    found = _SIZE.search(str(path or ""))
    choice = f"qwen{found[1].replace('.', '_')}_vl_{found[2].replace('-', '_')}".lower() if found else None
    if path is None:
        recipe.left.append(("model", None, "not in the file; add model=CHOICE model.path=FOLDER to the command"))
    elif choice is None or not (CONF_DIR / "model" / f"{choice}.yaml").is_file():
        recipe.settings["model.path"] = None  # the run asks for it, in place of training another model
        known = ", ".join(sorted(file.stem for file in (CONF_DIR / "model").glob("qwen*.yaml")))
        recipe.left.append((name, path, f"add model=CHOICE (of {known}) and model.path={path} to the command"))
        choice = None
    else:
        recipe.groups["model"], recipe.settings["model.path"] = choice, path
    side = 32 if choice is None or choice.startswith("qwen3") else 28
    for key, value in budgets.items():
        recipe.settings[f"model.{key.replace('pixels', 'cells')}"] = max(int(value) // side**2, 1)


def _towers(rest: Settings, recipe: Recipe) -> None:
    """Stage (which towers move) and tuner (how)."""
    told = [key for key in rest if key in {*_FREEZE, *_TUNE, "train_type", "lora_enable", "freeze_modules"}]
    whole = any(rest.pop(key, None) for key in _WHOLE_MODELS)
    if not told and not whole:
        return
    lora = str(rest.get("train_type", "full")).lower() == "lora" or bool(rest.get("lora_enable"))
    moving, aligner_alone = set(TOWERS), False
    if "train_type" in rest:  # ms-swift's own defaults
        moving -= {"vision"} if rest.get("freeze_vit", True) else set()
    moving -= {tower for key, tower in _FREEZE.items() if rest.pop(key, False)}
    moving -= {tower for key, tower in _TUNE.items() if key in rest and not rest.pop(key)}
    if rest.get("freeze_modules") == ["visual"]:  # transformers' name of vision and aligner together
        del rest["freeze_modules"]
        moving -= {"vision", "aligner"}
    saved = [str(name) for name in rest.get("modules_to_save", [])]
    if not moving and saved and all("merger" in name for name in saved):  # the aligner beside an adapter of nothing
        del rest["modules_to_save"]
        rest.pop("target_regex", None)
        moving, aligner_alone = {"aligner"}, True
    towers = [tower for tower in TOWERS if tower in moving]
    stages = {("aligner",): "1", ("aligner", "llm"): "2", tuple(TOWERS): "3"}
    recipe.groups["stage"] = stages.get(tuple(towers), "2")
    if tuple(towers) not in stages:
        recipe.settings["stage.towers"] = towers
    recipe.groups["tuner"] = "aligner" if aligner_alone else _adapter(rest) if lora else "full"
    _targets(rest, recipe)


def _adapter(rest: Settings) -> str:
    """The tuner that adapts as the file says."""
    chosen = [name for name in ("dora", "rslora") if rest.pop(f"use_{name}", False)]
    if rest.pop("load_in_4bit", False) or rest.get("quant_bits") == 4:
        rest.pop("quant_bits", None)
        chosen.insert(0, "qlora")
    return chosen[0] if chosen else "lora"


def _targets(rest: Settings, recipe: Recipe) -> None:
    """Which linears carry adapters, and how fast their parts learn."""
    if recipe.groups["tuner"] in ("full", "aligner"):
        return
    for name in ("lorap_lr_ratio", "loraplus_lr_ratio"):
        ratio = rest.pop(name, None)
        if ratio is not None:
            recipe.settings["tuner.b_rate_ratio"] = ratio
    targets, pattern = rest.pop("target_modules", None), rest.pop("target_regex", None)
    if pattern is not None:
        recipe.settings["tuner.target_modules"] = pattern
    elif targets is not None and targets not in ("all-linear", ["all-linear"]):
        recipe.settings["tuner.target_modules"] = targets


def _rates(rest: Settings, recipe: Recipe) -> None:
    """The stage's rate of adapters or of full weights."""
    way = "full" if recipe.groups.get("tuner") in ("full", "aligner") else "adapter"
    if "learning_rate" in rest:
        recipe.settings[f"stage.rates.{way}"] = rest.pop("learning_rate")
    betas = [rest.pop(name, None) for name in ("adam_beta1", "adam_beta2")]
    if None not in betas:
        recipe.settings["optimizer.betas"] = betas


def _optimizer(rest: Settings, recipe: Recipe) -> None:
    if rest.get("optim") in OPTIMIZERS:
        recipe.groups["optimizer"] = OPTIMIZERS[rest.pop("optim")]


def _schedule(rest: Settings, recipe: Recipe) -> None:
    kind = rest.get("lr_scheduler_type")
    if kind in SCHEDULES:
        del rest["lr_scheduler_type"]
        recipe.groups["lr_scheduler"] = SCHEDULES[kind]
        if kind in TO_ZERO:
            recipe.settings["lr_scheduler.min_lr"] = 0.0
        if kind == "constant":  # at once, elsewhere
            recipe.settings["lr_scheduler.warmup_steps"] = 0
        elif kind == "constant_with_warmup" and "warmup_ratio" in rest:
            recipe.settings["lr_scheduler.warmup_steps"] = None


def _precision(rest: Settings, recipe: Recipe) -> None:
    dtype = str(rest.pop("torch_dtype", "")).removeprefix("torch.")
    if rest.pop("bf16", False) or dtype == "bfloat16":
        recipe.settings["trainer.precision"] = "bf16-mixed"
    elif rest.pop("fp16", False) or dtype == "float16":
        recipe.settings["trainer.precision"] = "16-mixed"


def _logger(rest: Settings, recipe: Recipe) -> None:
    reported = rest.pop("report_to", None)
    trackers = [reported] if isinstance(reported, str) else reported or []
    chosen = [name for name in trackers if name in ("wandb", "tensorboard")]
    if chosen:
        recipe.groups["logger"] = chosen[0] if len(chosen) == 1 else chosen
    if other := [name for name in trackers if name not in (*chosen, "none")]:
        recipe.left.append(("report_to", other, NOTHING))
    if "wandb" in chosen and "run_name" in rest:
        recipe.settings["logger.wandb.name"] = rest.pop("run_name")


def _saving(rest: Settings, recipe: Recipe) -> None:
    if "save_steps" in rest:
        recipe.settings["callbacks.checkpoint.every_n_train_steps"] = rest.pop("save_steps")
        recipe.settings["callbacks.checkpoint.every_n_epochs"] = None
    if "eval_steps" in rest:  # Lightning counts batches, the others optimizer steps
        batches = int(rest.pop("eval_steps")) * int(rest.get("gradient_accumulation_steps", 1))
        recipe.settings |= {"trainer.val_check_interval": batches, "trainer.check_val_every_n_epoch": None}


def _augmentation(rest: Settings, recipe: Recipe) -> None:
    """A list of ops as the order and the numbers of ``augment.ops``."""
    ops = rest.pop("ops", None)
    if not isinstance(ops, list) or rest.get("enabled") is False:
        return
    recipe.groups["augment"] = "none"
    order: list[str] = []
    for op in ops:
        name, params = str(op.get("name")), dict(op.get("params") or {})
        if name not in OPS:
            recipe.left.append((f"augmentation {name}", params, NOTHING))
            continue
        own, names = OPS[name]
        order.append(own)
        for key, value in params.items():
            recipe.settings[f"augment.ops.{own}.{names.get(key, key)}"] = value
    recipe.settings["augment.order"] = order


def _distillation(rest: Settings, recipe: Recipe) -> None:
    """Distillation; a teacher that is the model itself needs no second copy."""
    if rest.get("rlhf_type") != "gkd":
        return
    del rest["rlhf_type"]
    recipe.groups["objective"] = "gkd"
    teacher = rest.pop("teacher_model", None)
    if teacher is not None:
        recipe.settings["objective.teacher"] = "self" if teacher == recipe.settings.get("model.path") else teacher
    recipe.settings |= {f"objective.{name}": rest.pop(name) for name in _DISTILLED if name in rest}


def _take(rest: Settings, names: Iterable[str], keep: Iterable[str]) -> tuple[str, Any]:
    """The first of ``names`` that is there and its value; it is taken out unless it is to be kept."""
    for name in names:
        if name in rest:
            return name, rest[name] if name in keep else rest.pop(name)
    return "", None
