import functools
import importlib

import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic.dataclasses import is_pydantic_dataclass

from qcvl import config
from qcvl.composition.targets import is_light
from qcvl.errors import ConfigError

ROOTS = sorted(path.stem for path in config.CONF_DIR.glob("*.yaml"))
CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in config.CONF_DIR.glob("*/*.yaml")
    if path.parent.name not in {"hydra", "paths"}
)


@functools.cache
def given_what_is_missing(root, *overrides):
    """The composed root with every mandatory value given, and which those were."""
    cfg = config.load(root, overrides)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if root == "train":  # data=jsonl leaves both null, which is right for other commands only
        missing += [f"data.{split}" for split in ("train", "val") if not OmegaConf.select(cfg, f"data.{split}")]
    return config.load(root, [*overrides, *(f"{key}=given" for key in missing)]) if missing else cfg, missing


def targets_of(node, path=""):
    """Every ``(path, node)`` with a ``_target_``, references to other nodes left out."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        keys = [
            key for key in node if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key)
        ]
    elif isinstance(node, ListConfig):
        keys = [index for index in range(len(node)) if not OmegaConf.is_interpolation(node, index)]
    else:
        return
    for key in keys:
        yield from targets_of(node[key], f"{path}.{key}".lstrip("."))


def settings_class(target):
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("root", ROOTS)
def test_every_root_composes_and_binds_once_its_mandatory_values_are_given(root):
    cfg, missing = given_what_is_missing(root)
    if root != "convert":  # its format is one of a few names
        config.validate(cfg)
    if missing:
        with pytest.raises(ConfigError) as caught:
            config.validate(config.load(root))
        assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()) == missing


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_composes_and_binds(choice):
    cfg, _ = given_what_is_missing("train", choice)
    assert config.validate(cfg) is None


@pytest.mark.parametrize("choice", CHOICES)
def test_yaml_lists_exactly_the_fields_of_its_settings_class_and_these_have_no_defaults(choice):
    cfg, _ = given_what_is_missing("train", choice)
    checked = 0
    for path, node in targets_of(cfg):
        if not is_light(node["_target_"]):
            continue
        cls = settings_class(node["_target_"])
        assert is_pydantic_dataclass(cls), path
        fields = cls.__pydantic_fields__
        assert set(node) - {"_target_"} == set(fields), path
        assert [name for name, field in fields.items() if not field.is_required()] == [], path
        checked += 1
    assert checked >= 10  # the groups of a training run


def test_several_trackers_are_one_override():
    assert list(config.load("train", ["logger=[csv,tensorboard]"]).logger) == ["csv", "tensorboard"]


def test_a_strategy_is_one_word_and_changes_only_the_trainer():
    plain, ddp = config.load("train"), config.load("train", ["strategy=ddp"])
    assert plain.trainer.strategy == "auto" and plain.trainer.devices == 1
    assert ddp.trainer.strategy._target_.endswith("DDPStrategy") and ddp.trainer.devices == 2
    assert {key for key in plain.trainer if plain.trainer[key] != ddp.trainer[key] and "dir" not in key} == {
        "strategy",
        "devices",
    }
    assert config.load("train", ["strategy=single", "trainer.devices=1"]).trainer.devices == 1


def test_the_recipes_numbers_are_the_published_ones():
    cfg = config.load("train", ["model=qwen3_vl_4b"])
    assert cfg.global_max_length == 4096
    assert (cfg.tuner.rank, cfg.tuner.alpha, cfg.tuner.target_modules) == (32, 64, "all-linear")
    assert (cfg.lr_scheduler.warmup_ratio, cfg.lr_scheduler.min_lr, cfg.optimizer.weight_decay) == (0.1, 1e-6, 0.1)
    assert (cfg.model.min_cells, cfg.model.max_cells) == (16, 576)
    assert (cfg.generation.max_new_tokens, cfg.generation.temperature, cfg.generation.top_p) == (2048, 0.0, 0.9)


@pytest.mark.parametrize("overrides", [["strategy=ddp"], ["strategy=fsdp"], ["logger=[csv,tensorboard]"]])
def test_lightnings_own_objects_are_built_with_the_arguments_of_the_yaml(overrides):
    settings = config.instantiate_settings(config.load("train", overrides))
    trainer = settings.trainer.keywords
    assert settings.callbacks["checkpoint"].save_last is True
    assert trainer["max_epochs"] == settings.stage.epochs
    built = {"strategy=ddp": "DDPStrategy", "strategy=fsdp": "FSDP"}.get(overrides[0], "str")
    assert type(trainer["strategy"]).__name__ == built
    assert list(settings.logger) == (["csv", "tensorboard"] if "logger" in overrides[0] else ["csv"])


def test_wrong_arguments_of_lightning_are_named_like_our_own():
    wrong = ["trainer.max_epoch=3", "trainer.devices=[a]", "callbacks.checkpoint.save_lst=true", "callbacks.mine.x=1"]
    with pytest.raises(ConfigError) as caught:
        config.instantiate_settings(config.load("train", wrong[:3]))
    places = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(places) == ["callbacks.checkpoint.save_lst", "trainer.devices.0", "trainer.max_epoch"]
    with pytest.raises(ConfigError, match="callbacks.mine: unknown setting"):
        config.validate(config.load("train", wrong[3:]))


def test_the_playbook_of_the_aligner_trains_nothing_else_at_its_published_numbers():
    settings = config.instantiate_settings(config.load("train", ["experiment=aligner_playbook"]))
    assert [settings.tuner.way(tower, settings.stage.towers) for tower in ("vision", "aligner", "llm")] == [
        "frozen",
        "full",
        "frozen",
    ]
    assert settings.tuner.target_modules == "^$"
    assert settings.stage.rate("aligner", "full") == 1e-4
    assert (settings.optimizer.weight_decay, settings.lr_scheduler.warmup_ratio) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("experiment", "stage", "visual", "numbers"),
    [
        ("stage2_gkd", 2, False, (0.5, 0.3, 0.5, True)),
        ("stage3_gkd", 3, False, (0.5, 0.3, 0.5, True)),
        ("stage3_gkd_visual", 3, True, (0.5, 0.3, 0.5, True)),
        ("gkd_forward_only", 2, False, (0.1, 1.0, 0.0, False)),
    ],
)
def test_recipes_of_distillation_hold_a_model_to_itself_at_the_published_numbers(experiment, stage, visual, numbers):
    settings = config.instantiate_settings(config.load("train", [f"experiment={experiment}"]))
    goal = settings.objective
    assert (settings.stage.number, settings.tuner.kind, goal.teacher) == (stage, "lora", "self")
    assert (goal.beta, goal.sft_alpha, goal.lmbda, goal.seq_kd) == numbers
    assert (goal.llm_kd_weight, goal.kd_temperature, goal.temperature, goal.max_completion_length) == (1, 1, 0.9, 256)
    shown = {"enabled": visual, "weight": 0.1, "distance": "mse", "targets": ["merger", "deepstack"]}
    assert goal.visual_kd == shown and not goal.eval_kd


def test_a_sweep_over_stages_needs_no_further_words():
    cfg = config.load("train", ["experiment=two_stage"])
    assert (cfg.stage.init_from, cfg.tuner.method) == ("previous", "lora")
