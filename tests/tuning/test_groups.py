"""Parameter groups cover what is trained, once, at the rates the stage gives; the table tells the same."""

import pytest
import torch
from torch import nn

from qcvl.errors import ConfigError
from qcvl.models.towers import TOWERS, tower_of
from qcvl.tuning.adapters import AdapterModules
from qcvl.tuning.descent.settings import AdamW, CosineWarmupWithMinLr
from qcvl.tuning.groups import module_groups, parameter_groups, tower_table
from qcvl.tuning.settings import FullTuner

MULTIPLIER, DECAY = 100.0, 0.1


@pytest.fixture(params=["full", "lora", "lora_aligner_full"])
def tuner(request, lora):
    """Each tuner that ships."""
    return {"full": FullTuner(), "lora": lora(), "lora_aligner_full": lora(full_towers=["aligner"])}[request.param]


def test_every_trainable_parameter_is_in_exactly_one_group(model, tuner, stage):
    tuned = tuner.setup(model, ["llm", "aligner"])
    groups = parameter_groups(tuned, tuner, stage(2, "llm", "aligner"), MULTIPLIER, DECAY)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in tuned.parameters() if parameter.requires_grad)
    assert len({group["name"] for group in groups}) == len(groups)


def test_one_dimensional_parameters_do_not_decay_and_all_others_do(model, tuner, stage):
    tuned = tuner.setup(model, list(TOWERS))
    for group in parameter_groups(tuned, tuner, stage(3, *TOWERS), MULTIPLIER, DECAY):
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["decay"]}
        assert group["weight_decay"] == (DECAY if group["decay"] else 0.0)


def test_a_group_has_the_rate_of_its_way_times_the_multiplier(model, lora, stage):
    tuner = lora(full_towers=["aligner"])
    groups = parameter_groups(tuner.setup(model, list(TOWERS)), tuner, stage(3, *TOWERS), MULTIPLIER, DECAY)
    assert {(group["tower"], group["way"], group["lr"]) for group in groups} == {
        ("vision", "adapter", 1e-4 * MULTIPLIER),
        ("llm", "adapter", 1e-4 * MULTIPLIER),
        ("aligner", "full", 1e-5 * MULTIPLIER),
    }


def test_muons_share_is_the_linear_weights_inside_blocks(model, stage):
    linears = {id(m.weight) for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"}
    FullTuner().setup(model, list(TOWERS))
    groups = parameter_groups(model, FullTuner(), stage(3, *TOWERS), MULTIPLIER, DECAY)
    assert {id(p) for group in groups if group["matrix"] for p in group["params"]} == linears


def test_adapters_are_never_muons(model, lora, stage):
    tuned = lora().setup(model, list(TOWERS))
    assert not any(group["matrix"] for group in parameter_groups(tuned, lora(), stage(3, *TOWERS), 1.0, DECAY))


def test_kept_adapters_of_a_tower_outside_the_stage_are_in_no_group(model, lora, stage):
    extra = AdapterModules(targets=frozenset({"model.visual.merger.linear_fc1"}))
    tuned = lora().setup(model, ["llm"], extra_modules=extra)
    assert {group["tower"] for group in parameter_groups(tuned, lora(), stage(2, "llm"), 1.0, DECAY)} == {"llm"}


@pytest.mark.parametrize("towers", [["llm", "aligner"], ["vision"]])
def test_a_model_set_up_for_other_towers_than_the_stage_is_an_error(model, stage, towers):
    FullTuner().setup(model, ["llm"])
    with pytest.raises(ConfigError, match="tuner.setup"):
        parameter_groups(model, FullTuner(), stage(2, *towers), 1.0, DECAY)


def test_a_head_beside_the_model_gets_adamw_groups_of_its_own():
    groups = module_groups(nn.Linear(4, 3), "grounding", lr=0.5, weight_decay=DECAY)
    assert [(g["name"], g["lr"], g["weight_decay"], g["matrix"]) for g in groups] == [
        ("grounding/full/decay", 0.5, DECAY, False),
        ("grounding/full/no_decay", 0.5, 0.0, False),
    ]


def test_the_table_counts_weights_once_and_spells_the_product(model, lora, stage):
    weights = {tower: sum(p.numel() for n, p in model.named_parameters() if tower_of(n) == tower) for tower in TOWERS}
    tuner, step = lora(full_towers=["aligner"]), stage(2, "llm", "aligner")
    tuned = tuner.setup(model, step.towers)
    trained = {
        tower: sum(p.numel() for n, p in tuned.named_parameters() if tower_of(n) == tower and p.requires_grad)
        for tower in TOWERS
    }
    rows = tower_table(tuned, parameter_groups(tuned, tuner, step, MULTIPLIER, DECAY), tuner, step)
    assert [row.tower for row in rows] == list(TOWERS)
    assert {row.tower: row.total for row in rows} == weights
    assert {row.tower: row.trained for row in rows} == trained
    assert trained["aligner"] == weights["aligner"]
    vision, aligner, llm = rows
    assert (vision.how, vision.rate, vision.source) == ("frozen", None, "stage=2 leaves it out")
    assert (aligner.how, aligner.rate) == ("full", pytest.approx(1e-3))
    assert aligner.source == "stage=2 full 1e-5 x model.lr_multiplier 100"
    assert llm.source == "stage=2 adapter 1e-4 x model.lr_multiplier 100"


def test_the_table_shows_the_peak_rate_after_a_scheduler_took_over(model, stage):
    FullTuner().setup(model, ["llm"])
    groups = parameter_groups(model, FullTuner(), stage(2, "llm"), 1.0, DECAY)
    optimizer = AdamW(betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY, fused=False).setup(groups)
    CosineWarmupWithMinLr(warmup_ratio=0.5, warmup_steps=None, min_lr=0.0).setup(optimizer, total_steps=100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5 / 50)
    assert tower_table(model, optimizer.param_groups, FullTuner(), stage(2, "llm"))[2].rate == 1e-5


def test_fused_adamw_steps_over_the_groups(model, lora, stage):
    tuned = lora().setup(model, ["llm"])
    optimizer = AdamW(betas=(0.9, 0.95), eps=1e-8, weight_decay=DECAY, fused=True).setup(
        parameter_groups(tuned, lora(), stage(2, "llm"), 1.0, DECAY)
    )
    before = {name: parameter.clone() for name, parameter in tuned.named_parameters()}
    tuned(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in tuned.named_parameters() if not torch.equal(parameter, before[name])}
    # B starts at zero, so A has no gradient yet and moves by weight decay alone.
    assert moved == {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
