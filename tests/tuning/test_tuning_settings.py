"""The shipped YAML of stage, tuner, optimizer and lr_scheduler makes the settings it says, without torch."""

import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pydantic
import pytest
from omegaconf import DictConfig, OmegaConf

from qcvl import config

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("stage", "tuner", "optimizer", "lr_scheduler")
CHOICES = sorted(path for group in GROUPS for path in (CONF / group).glob("*.yaml"))


def build(group: str, choice: str, **changes: object) -> object:
    cfg = compose(f"{group}={choice}")[group]
    values = OmegaConf.to_container(cfg) | changes
    module, _, name = values.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**values)


@functools.cache
def compose(override: str) -> DictConfig:
    return config.load("train", [override])


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_shipped_choice_binds(path):
    assert build(path.parent.name, path.stem)


@pytest.mark.parametrize(
    ("number", "towers", "epochs", "adapter", "full"),
    [
        (1, ["aligner"], 3, 1e-4, 1e-5),
        (2, ["llm", "aligner"], 2, 5e-5, 1e-6),
        (3, ["vision", "aligner", "llm"], 2, 5e-5, 1e-6),
    ],
)
def test_the_three_stages_are_the_recipe(number, towers, epochs, adapter, full):
    stage = build("stage", str(number))
    assert (stage.number, stage.name, stage.towers, stage.epochs) == (number, str(number), towers, epochs)
    assert stage.rates == {"adapter": adapter, "full": full}
    assert stage.init_from is None


def test_the_lora_defaults_are_rank_32_alpha_64_on_all_linears():
    tuner = build("tuner", "lora")
    assert (tuner.method, tuner.rank, tuner.alpha, tuner.target_modules) == ("lora", 32, 64, "all-linear")
    assert build("tuner", "lora_aligner_full").full_towers == ["aligner"]


@pytest.mark.parametrize(
    ("group", "choice", "change", "told"),
    [
        ("stage", "2", {"towers": ["llm", "llm"]}, "names a tower twice"),
        ("stage", "2", {"towers": []}, "at least 1 item"),
        ("stage", "2", {"towers": ["lmm"]}, "'vision', 'aligner' or 'llm'"),
        ("stage", "2", {"rates": {"adapter": 1e-4}}, "full"),
        ("stage", "2", {"epochs": 0}, "greater than 0"),
        ("tuner", "lora", {"full_towers": ["llm"]}, "'aligner'"),
        ("tuner", "lora", {"ranks": 8}, "ranks"),
        ("optimizer", "muon_adamw", {"lr_scale": -1.0}, "greater than 0"),
        ("lr_scheduler", "cosine_warmup_with_min_lr", {"warmup_ratio": 1.5}, "less than 1"),
    ],
)
def test_a_wrong_value_is_refused_when_the_settings_are_made(group, choice, change, told):
    with pytest.raises(pydantic.ValidationError, match=told):
        build(group, choice, **change)


def test_settings_and_grounding_targets_import_without_torch():
    modules = "qcvl.tuning.settings, qcvl.tuning.descent.settings, qcvl.losses.grounding_targets"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, check=False).returncode == 0
