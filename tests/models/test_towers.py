"""Names decide the tower, and every parameter belongs to exactly one."""

import pytest
from peft import LoraConfig, get_peft_model

from qcvl.models.towers import TOWERS, count_parameters, linear_names, tower_modules, tower_of


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "model.base_model.model."])
@pytest.mark.parametrize(
    ("name", "tower"),
    [
        ("model.visual.patch_embed.proj.weight", "vision"),
        ("model.visual.pos_embed.weight", "vision"),
        ("model.visual.blocks.3.attn.qkv.lora_A.default.weight", "vision"),
        ("model.visual.merger.norm.weight", "aligner"),
        ("model.visual.merger.modules_to_save.default.linear_fc1.weight", "aligner"),
        ("model.visual.deepstack_merger_list.2.linear_fc2.bias", "aligner"),
        ("model.visual.merger.mlp.0.weight", "aligner"),
        ("model.language_model.layers.0.self_attn.q_proj.weight", "llm"),
        ("model.language_model.embed_tokens.weight", "llm"),
        ("lm_head.weight", "llm"),
    ],
)
def test_a_name_has_the_same_tower_under_every_wrapper(prefix, name, tower):
    assert tower_of(prefix + name) == tower


def test_tower_modules_hold_every_parameter_once(model):
    owned = {tower: tower_modules(model, tower) for tower in TOWERS}
    ids = [id(p) for modules in owned.values() for module in modules.values() for p in module.parameters()]
    tied = 1  # lm_head and embed_tokens are one tensor in two modules of the llm
    assert len(ids) - tied == len(set(ids)) == len(list(model.parameters()))
    assert list(owned["aligner"]) == ["model.visual.merger", "model.visual.deepstack_merger_list.0"]


def test_linear_names_are_the_places_peft_can_take_and_never_the_head(model):
    assert linear_names(model, "aligner") == [
        f"model.visual.{part}.linear_fc{number}" for part in ("merger", "deepstack_merger_list.0") for number in (1, 2)
    ]
    assert len(linear_names(model, "vision")) == 2 * 4
    assert len(linear_names(model, "llm")) == 2 * 7
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=linear_names(model, "aligner")))
    counts = count_parameters(wrapped)
    adapters = 2 * (2 * (96 + 96) + 2 * (96 + 32))  # r * (in + out) of fc1 and fc2, in two mergers
    assert counts["aligner"].trainable == adapters
    assert counts["vision"].trainable == counts["llm"].trainable == 0


def test_counts_add_up_to_the_models_size_with_tied_embeddings_once(model):
    counts = count_parameters(model)
    assert sum(count.total for count in counts.values()) == sum(p.numel() for p in model.parameters())
    assert all(count.trainable == count.total for count in counts.values())
