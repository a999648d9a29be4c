"""What each tuner lets move, and how."""

from itertools import combinations

import pytest
import torch
from torch import nn

from qcvl.errors import CheckpointError, ConfigError
from qcvl.models.towers import TOWERS, tower_of
from qcvl.tuning.adapters import AdapterModules, base_name
from qcvl.tuning.settings import FullTuner

STAGES = [list(towers) for count in (1, 2, 3) for towers in combinations(TOWERS, count)]
ALIGNER_LINEARS = {
    f"model.visual.{part}.linear_fc{n}"
    for part in ("merger", "deepstack_merger_list.0", "deepstack_merger_list.1")
    for n in (1, 2)
}


def linears(model: nn.Module, towers: list[str]) -> set[str]:
    found = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name for name in found - {"lm_head"} if tower_of(name) in towers}


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def adapted(model: nn.Module, active: bool = True) -> set[str]:
    marked = {n: p for n, p in model.named_parameters() if ".lora_A." in n and p.requires_grad == active}
    return {base_name(name).split(".lora_A.")[0] for name in marked}


@pytest.mark.parametrize("towers", STAGES, ids="+".join)
def test_full_trains_every_weight_of_the_stage_towers_and_no_other(model, towers):
    tuned = FullTuner().setup(model, towers)
    assert set(trainable(tuned)) == {name for name, _ in model.named_parameters() if tower_of(name) in towers}


@pytest.mark.parametrize("towers", STAGES, ids="+".join)
def test_lora_covers_every_linear_of_the_stage_towers_and_no_other(model, lora, towers):
    expected = linears(model, towers)
    tuned = lora().setup(model, towers)
    assert adapted(tuned) == expected
    assert adapted(tuned, active=False) == set()
    assert all(".lora_" in name for name in trainable(tuned))


def test_the_aligner_is_the_merger_and_every_deepstack_merger(model, lora):
    assert adapted(lora().setup(model, ["aligner"])) == ALIGNER_LINEARS


@pytest.mark.parametrize("tuner", ["full", "lora", "lora_aligner_full"])
def test_trained_tensors_are_float32_and_frozen_ones_keep_the_dtype_of_the_base(make_model, lora, tuner):
    tuners = {"full": FullTuner(), "lora": lora(), "lora_aligner_full": lora(full_towers=["aligner"])}
    tuned = tuners[tuner].setup(make_model(dtype=torch.bfloat16), ["llm", "aligner"])
    assert {parameter.dtype for parameter in trainable(tuned).values()} == {torch.float32}
    assert {p.dtype for p in tuned.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_a_full_aligner_beside_lora_trains_whole_modules_one_by_one(model, lora):
    llm_linears = linears(model, ["llm"])
    aligner = {name for name, _ in model.named_parameters() if tower_of(name) == "aligner"}
    tuned = lora(full_towers=["aligner"]).setup(model, ["llm", "aligner"])
    copies = {base_name(name) for name in trainable(tuned) if ".modules_to_save." in name}
    assert copies == aligner
    assert adapted(tuned) == llm_linears
    assert set(tuned.peft_config["default"].modules_to_save) == {
        "model.visual.merger",
        "model.visual.deepstack_merger_list.0",
        "model.visual.deepstack_merger_list.1",
    }


def test_a_stage_of_the_aligner_alone_needs_no_adapter_when_it_trains_in_full(model, lora):
    tuned = lora(full_towers=["aligner"]).setup(model, ["aligner"])
    assert trainable(tuned)
    assert all(".modules_to_save." in name for name in trainable(tuned))


def test_ways_follow_the_stage_first_and_the_tuner_second(lora):
    mixed = lora(full_towers=["aligner"])
    assert [mixed.way(tower, ["llm", "aligner"]) for tower in TOWERS] == ["frozen", "full", "adapter"]
    assert [mixed.way(tower, ["llm"]) for tower in TOWERS] == ["frozen", "frozen", "adapter"]
    assert [FullTuner().way(tower, ["vision"]) for tower in TOWERS] == ["full", "frozen", "frozen"]
    assert (FullTuner().kind, mixed.kind) == ("full", "lora")


def test_a_list_matches_from_the_end_and_a_regular_expression_the_whole_name(model, lora, make_model):
    by_list = adapted(lora(target_modules=["q_proj", "mlp.up_proj"]).setup(model, ["llm"]))
    by_regex = adapted(lora(target_modules=r".*\.(q_proj|up_proj)").setup(make_model(), ["llm"]))
    parts = ("self_attn.q_proj", "mlp.up_proj")
    assert by_list == by_regex == {f"model.language_model.layers.{i}.{part}" for i in (0, 1) for part in parts}


def test_a_target_list_never_reaches_into_a_tower_outside_the_stage(model, lora):
    assert adapted(lora(target_modules=["linear_fc1"]).setup(model, ["aligner"])) == {
        name for name in ALIGNER_LINEARS if name.endswith("fc1")
    }


def test_a_target_that_matches_nothing_is_an_error_with_near_names(model, lora):
    with pytest.raises(ConfigError, match=r"q_porj.*near: .*q_proj"):
        lora(target_modules=["q_porj"]).setup(model, ["llm"])


def test_one_mistyped_entry_among_good_ones_is_an_error(model, lora):
    with pytest.raises(ConfigError, match=r"entry 'gate_prj' matches nothing.*near: .*gate_proj"):
        lora(target_modules=["q_proj", "gate_prj"]).setup(model, ["llm"])


def test_a_stage_tower_that_gets_no_adapter_is_an_error(model, lora):
    with pytest.raises(ConfigError, match="matches no linear of tower aligner"):
        lora(target_modules=["q_proj"]).setup(model, ["llm", "aligner"])


@pytest.mark.parametrize("target", [["q_proj", "lm_head"], "lm_head"])
def test_an_adapter_on_lm_head_is_refused(model, lora, target):
    with pytest.raises(ConfigError, match="lm_head cannot carry an adapter"):
        lora(target_modules=target).setup(model, ["llm"])


def test_rank_alpha_and_dropout_reach_the_method_under_its_own_names(model, lora, make_model):
    config = lora(rank=3, alpha=7, dropout=0.25).setup(model, ["llm"]).peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (3, 7, 0.25)
    loha = lora(method="loha", rank=3, alpha=7, dropout=0.25).setup(make_model(), ["llm"]).peft_config["default"]
    assert (loha.r, loha.alpha, loha.module_dropout, loha.rank_dropout) == (3, 7, 0.25, 0.0)


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_other_peft_methods_train_the_same_towers(model, lora, method):
    tuned = lora(method=method).setup(model, ["llm"])
    assert {tower_of(name) for name in trainable(tuned)} == {"llm"}


def test_options_reach_the_config_of_the_method(model, lora):
    tuned = lora(options={"use_dora": True}).setup(model, ["llm"])
    assert any("lora_magnitude_vector" in name for name in trainable(tuned))


@pytest.mark.parametrize("options", [{"use_dorra": True}, {"r": 8}, {"target_modules": ["q_proj"]}])
def test_an_option_the_method_lacks_or_the_tuner_owns_is_an_error(model, lora, options):
    with pytest.raises(ConfigError, match=f"tuner.options: {next(iter(options))} cannot be set"):
        lora(options=options).setup(model, ["llm"])


def test_an_unknown_method_is_an_error_that_lists_the_known_ones(model, lora):
    with pytest.raises(ConfigError, match=r"tuner.method=lorra: expected one of peft's .*\blora\b"):
        lora(method="lorra").setup(model, ["llm"])


def test_a_setting_the_method_has_no_place_for_is_an_error(model, lora):
    with pytest.raises(ConfigError, match="tuner.rank=4: peft.FourierFTConfig has no such setting"):
        lora(method="fourierft").setup(model, ["llm"])


def test_extra_modules_get_an_adapter_that_stays_frozen(model, lora):
    llm_linears = linears(model, ["llm"])
    extra = AdapterModules(targets=frozenset(ALIGNER_LINEARS))
    tuned = lora().setup(model, ["llm"], extra_modules=extra)
    assert adapted(tuned, active=False) == ALIGNER_LINEARS
    assert adapted(tuned) == llm_linears


def test_a_module_cannot_be_adapted_and_trained_in_full_at_once(model, lora):
    extra = AdapterModules(saved=frozenset({"model.visual.merger"}))
    with pytest.raises(CheckpointError, match=r"merger.* adapter and fully trained at once"):
        lora().setup(model, ["aligner"], extra_modules=extra)


def test_extra_modules_of_another_architecture_are_an_error(model, lora):
    extra = AdapterModules(targets=frozenset({"model.language_model.layers.9.mlp.up_proj"}))
    with pytest.raises(CheckpointError, match=r"does not have, first .*layers\.9"):
        lora().setup(model, ["llm"], extra_modules=extra)


def test_full_training_of_a_model_without_floats_is_an_error():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)

    with pytest.raises(ConfigError, match="no weights that can be trained"):
        FullTuner().setup(Model(), ["llm"])
