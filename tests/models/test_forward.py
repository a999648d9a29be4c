"""The training path: logits where asked, visual tokens beside them, and no graph through what is frozen."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from qcvl.errors import DataError
from qcvl.models.forward import hidden_states, label_logits, unwrap
from qcvl.models.spec import Processing
from qcvl.models.towers import linear_names, tower_of
from tests.models.conftest import make_sample, pack, scratch


def train_only(model, *towers):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(tower_of(name) in towers)


def test_label_logits_are_the_rows_of_the_full_logits_one_before_each_label(model, plain, samples):
    sample = samples[2]
    batch = pack([sample])
    labels = torch.arange(len(sample["ids"]) - 12, len(sample["ids"]))
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "image_grid_thw")}
    types = (batch["input_ids"] == model.config.image_token_id).long()
    with torch.no_grad():
        full = plain(**inputs, mm_token_type_ids=types, use_cache=False).logits[0]
        found = label_logits(model, hidden_states(model, batch).states, labels - 1)
    torch.testing.assert_close(found, full[labels - 1], rtol=1e-5, atol=1e-5)


def test_cross_entropy_over_a_pack_equals_the_models_own_losses_weighted_by_labels(model, plain, samples):
    batch = pack(samples)
    answers, offset, expected, count = [], 0, 0.0, 0
    for sample in samples:
        length = len(sample["ids"])
        answers.append(torch.arange(offset + length - 3, offset + length))
        offset += length
        single = pack([sample])
        labels = single["input_ids"].clone()
        labels[:, :-3] = -100
        inputs = {
            key: single[key] for key in ("input_ids", "pixel_values", "image_grid_thw") if single[key] is not None
        }
        types = (single["input_ids"] == model.config.image_token_id).long()
        expected += 3 * float(plain(**inputs, mm_token_type_ids=types, labels=labels, use_cache=False).loss)
        count += 3
    at = torch.cat(answers)
    logits = label_logits(model, hidden_states(model, batch).states, at - 1)
    loss = torch.nn.functional.cross_entropy(logits, batch["input_ids"][0, at])
    assert float(loss) == pytest.approx(expected / count, abs=1e-5)


def test_visual_tokens_are_the_mergers_output_in_image_order(model, plain, samples):
    batch = pack(samples)
    with torch.no_grad():
        found = hidden_states(model, batch).visual
        expected = plain.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert found.shape == (int((batch["input_ids"] == model.config.image_token_id).sum()), 32)


def test_a_loss_on_the_visual_tokens_trains_the_vision_tower(model, samples):
    hidden_states(model, pack(samples)).visual.square().sum().backward()
    assert model.model.visual.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert model.model.language_model.layers[0].mlp.up_proj.weight.grad is None


def test_a_text_only_row_has_no_visual_tokens(model, samples):
    hidden = hidden_states(model, pack(samples[:1]))
    assert hidden.visual is None and hidden.states.shape == (1, len(samples[0]["ids"]), 32)


def without_patches(batch: dict, processing: Processing) -> dict:
    """A row of text alone as the loader lays it: no patch and no grid, but their widths."""
    patches = torch.zeros(0, processing.family.patch_values)
    return {**batch, "pixel_values": patches, "image_grid_thw": torch.zeros(0, 3, dtype=torch.int64)}


def test_a_text_only_row_without_patches_has_the_same_states_and_takes_the_vision_tower_along(
    model, samples, processing
):
    batch = pack(samples[:1])
    looked = []
    model.model.visual.register_forward_hook(lambda *call: looked.append(call))
    plain = hidden_states(model, batch)
    assert not looked
    hidden = hidden_states(model, without_patches(batch, processing))
    assert len(looked) == 1 and hidden.visual.shape == (0, 32)
    assert torch.equal(hidden.states, plain.states)
    hidden.states.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    by_tower = dict.fromkeys(("vision", "aligner", "llm"), 0.0)
    for name, gradient in gradients.items():
        by_tower[tower_of(name)] += float(gradient.abs().sum())
    assert by_tower["vision"] == by_tower["aligner"] == 0 and by_tower["llm"] > 0


def test_a_text_only_row_keeps_no_graph_through_frozen_vision(model, samples, processing):
    train_only(model, "llm")
    hidden = hidden_states(model, without_patches(pack(samples[:1]), processing))
    assert hidden.visual.grad_fn is None and hidden.states.grad_fn is not None


def test_frozen_vision_and_aligner_keep_no_graph(model, samples):
    train_only(model, "llm")
    hidden = hidden_states(model, pack(samples))
    assert hidden.visual.grad_fn is None and hidden.states.grad_fn is not None


def test_frozen_vision_keeps_no_graph_even_where_a_hook_makes_its_patches_require_one(model, samples):
    train_only(model, "llm")
    model.model.visual.patch_embed.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    assert hidden_states(model, pack(samples)).visual.grad_fn is None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_vision_trunk_keeps_no_graph_while_the_aligner_trains(tokenizer_folder, samples, checkpointing):
    model = scratch(tokenizer_folder, gradient_checkpointing=checkpointing).load_model().train()
    train_only(model, "aligner")
    outputs = []
    for block in model.model.visual.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    hidden = hidden_states(model, pack(samples))
    assert len(outputs) == 2 and all(output.grad_fn is None for output in outputs)
    hidden.states.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {tower_of(name) for name in trained} == {"aligner"}
    assert any("deepstack" in name for name in trained) and any("visual.merger" in name for name in trained)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_on_the_language_model_leave_frozen_vision_without_a_graph(tokenizer_folder, samples, checkpointing):
    model = scratch(tokenizer_folder, gradient_checkpointing=checkpointing).load_model()
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=linear_names(model, "llm"))).train()
    hidden = hidden_states(wrapped, pack(samples))
    assert hidden.visual.grad_fn is None
    hidden.states.square().sum().backward()
    with_gradient = [name for name, p in wrapped.named_parameters() if p.grad is not None]
    assert with_gradient and all("lora_" in name for name in with_gradient)
    assert not any(module._forward_hooks for module in wrapped.modules())


def test_adapters_change_the_wrapped_models_answer_and_stay_out_of_the_disabled_one(model, samples):
    batch = pack(samples)
    with torch.no_grad():
        before = hidden_states(model, batch).states
        names = [*linear_names(model, "llm"), *linear_names(model, "aligner"), *linear_names(model, "vision")]
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=names, init_lora_weights=False))
        assert unwrap(wrapped) is model
        assert not torch.allclose(hidden_states(wrapped, batch).states, before, atol=1e-3)
        with wrapped.disable_adapter():
            torch.testing.assert_close(hidden_states(wrapped, batch).states, before)


def test_an_adapter_on_the_patch_embedding_is_not_bypassed(model, samples):
    batch = pack(samples)
    with torch.no_grad():
        before = hidden_states(model, batch).visual
        names = ["model.visual.patch_embed.proj"]
        wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=names, init_lora_weights=False))
        assert not torch.allclose(hidden_states(wrapped, batch).visual, before, atol=1e-3)


def test_checkpointed_activations_give_the_same_gradients(tokenizer_folder, samples):
    found = []
    for checkpointing in (False, True, ("vision",)):
        model = scratch(tokenizer_folder, gradient_checkpointing=checkpointing).load_model().train()
        hidden_states(model, pack(samples)).states[0, ::3].sum().backward()
        found.append(
            {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        )
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)
        torch.testing.assert_close(found[2][name], gradient, msg=name)


@pytest.mark.parametrize(
    ("checkpointing", "runs"), [(True, (2, 2)), (("llm",), (1, 2)), (("vision",), (2, 1)), (False, (1, 1))]
)
def test_checkpointing_recomputes_each_layer_of_its_towers_once_in_backward(
    tokenizer_folder, samples, checkpointing, runs
):
    model = scratch(tokenizer_folder, gradient_checkpointing=checkpointing).load_model().train()
    calls = []
    for tower, norm in (
        ("vision", model.model.visual.blocks[0].norm1),
        ("llm", model.model.language_model.layers[0].input_layernorm),
    ):
        norm.register_forward_hook(lambda *_, tower=tower: calls.append(tower))
    states = hidden_states(model, pack(samples)).states
    assert sorted(calls) == ["llm", "vision"]
    states.sum().backward()
    assert (calls.count("vision"), calls.count("llm")) == runs


def test_placeholders_that_do_not_match_the_grids_are_an_error(model, samples):
    batch = pack(samples)
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][0, -1] = model.config.image_token_id
    with pytest.raises(DataError, match=r"placeholders for \d+ visual tokens"):
        hidden_states(model, batch)


def test_a_full_640_pixel_photo_makes_400_visual_tokens(tokenizer_folder):
    settings = scratch(tokenizer_folder, min_cells=16, max_cells=576)
    sample = make_sample(settings.load_processing(), [(640, 640)], 4, seed=0)
    with torch.no_grad():
        assert hidden_states(settings.load_model(), pack([sample])).visual.shape == (400, 32)
