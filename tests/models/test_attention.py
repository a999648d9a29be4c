"""Packed samples give what each gives alone, and the fast layers give what transformers' own give."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qcvl.models.attention import Segments, plan_calls, segment_attention
from qcvl.models.forward import hidden_states
from qcvl.models.speed import resolve_attention, speed_up
from tests.models.conftest import make_sample, pack, scratch


def loss_and_gradients(model, batches):
    """Final hidden states, and the gradient of a random projection of them for every parameter."""
    model.zero_grad()
    states = torch.cat([hidden_states(model, batch).states[0] for batch in batches])
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(7))).sum().backward()
    return states.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one, other):
    states, gradients = one
    torch.testing.assert_close(states, other[0], rtol=1e-5, atol=1e-5)
    assert gradients.keys() == other[1].keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        scale = other[1][name].abs().max() + 1e-6
        assert (gradient - other[1][name]).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("attn", ["varlen", "sdpa"])
def test_a_packed_row_gives_the_hidden_states_and_gradients_of_its_samples_run_alone(tokenizer_folder, samples, attn):
    model = scratch(tokenizer_folder, attn=attn).load_model().train()
    together = loss_and_gradients(model, [pack(samples)])
    assert_same(together, loss_and_gradients(model, [pack([sample]) for sample in samples]))


def test_a_sample_does_not_feel_its_neighbours_tokens_or_pixels(model, samples, processing):
    other = [make_sample(processing, [(64, 64)], 20, seed=99), *samples[1:]]
    first = len(other[0]["ids"])
    with torch.no_grad():
        alone = hidden_states(model, pack(samples)).states[0, len(samples[0]["ids"]) :]
        beside = hidden_states(model, pack(other)).states[0, first:]
    torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-5)


def test_the_fast_paths_give_what_plain_transformers_gives_for_each_sample(model, plain, samples):
    for sample in samples:
        batch = pack([sample])
        types = (batch["input_ids"] == model.config.image_token_id).long()
        inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "image_grid_thw") if batch[key] is not None}
        with torch.no_grad():
            expected = plain.model(**inputs, mm_token_type_ids=types, use_cache=False).last_hidden_state
            torch.testing.assert_close(hidden_states(model, batch).states, expected, rtol=1e-5, atol=1e-5)


def test_packed_rows_stay_apart_without_segments_because_positions_restart(model, samples):
    batch = pack(samples)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    inputs = {"inputs_embeds": embeds, "position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad():
        told = model.model.language_model(**inputs, segments=Segments(batch["segments"])).last_hidden_state
        untold = model.model.language_model(**inputs).last_hidden_state
        first = model.model.language_model(
            inputs_embeds=embeds[:, :-28], position_ids=batch["position_ids"][..., :-28], use_cache=False
        ).last_hidden_state
    torch.testing.assert_close(told, untold)
    torch.testing.assert_close(told[:, :-28], first)


@pytest.mark.parametrize("sizes", [[(64, 64)] * 4, [(64, 64), (96, 64), (64, 64), (32, 96), (64, 96)]])
def test_vision_attention_over_all_images_at_once_equals_the_loop_over_images(model, plain, processing, sizes):
    batch = pack([make_sample(processing, sizes, 1, seed=3)])
    gradients = []
    for tower in (model.model.visual, plain.model.visual):
        out = tower(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True)
        total = out.pooler_output.square().sum() + sum(part.square().sum() for part in out.deepstack_features)
        total.backward()
        gradients.append([out.pooler_output, *(parameter.grad for parameter in tower.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * theirs.detach().abs().max().item())


def test_the_linear_patch_embedding_equals_the_convolution(model, plain):
    rows = torch.randn(12, 1536, generator=torch.Generator().manual_seed(0))
    ours, theirs = model.model.visual.patch_embed, plain.model.visual.patch_embed
    assert type(ours) is not type(theirs)
    torch.testing.assert_close(ours(rows), theirs(rows), rtol=1e-5, atol=1e-4)


def test_a_copied_model_uses_its_own_weights(model, samples):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.model.visual.patch_embed.proj.weight.zero_()
        model.model.visual.blocks[0].attn.qkv.weight.zero_()
        batch = pack(samples[1:2])
        assert not torch.allclose(hidden_states(twin, batch).states, hidden_states(model, batch).states)


def test_greedy_generation_over_left_padded_prompts_equals_one_by_one(model, samples):
    model.eval()
    prompts = [samples[1], samples[4]]
    longest = max(len(sample["ids"]) for sample in prompts)

    def generate(chosen, width):
        ids = np.stack([np.pad(s["ids"], (width - len(s["ids"]), 0), constant_values=0) for s in chosen])
        mask = np.stack([np.pad(np.ones_like(s["ids"]), (width - len(s["ids"]), 0)) for s in chosen])
        batch = pack(chosen)
        ids = torch.from_numpy(ids)
        return model.generate(
            input_ids=ids,
            attention_mask=torch.from_numpy(mask),
            pixel_values=batch["pixel_values"],
            image_grid_thw=batch["image_grid_thw"],
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            max_new_tokens=6,
            do_sample=False,
        )[:, width:]

    together = generate(prompts, longest)
    for row, sample in zip(together, prompts, strict=True):
        alone = generate([sample], len(sample["ids"]))[0]
        assert row[: len(alone)].tolist() == alone.tolist()


lengths_of_segments = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(tuple)


@given(lengths=lengths_of_segments, causal=st.booleans())
def test_a_plan_computes_every_token_of_the_row_exactly_once_and_in_order(lengths, causal):
    plan = plan_calls(lengths, causal, torch.device("cpu"))
    outputs = torch.cat([group.rows[group.kept] for group in plan.groups])
    assert outputs[plan.order].tolist() == list(range(sum(lengths)))
    assert sum(group.segments for group in plan.groups) == len(lengths)


@given(lengths=lengths_of_segments, causal=st.booleans())
def test_segment_attention_equals_attention_under_the_block_mask(lengths, causal):
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    query, key, value = (torch.randn(1, heads, total, 8, generator=generator) for heads in (4, 2, 2))
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = owner[:, None] == owner[None]
    if causal:
        mask &= torch.ones(total, total).tril().bool()
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    found = segment_attention(query, key, value, lengths, causal=causal, scaling=None, dropout=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_plan_made_under_inference_mode_can_be_trained_through_later():
    lengths = (3, 7, 4)
    query = torch.randn(1, 2, 14, 4, requires_grad=True)
    arguments = {"causal": True, "scaling": None, "dropout": 0.0}
    with torch.inference_mode():
        segment_attention(query, query, query, lengths, **arguments)
    segment_attention(query, query, query, lengths, **arguments).sum().backward()
    assert query.grad.abs().sum() > 0


def test_auto_attention_is_varlen_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_attention("auto", torch.float32) == resolve_attention("varlen", torch.float32) == "qcvl_varlen"
    assert resolve_attention("sdpa", torch.float32) == "sdpa"


def test_speeding_up_twice_changes_nothing_more(model, samples):
    batch = pack(samples)
    with torch.no_grad():
        once = hidden_states(model, batch).states
        classes = [type(module) for module in model.modules()]
        speed_up(model, "varlen")
        assert [type(module) for module in model.modules()] == classes
        torch.testing.assert_close(hidden_states(model, batch).states, once)
