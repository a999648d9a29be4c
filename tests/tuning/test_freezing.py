"""What a stage holds back inside the towers it moves."""

import pytest
import torch

from qcvl.errors import ConfigError
from qcvl.models.towers import tower_of
from qcvl.tuning.adapters import base_name
from qcvl.tuning.freezing import held_modules, is_under
from qcvl.tuning.settings import FullTuner

LAYER = "model.language_model.layers"


def moving(model) -> set[str]:
    return {base_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad}


def setup(model, tuner, step):
    return tuner.setup(model, step.towers, held=held_modules(model, step))


@pytest.mark.parametrize(("tower", "last"), [("llm", f"{LAYER}.1."), ("vision", "model.visual.blocks.1.")])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_only_the_last_block_moves(model, lora, stage, tower, last, kind):
    blocks = {"vision": None, "llm": None} | {tower: 1}
    expected = {name for name, _ in model.named_parameters() if name.startswith(last)}
    tuned = setup(model, FullTuner() if kind == "full" else lora(), stage(2, tower, last_blocks=blocks))
    if kind == "full":
        assert moving(tuned) == expected
    else:
        linears = {name.removesuffix(".weight") for name in expected if name.endswith(".weight") and "norm" not in name}
        assert {name.split(".lora_")[0] for name in moving(tuned)} == linears


def test_all_of_a_towers_blocks_are_still_less_than_the_tower(model, stage):
    tuned = setup(model, FullTuner(), stage(2, "llm", last_blocks={"vision": None, "llm": 2}))
    assert moving(tuned) == {name for name, _ in model.named_parameters() if name.startswith(f"{LAYER}.")}


def test_blocks_of_a_tower_outside_the_stage_are_not_looked_at(model, stage):
    assert held_modules(model, stage(2, "llm", last_blocks={"vision": 9, "llm": None})) == frozenset()


def test_more_blocks_than_there_are_is_an_error(model, stage):
    with pytest.raises(ConfigError, match=r"stage.last_blocks.llm=3: the tower has 2"):
        held_modules(model, stage(2, "llm", last_blocks={"vision": None, "llm": 3}))


def test_a_frozen_path_stays_while_the_rest_of_its_tower_moves(model, stage):
    step = stage(
        3, "vision", "llm", freeze_modules=["embed_tokens", "visual.patch_embed", "layers.0.mlp.up_proj.weight"]
    )
    kept = {"model.language_model.embed_tokens.weight", f"{LAYER}.0.mlp.up_proj.weight"}
    kept |= {name for name, _ in model.named_parameters() if name.startswith("model.visual.patch_embed.")}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    tuned = setup(model, FullTuner(), step)
    everything = {name for name in before if tower_of(name) in ("vision", "llm")}
    assert moving(tuned) == everything - kept
    ids = torch.tensor([[1, 2, 3]])
    tuned(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=1.0).step()
    after = dict(tuned.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_adapters_leave_frozen_paths_out(model, lora, stage):
    tuned = setup(model, lora(), stage(2, "llm", freeze_modules=["layers.0"]))
    assert all(name.startswith(f"{LAYER}.1.") for name in moving(tuned)) and moving(tuned)


def test_a_target_that_is_frozen_matches_nothing(model, lora, stage):
    tuner, step = lora(target_modules=["layers.0.mlp.up_proj"]), stage(2, "llm", freeze_modules=["layers.0"])
    with pytest.raises(ConfigError, match="entry 'layers.0.mlp.up_proj' matches nothing in llm"):
        setup(model, tuner, step)


def test_a_path_that_is_nowhere_is_an_error_with_near_ones(model, stage):
    with pytest.raises(ConfigError, match=r"stage.freeze_modules: 'embed_token' is no module.*near: embed_tokens"):
        held_modules(model, stage(2, "llm", freeze_modules=["embed_token"]))
    with pytest.raises(ConfigError, match=r"'visual.patch_embd' is no module.*near: visual.patch_embed"):
        held_modules(model, stage(2, "llm", freeze_modules=["visual.patch_embd"]))


@pytest.mark.parametrize(
    "paths", [["model"], ["model.language_model"], ["language_model.layers", "norm", "embed_tokens"]]
)
def test_freezing_all_of_a_tower_that_moves_is_an_error(model, stage, paths):
    with pytest.raises(ConfigError, match=r"holds all of tower llm, which stage.towers moves"):
        held_modules(model, stage(2, "llm", freeze_modules=paths))


def test_a_part_of_a_module_that_is_trained_as_a_whole_cannot_be_frozen(model, lora, stage):
    tuner, step = lora(full_towers=["aligner"]), stage(1, "aligner", freeze_modules=["visual.merger.norm"])
    with pytest.raises(ConfigError, match=r"holds model.visual.merger.norm, a part of a module .* trains as a whole"):
        setup(model, tuner, step)


def test_a_whole_module_of_a_full_tower_can_be_frozen(model, lora, stage):
    tuned = setup(model, lora(full_towers=["aligner"]), stage(1, "aligner", freeze_modules=["visual.merger"]))
    assert {name.split(".")[2] for name in moving(tuned)} == {"deepstack_merger_list"}


@pytest.mark.parametrize(
    ("name", "paths", "found"),
    [
        ("a.b.c", {"a.b"}, True),
        ("a.b", {"a.b"}, True),
        ("a.bc", {"a.b"}, False),
        ("a", {"a.b"}, False),
        ("a.b", set(), False),
    ],
)
def test_a_name_is_under_a_path_by_whole_parts(name, paths, found):
    assert is_under(name, paths) is found
