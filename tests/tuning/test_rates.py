"""Rates within a tower: its own peak, layer decay, and LoRA+'s faster B; the table tells them."""

import pytest
import torch

from qcvl.models.towers import TOWERS
from qcvl.tuning.adapters import base_name
from qcvl.tuning.groups import parameter_groups, tower_table
from qcvl.tuning.settings import FullTuner

LLM = "model.language_model"


def rates(model, tuner, step, multiplier=1.0) -> dict[str, float]:
    """The rate of every trained parameter, by its name in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, tuner, step, multiplier, 0.1)
    assert len({group["name"] for group in groups}) == len(groups)
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_a_tower_with_a_rate_of_its_own_has_it_whichever_way_it_moves(model, make_model, lora, stage):
    step = stage(3, *TOWERS, vit_lr=1e-3, aligner_lr=2e-3, llm_lr=3e-3)
    for tuner, network in ((FullTuner(), model), (lora(full_towers=["aligner"]), make_model())):
        groups = parameter_groups(tuner.setup(network, step.towers), tuner, step, 10.0, 0.1)
        found = {group["tower"]: group["lr"] for group in groups}
        assert found == pytest.approx({"vision": 1e-2, "aligner": 2e-2, "llm": 3e-2})


def test_towers_without_a_rate_of_their_own_keep_that_of_their_way(model, lora, stage):
    step, tuner = stage(2, "llm", "aligner", aligner_lr=7e-3), lora(full_towers=["aligner"])
    groups = parameter_groups(tuner.setup(model, step.towers), tuner, step, 1.0, 0.1)
    assert {group["tower"]: group["lr"] for group in groups} == {"aligner": 7e-3, "llm": 1e-4}


def test_layer_decay_lowers_a_rate_for_each_block_above(model, stage):
    step = stage(3, *TOWERS, layer_decay=0.5)
    found = rates(FullTuner().setup(model, list(TOWERS)), FullTuner(), step)
    expected = {
        f"{LLM}.embed_tokens.weight": 1e-5 / 4,
        f"{LLM}.layers.0.mlp.up_proj.weight": 1e-5 / 2,
        f"{LLM}.layers.1.mlp.up_proj.weight": 1e-5,
        f"{LLM}.norm.weight": 1e-5,
        "model.visual.patch_embed.proj.weight": 1e-5 / 4,
        "model.visual.pos_embed.weight": 1e-5 / 4,
        "model.visual.blocks.0.attn.qkv.bias": 1e-5 / 2,
        "model.visual.blocks.1.attn.qkv.bias": 1e-5,
        "model.visual.merger.linear_fc1.weight": 1e-5,
        "model.visual.deepstack_merger_list.0.linear_fc1.weight": 1e-5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert len(found) == len(list(model.parameters()))


def test_layer_decay_reaches_adapters(model, lora, stage):
    found = rates(lora().setup(model, ["llm"]), lora(), stage(2, "llm", layer_decay=0.9))
    assert {base_name(name).split(".")[3]: rate for name, rate in found.items()} == pytest.approx(
        {"0": 1e-4 * 0.9, "1": 1e-4}
    )


def test_b_learns_faster_than_a_by_the_ratio(model, lora, stage):
    tuner = lora(b_rate_ratio=16.0)
    found = rates(tuner.setup(model, ["llm"]), tuner, stage(2, "llm"))
    by_part = {part: {rate for name, rate in found.items() if f".lora_{part}." in name} for part in "AB"}
    assert by_part == {"A": {1e-4}, "B": {1e-4 * 16.0}}


def test_a_faster_b_moves_as_pefts_own_lora_plus_optimizer(make_model, lora, stage):
    from peft.optimizers import create_loraplus_optimizer

    ids, tuner = torch.tensor([[1, 2, 3]]), lora(b_rate_ratio=8.0)
    ends = []
    for make in ("ours", "theirs"):
        tuned = tuner.setup(make_model(), ["llm"])
        if make == "ours":
            optimizer = torch.optim.AdamW(parameter_groups(tuned, tuner, stage(2, "llm"), 1.0, 0.0))
        else:
            options = {"lr": 1e-4, "loraplus_lr_ratio": 8.0, "loraplus_weight_decay": 0.0, "weight_decay": 0.0}
            optimizer = create_loraplus_optimizer(tuned, torch.optim.AdamW, **options)
        for _ in range(3):
            optimizer.zero_grad()
            tuned(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
        ends.append(torch.cat([p.flatten() for p in tuned.parameters() if p.requires_grad]))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-7)


def test_the_table_says_what_a_tower_moves_at(model, lora, stage):
    tuner = lora(b_rate_ratio=16.0, full_towers=["aligner"])
    step = stage(2, "llm", "aligner", aligner_lr=2e-5, layer_decay=0.5)
    tuned = tuner.setup(model, step.towers)
    _, aligner, llm = tower_table(tuned, parameter_groups(tuned, tuner, step, 100.0, 0.1), tuner, step)
    assert (aligner.rate, llm.rate) == (pytest.approx(2e-3), pytest.approx(1e-2))
    assert aligner.source == "stage=2 full 2e-5 x model.lr_multiplier 100"
    assert llm.source == "stage=2 adapter 1e-4 x model.lr_multiplier 100 x 0.5 to 16"


def test_the_table_names_who_left_a_tower_out(model, lora, stage):
    tuner, step = lora(full_towers=["aligner"], target_modules="^$"), stage(2, "llm", "aligner")
    tuned = tuner.setup(model, step.towers)
    rows = tower_table(tuned, parameter_groups(tuned, tuner, step, 1.0, 0.1), tuner, step)
    assert [row.how for row in rows] == ["frozen", "full", "frozen"]
    assert [row.source for row in rows][::2] == ["stage=2 leaves it out", "tuner=lora leaves it out"]
