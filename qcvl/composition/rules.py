"""Rules between groups: settings that are each right and wrong together."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qcvl.composition.nodes import asked_devices
from qcvl.composition.processes import in_sweep
from qcvl.composition.zero_rules import ZERO_RULES, distils, zero_stage
from qcvl.data.stream_source import NO_END
from qcvl.errors import ConfigError

_SHARDED = ("deepspeed", "fsdp", "modelparallel")


def muon_needs_whole_matrices(cfg: DictConfig) -> str | None:
    """Muon turns a whole weight matrix at once, of which a sharded strategy holds only a part."""
    if "muon" not in str(OmegaConf.select(cfg, "optimizer._target_")).lower():
        return None
    if not any(sharded in _strategy(cfg) for sharded in _SHARDED):
        return None
    return "optimizer: Muon works on whole matrices and this strategy shards them; use optimizer=adamw or strategy=ddp"


def fsdp_shards_plain_numbers(cfg: DictConfig) -> str | None:
    """FSDP takes parts of plain tensors, by qcvl's own strategy; some methods need each weight's whole tensor."""
    strategy = OmegaConf.select(cfg, "trainer.strategy")
    if isinstance(strategy, str) and "fsdp" in strategy.lower():
        return f"trainer.strategy: {strategy} is Lightning's own, which saves no checkpoint of qcvl; use strategy=fsdp"
    if not isinstance(strategy, DictConfig) or strategy.get("_target_") != "qcvl.modules.fsdp.FSDP":
        return None
    if OmegaConf.select(cfg, "tuner.quantization") is not None:
        return "tuner.quantization: four-bit weights have no parts FSDP could shard; use tuner=lora, or strategy=ddp"
    if OmegaConf.select(cfg, "tuner.method") == "adalora":
        return "tuner: AdaLoRA ranks whole matrices, which strategy=fsdp shards; use tuner=lora, or strategy=ddp"
    if str(OmegaConf.select(cfg, "optimizer._target_")).endswith("AdamW8bit"):
        return "optimizer: moments in eight bits are of whole tensors, which strategy=fsdp shards; use optimizer=adamw"
    return None


def kernels_are_swapped_once(cfg: DictConfig) -> str | None:
    """Both ways to other kernels are held to the plain ones; ZeRO-3 gathers weights by hooks inside of blocks."""
    asked = [name for name in ("compile", "liger") if OmegaConf.select(cfg, f"model.{name}")]
    if len(asked) == 2:
        return "model.liger: torch.compile fuses norms and MLPs by itself; leave out one of model.liger, model.compile"
    if asked == ["compile"] and zero_stage(cfg) == 3:
        return (
            "model.compile: ZeRO-3 gathers each layer's weights inside of what would be compiled; use "
            "strategy=deepspeed_zero2 or fsdp, or model.liger=true"
        )
    return None


def two_kinds_of_weights_need_autocast(cfg: DictConfig) -> str | None:
    """What trains in full is float32; beside weights that stay bfloat16 its products need autocast."""
    if not str(OmegaConf.select(cfg, "trainer.precision")).startswith("32"):
        return None
    if OmegaConf.select(cfg, "model.dtype") != "bfloat16":
        return None
    towers = OmegaConf.select(cfg, "stage.towers") or []
    adapters = OmegaConf.select(cfg, "tuner.method") is not None
    full = [tower for tower in towers if not adapters or tower in (OmegaConf.select(cfg, "tuner.full_towers") or [])]
    if not full:
        return None
    return (
        f"trainer.precision: {', '.join(full)} trained in full, which is in float32, does not go with the bfloat16 of "
        "model.dtype; use trainer.precision=bf16-mixed, or model.dtype=float32"
    )


def weights_come_from_one_place(cfg: DictConfig) -> str | None:
    """``latest`` needs a lower stage; ``init_from``, ``resume`` and ``replay`` may not say two things."""
    init_from, resume = OmegaConf.select(cfg, "stage.init_from"), OmegaConf.select(cfg, "resume")
    if resume is not None and OmegaConf.select(cfg, "replay") is not None:
        return "replay: makes one step again and trains nothing; leave out resume"
    if init_from == "latest" and OmegaConf.select(cfg, "stage.number") == 1:
        return "stage.init_from: latest takes the weights of a lower stage and 1 is the lowest; use a path or null"
    if resume not in (None, "auto") and init_from is not None and init_from == resume:
        return "stage.init_from: names the checkpoint that resume= continues already; leave one of them out"
    return None


def sweeps_run_on_one_device(cfg: DictConfig) -> str | None:
    """Jobs side by side on one machine each take its first devices: with several of them a job they are all shared.

    Jobs one after another may take all there are: each is a process of its own, whose ranks start that job alone.
    """
    if not in_sweep():
        return None
    from hydra.core.hydra_config import HydraConfig

    launcher = HydraConfig.get().launcher
    name = str(launcher.get("_target_"))
    side_by_side = name.endswith(".LocalLauncher") or ("joblib" in name and launcher.get("n_jobs", 1) != 1)
    setting, devices = asked_devices(cfg)
    if not side_by_side or _count(devices) * (OmegaConf.select(cfg, "trainer.num_nodes") or 1) <= 1:
        return None
    return (
        f"{setting}: {devices} devices in each job of a sweep whose jobs run side by side, all on the same ones; "
        f"use {setting}=1, hydra.launcher.n_jobs=1 with joblib, or hydra/launcher=basic (one after another)"
    )


def search_follows_the_monitor(cfg: DictConfig) -> str | None:
    """Optuna gets the final monitored value: it must look for the end of the scale that checkpoints/best looks for."""
    from hydra.core.hydra_config import HydraConfig

    direction, mode = HydraConfig.get().sweeper.get("direction"), OmegaConf.select(cfg, "callbacks.checkpoint.mode")
    wanted = {"min": "minimize", "max": "maximize"}.get(str(mode))
    found = str(getattr(direction, "name", direction))
    if direction is None or wanted is None or found == wanted:
        return None
    return (
        f"hydra.sweeper.direction: {found}, but of {OmegaConf.select(cfg, 'callbacks.checkpoint.monitor')} the "
        f"{mode}imum is best (callbacks.checkpoint.mode); add hydra.sweeper.direction={wanted}"
    )


def data_are_given(cfg: DictConfig) -> str | None:
    """Training needs both splits and evaluation the second; other commands take what there is."""
    needed = {"Train": ("train", "val"), "Evaluate": ("val",)}.get(str(cfg.get("_target_")).rsplit(".", 1)[-1], ())
    missing = [f"data.{split}" for split in needed if "data" in cfg and cfg.data.get(split) is None]
    if not missing:
        return None
    return f"{', '.join(missing)}: must be given; add {' '.join(f'{name}=/abs/{name[5:]}.jsonl' for name in missing)}"


def streams_have_an_end(cfg: DictConfig) -> str | None:
    """Training on streams ends by steps; groups that training saw are known of sources that were read whole alone."""
    if OmegaConf.select(cfg, "data.shuffle_buffer") is None:
        return None
    trainer = cfg.get("trainer") or {}
    if trainer.get("max_steps") == -1 and not trainer.get("fast_dev_run"):
        return f"trainer.max_steps: {NO_END}"
    if cfg.get("group_by") is not None and OmegaConf.select(cfg, "data.train") is not None:
        return (
            "group_by: which groups training saw is not known of streams; set data.train=null, or data.shuffle_buffer="
            "null to read all of data.train"
        )
    return None


def threshold_is_chosen_on_a_source(cfg: DictConfig) -> str | None:
    """A ``threshold`` that is a text names a source of ``data.val``."""
    threshold, names = OmegaConf.select(cfg, "threshold"), _val_names(cfg)
    if not isinstance(threshold, str) or threshold in names:
        return None
    known = ", ".join(names)
    return f"threshold: {threshold} is not a source of data.val ({known}); name one, or give a score 0..1"


def seen_and_unseen_are_no_sources(cfg: DictConfig) -> str | None:
    """With ``group_by``, ``eval/seen/…`` are the scores of groups that training saw, not those of a source."""
    clash = [name for name in _val_names(cfg) if name in ("seen", "unseen")]
    if OmegaConf.select(cfg, "group_by") is None or not clash:
        return None
    return f"data.val.{clash[0]}: group_by scores groups apart under this name; give the source another one"


def shifted_templates_are_fused(cfg: DictConfig) -> str | None:
    """``pair_shift`` moves the second channel, which is a template in fused pairs alone."""
    ops, order = OmegaConf.select(cfg, "augment.ops") or {}, OmegaConf.select(cfg, "augment.order") or []
    shifts = [name for name in order if name in ops and str(ops[name].get("_target_")).endswith(".PairShift")]
    pair = OmegaConf.select(cfg, "data.pair")
    if not shifts or pair == "fused":
        return None
    return f"augment.order: {shifts[0]} moves the template of fused pairs and data.pair is {pair}; leave it out"


def a_probe_starts_from_a_budget(cfg: DictConfig) -> str | None:
    """``batch_probe`` looks for the largest ``data.token_budget`` from a first guess on."""
    if not OmegaConf.select(cfg, "batch_probe") or OmegaConf.select(cfg, "data.token_budget") is not None:
        return None
    return (
        "batch_probe: looks for the largest data.token_budget, now null; start it from a guess: data.token_budget=8192"
    )


def ranks_that_share_rows_make_whole_groups(cfg: DictConfig) -> str | None:
    """``sp_degree`` neighbouring ranks hold each row together: every rank belongs to such a group."""
    degree = OmegaConf.select(cfg, "sp_degree") or 1
    if degree == 1:
        return None
    devices = OmegaConf.select(cfg, "trainer.devices")
    ranks = _count(devices) * (OmegaConf.select(cfg, "trainer.num_nodes") or 1)
    if devices not in ("auto", -1, "-1") and ranks % degree:
        return (
            f"sp_degree: groups of {degree} ranks do not divide the {ranks} of this run; set trainer.devices (times "
            "trainer.num_nodes) to a multiple of sp_degree"
        )
    return None


def answers_are_drawn_and_kept_for_whole_rows(cfg: DictConfig) -> str | None:
    """Ranks that hold parts of a row would have to draw answers together, and a teacher's words are kept by sample."""
    if not distils(cfg) or (OmegaConf.select(cfg, "sp_degree") or 1) == 1:
        return None
    wanted = ("lmbda", "seq_kd", "teacher_cache")
    asked = [name for name in wanted if OmegaConf.select(cfg, f"objective.{name}")]
    if not asked:
        return None
    return (
        f"sp_degree: ranks that hold rows together neither draw answers nor keep a teacher's (objective."
        f"{', objective.'.join(asked)}); use objective=gkd_forward_only without a cache, or sp_degree=1"
    )


def packs_are_of_conversations(cfg: DictConfig) -> str | None:
    """A ``packing_length`` counts tokens of a model, in the one format that has packs."""
    to = cfg.get("to")
    if cfg.get("packing_length") is None:
        return None
    if to != "qwen_conversations":
        return f"packing_length: {to} has no packs; use to=qwen_conversations, or leave it null"
    if cfg.get("model") is None:
        return "packing_length: tokens are those of a model; add model=qwen3_vl_4b (or model.path=FOLDER)"
    return None


RULES: tuple[Callable[[DictConfig], str | None], ...] = (
    data_are_given,
    muon_needs_whole_matrices,
    fsdp_shards_plain_numbers,
    kernels_are_swapped_once,
    two_kinds_of_weights_need_autocast,
    weights_come_from_one_place,
    sweeps_run_on_one_device,
    streams_have_an_end,
    threshold_is_chosen_on_a_source,
    seen_and_unseen_are_no_sources,
    shifted_templates_are_fused,
    a_probe_starts_from_a_budget,
    ranks_that_share_rows_make_whole_groups,
    answers_are_drawn_and_kept_for_whole_rows,
    packs_are_of_conversations,
    *ZERO_RULES,
)


def check_compatible(cfg: DictConfig) -> None:
    """Raise one ConfigError naming every broken rule between groups."""
    broken = [problem for rule in RULES if (problem := rule(cfg)) is not None]
    if broken:
        raise ConfigError("\n".join(broken))


def _val_names(cfg: DictConfig) -> list[str]:
    """Names of the validation sources; a bare path is called ``val``."""
    val = OmegaConf.select(cfg, "data.val")
    return [str(name) for name in val] if OmegaConf.is_dict(val) else ["val"]


def _strategy(cfg: DictConfig) -> str:
    """The strategy's name or dotted path, in lower case."""
    strategy = OmegaConf.select(cfg, "trainer.strategy")
    return str(strategy.get("_target_", "") if isinstance(strategy, DictConfig) else strategy).lower()


def _count(devices: Any) -> int:
    """Number of devices as far as the configuration tells it; ``auto`` and -1 count as one on a CPU."""
    if isinstance(devices, int):
        return max(devices, 1)
    if isinstance(devices, str):
        return int(devices) if devices.isdigit() else len(devices.split(",")) if "," in devices else 1
    return len(devices) if isinstance(devices, list | tuple) or OmegaConf.is_list(devices) else 1
