"""What a step keeps for backward: nothing of a tower, or of its blocks, that has no gradient to pass on."""

from collections import Counter

import pytest
import torch

from qcvl.models.forward import unwrap
from qcvl.tuning.settings import TrainingStage
from tests.conftest import choice


@pytest.fixture
def kept(batches):
    """``kept(module)``: how many tensors each part of the model saves for backward in one forward, by module path."""

    def count(module) -> Counter:
        module.configure_model()
        model, saved, inside = unwrap(module.built), Counter(), []

        def enter(name):
            return lambda part, arguments: inside.append(name)

        def leave(part, arguments, output):
            inside.pop()

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved.update(set(inside) or {"elsewhere"})
            return tensor

        parts = [name for name, _ in model.named_modules() if name and name.split(".")[-1] in PARTS | {"0", "1"}]
        for name in parts:
            model.get_submodule(name).register_forward_pre_hook(enter(name))
            model.get_submodule(name).register_forward_hook(leave)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module.losses(batches[0])
        assert inside == []
        return saved

    return count


PARTS = {"visual", "merger", "language_model", "patch_embed"}
BLOCKS, LAYERS, MERGER = "model.visual.blocks", "model.language_model.layers", "model.visual.merger"


def stage(towers, **changes) -> TrainingStage:
    return TrainingStage(**choice("stage/2.yaml") | {"towers": towers} | changes)


def test_frozen_vision_and_aligner_keep_nothing_under_adapters_on_the_language_model(make_module, lora, kept):
    saved = kept(make_module(tuner=lora(), towers=["llm"]))
    assert saved["model.visual"] == saved[MERGER] == 0
    assert saved["model.language_model"] > 0


def test_a_frozen_trunk_keeps_nothing_where_the_aligner_trains(make_module, lora, kept):
    saved = kept(make_module(tuner=lora(full_towers=["aligner"]), towers=["aligner"]))
    assert saved[MERGER] > 0
    assert saved[f"{BLOCKS}.0"] == saved[f"{BLOCKS}.1"] == saved["model.visual.patch_embed"] == 0


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_only_the_last_block_of_vision_keeps_something_where_it_alone_trains(make_module, lora, kept, kind):
    tuner = {"tuner": lora()} if kind == "lora" else {}
    step = stage(["vision"], last_blocks={"vision": 1, "llm": None})
    saved = kept(make_module(towers=["vision"], stage=step, **tuner))
    assert saved[f"{BLOCKS}.0"] == saved["model.visual.patch_embed"] == 0
    assert saved[f"{BLOCKS}.1"] > 0


def test_the_first_layers_of_a_language_model_that_trains_its_last_keep_nothing(make_module, kept):
    saved = kept(make_module(towers=["llm"], stage=stage(["llm"], last_blocks={"vision": None, "llm": 1})))
    assert saved["model.visual"] == saved[f"{LAYERS}.0"] == 0
    assert saved[f"{LAYERS}.1"] > 0
