import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from qcvl import config
from qcvl.composition.walk import Walk
from qcvl.errors import ConfigError
from tests.conftest import choice

GENERATION = {
    "_target_": "qcvl.inference.settings.Generation",
    "max_new_tokens": 1,
    "temperature": 0.0,
    "top_p": 0.9,
    "batch_size": 1,
}
LORA = {
    "_target_": "qcvl.tuning.settings.PeftTuner",
    "method": "lora",
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "init": "identity",
    "bias": "none",
    "b_rate_ratio": 1.0,
    "rank_schedule": None,
    "quantization": None,
    "target_modules": "all-linear",
    "full_towers": [],
    "options": {},
}


def problems(settings, heavy=False, trusted=()):
    walk = Walk(trusted=trusted, heavy=heavy)
    walk.visit(OmegaConf.create(settings))
    return walk.problems


def built(settings, heavy=False, trusted=()):
    walk = Walk(trusted=trusted, heavy=heavy)
    made = walk.visit(OmegaConf.create(settings))
    assert walk.problems == []
    return made


def without(settings, key):
    return {name: value for name, value in settings.items() if name != key}


def test_right_settings_are_built_from_the_leaves_up():
    made = built({"tuner": LORA, "twice": ["${tuner}", {"again": "${tuner.rank}"}]})
    assert (made["tuner"].rank, made["twice"][1]["again"]) == (8, 8)
    assert made["twice"][0] is made["tuner"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rnak": 8}, "tuner.rnak: unknown setting; did you mean rank?"),
        ({"zzz": 8}, "tuner.zzz: unknown setting; known: alpha, b_rate_ratio, bias, dropout, full_towers, init, "),
        (
            {"rank": "eight"},
            "tuner.rank: should be a valid integer, unable to parse string as an integer, found 'eight'",
        ),
        ({"rank": 2.5}, "tuner.rank: should be a valid integer, got a number with a fractional part, found 2.5"),
        ({"alpha": "???"}, "tuner.alpha: must be given; add tuner.alpha=VALUE"),
        ({"alpha": "${nowhere.x}"}, "tuner.alpha: ${nowhere.x} leads nowhere"),
        (
            {"_target_": "qcvl.tuning.settings.PeftTunre"},
            "tuner._target_: qcvl.tuning.settings has no PeftTunre; did you",
        ),
        (
            {"_target_": "qcvl.tunning.settings.X"},
            "tuner._target_: qcvl.tunning.settings.X cannot be imported: No module",
        ),
    ],
)
def test_one_wrong_setting_is_one_line_that_says_where_what_and_what_to_do(change, problem):
    found = problems({"tuner": {**LORA, **change}})
    assert len(found) == 1 and found[0].startswith(problem)


def test_a_setting_left_out_is_missing_whatever_else_is_wrong():
    found = problems({"tuner": {**without(LORA, "rank"), "alpha": "???", "dropout": 7.0}})
    assert [line.split(":")[0] for line in found] == ["tuner.alpha", "tuner.rank", "tuner.dropout"]
    assert found[1] == "tuner.rank: missing; PeftTuner needs it"


def test_all_problems_of_a_run_come_in_one_error():
    wrong = [
        "tuner.rnak=8",
        "tuner.rank=eight",
        "model.dtype=float3",
        "sede=1",
        "callbacks.checkpont.mode=max",
        "seed=-1",
    ]
    with pytest.raises(ConfigError) as caught:
        config.validate(config.load("train", [*wrong, "augment.ops.rotate.p=x"]))
    places = {line.split(":")[0] for line in str(caught.value).splitlines()}
    assert places >= {"tuner.rnak", "tuner.rank", "model.dtype", "sede", "callbacks.checkpont", "augment.ops.rotate.p"}


def test_the_root_itself_is_checked_like_any_settings():
    with pytest.raises(ConfigError) as caught:
        config.validate(config.load("convert", ["format=deeppcb", "input=a", "output=b", "seed=-1", "croop=3"]))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["seed", "croop"]


def test_missing_values_of_a_root_are_all_named():
    with pytest.raises(ConfigError) as caught:
        config.validate(config.load("convert"))
    assert str(caught.value).splitlines() == [
        f"{k}: must be given; add {k}=VALUE" for k in ("format", "input", "output")
    ]


def test_a_chain_of_settings_that_leads_nowhere_is_reported_once():
    chain = {"a": "${nowhere}", "b": "${a}", "c": {"d": "x/${b}"}}
    assert problems(chain) == ["a: ${nowhere} leads nowhere (Interpolation key 'nowhere' not found)"]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "qcvlx.Thing",
        "torchvision.io.read_image",
        "eval",
        "qcvl..errors",
        3,
        "torch.hub.load; x",
    ],
)
def test_a_foreign_or_malformed_target_is_refused_before_anything_is_imported(target):
    found = problems({"model": {"_target_": target, "command": "touch /tmp/forged"}})
    assert len(found) == 1 and found[0].startswith("model._target_: ")


@pytest.mark.parametrize("target", ["qcvl.data.settings.Path", "qcvl.log.os", "torch.hub.load", "torch.os.system"])
def test_an_allowed_package_is_no_way_to_foreign_objects_or_functions(target):
    (found,) = problems({"model": {"_target_": target}}, heavy=True)
    assert "is not allowed" in found or "cannot be imported" in found


def test_trusted_targets_open_one_package_and_no_other():
    settings = {"a": {"_target_": "fractions.Fraction", "numerator": 1}, "b": {"_target_": "decimal.Decimal"}}
    (found,) = problems(settings, heavy=True, trusted=["fractions"])
    assert found.startswith("b._target_: decimal.Decimal is not allowed")


def test_a_class_that_is_no_settings_class_is_held_to_its_signature():
    settings = {"_target_": "fractions.Fraction", "numeratr": 1}
    (found,) = problems({"a": settings}, heavy=True, trusted=["fractions"])
    assert found.startswith("a.numeratr: unknown setting of Fraction; did you mean numerator?")


def test_a_constructor_that_refuses_is_a_line_and_not_a_traceback():
    settings = {"_target_": "fractions.Fraction", "numerator": "x"}
    (found,) = problems({"a": settings}, heavy=True, trusted=["fractions"])
    assert found == "a: Fraction refuses these settings: Invalid literal for Fraction: 'x'"


def test_a_partial_waits_for_the_rest_of_its_arguments():
    made = built(
        {"_target_": "fractions.Fraction", "_partial_": True, "numerator": 3}, heavy=True, trusted=["fractions"]
    )
    assert made(denominator=6) * 2 == 1


def test_a_rule_over_several_fields_is_reported_with_the_settings_it_belongs_to():
    stage = {"_target_": "qcvl.tuning.settings.TrainingStage", **choice("stage/1.yaml"), "towers": ["llm", "llm"]}
    (found,) = problems({"stage": {**stage, "rates": {"adapter": 1e-4, "full": 1e-5}, "init_from": None}})
    assert found.startswith("stage.towers: names a tower twice")


def test_members_of_a_union_complain_in_one_line():
    (found,) = problems({"tuner": {**LORA, "target_modules": {"a": 1}}})
    assert found.startswith("tuner.target_modules: should be") and " or should be " in found
    (found,) = problems({"tuner": {**LORA, "target_modules": ["q_proj", 1]}})
    assert found == "tuner.target_modules.1: should be a valid string, found 1"


def test_a_key_missing_inside_a_setting_is_named_by_its_whole_path():
    stage = {"_target_": "qcvl.tuning.settings.TrainingStage", **choice("stage/1.yaml")}
    (found,) = problems({"stage": {**stage, "rates": {"adapter": 1e-4}, "init_from": None}})
    assert found.startswith("stage.rates.full: missing")


def test_checking_qcvls_own_settings_imports_nothing_heavy():
    script = (
        "import sys; from qcvl import config; config.validate(config.load('train')); "
        "print(sorted({'torch', 'lightning', 'transformers', 'peft', 'albumentations'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=config.CONF_DIR.parent)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ("[{start: 0%, end: 50%, ramps: {hflip.prob: [0, 1]}}]", r"phases\[0\]\.ramps\.hflip\.prob: .* 'hflip\.p'"),
        ("[{start: 0, end: 50, ramps: {hflip.p: [0, 2]}}]", r"ramps\.hflip\.p: 2\.0: Input should be less than"),
        ("[{start: 0, ramps: {hflip.p: [0, 1]}}]", r"augment\.phases\.0\.end"),
    ],
)
def test_a_wrong_curriculum_is_refused_before_anything_heavy(phases, problem):
    with pytest.raises(ConfigError, match=problem):
        config.validate(config.load("train", ["augment=light", f"augment.phases={phases}"]))


def test_a_curriculum_can_be_typed_on_the_command_line():
    phases = "[{start: 10%, end: 50%, ramps: {hflip.p: [0, 0.5], color_jitter.brightness: [[1, 1], [0.7, 1.3]]}}]"
    cfg = config.load("train", ["augment=light", f"augment.phases={phases}"])
    config.validate(cfg)
    assert cfg.augment.phases[0].ramps["hflip.p"] == [0, 0.5]
