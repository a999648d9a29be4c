"""Every family goes the whole way: equal to plain transformers, packed like separate, saved, generating."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from qcvl.errors import ConfigError
from qcvl.models.forward import hidden_states, label_logits, look
from qcvl.models.positions import media_types, rope_positions
from qcvl.models.spec import FAMILIES
from qcvl.models.towers import TOWERS, count_parameters, linear_names, tower_modules
from tests.models.conftest import make_sample, pack, scratch
from tests.models.families import ARCHITECTURES
from tests.models.test_attention import assert_same, loss_and_gradients

SHAPES = [([], 5), ([(64, 64)], 9), ([(90, 150), (60, 60)], 30), ([(60, 60), (60, 60)], 3), ([(120, 30)], 28)]


def family_settings(tokenizer_folder, family, **changes):
    """The small random model of a family; Qwen2 and 2.5 have no table of vision positions."""
    scale = 0.5 if family.startswith("qwen3") else None
    changes = {"architecture": ARCHITECTURES[family], "position_table_scale": scale} | changes
    return scratch(tokenizer_folder, **changes)


@pytest.fixture(params=list(FAMILIES))
def spec(request, tokenizer_folder):
    return family_settings(tokenizer_folder, request.param)


@pytest.fixture
def processing(spec):
    return spec.load_processing()


@pytest.fixture
def model(spec):
    return spec.load_model().train()


@pytest.fixture
def samples(processing):
    """Samples of unequal lengths with none, one, two equal and two different images, some wider than a window."""
    return [make_sample(processing, sizes, words, seed) for seed, (sizes, words) in enumerate(SHAPES)]


def inputs_of(model, batch):
    """What plain transformers is given for one sample."""
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "image_grid_thw") if batch[key] is not None}
    return inputs | {"mm_token_type_ids": (batch["input_ids"] == model.config.image_token_id).int()}


def test_known_outputs_of_the_vision_blocks_stand_for_running_them(model, samples):
    """The aligner's own part is run anew: its gradients are those of the whole."""
    batch = pack(samples)
    pixels, grids = batch["pixel_values"], batch["image_grid_thw"]
    whole = look(model, pixels, grids, keep_blocks=True)
    known = {index: output.detach() for index, output in whole.blocks.items()}
    again = look(model, pixels, grids, blocks=known)
    merger = list(model.model.visual.merger.parameters())
    for one, other in zip((whole.merged, *whole.deepstack), (again.merged, *again.deepstack), strict=True):
        torch.testing.assert_close(one, other)
    expected, found = (torch.autograd.grad(seen.merged.square().sum(), merger) for seen in (whole, again))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    other = look(model, pixels, grids, blocks={index: 2 * output for index, output in known.items()})
    assert not torch.allclose(other.merged, whole.merged)


def test_the_families_here_are_those_of_the_package():
    assert set(ARCHITECTURES) == set(FAMILIES)
    assert all(architecture["model_type"] == family for family, architecture in ARCHITECTURES.items())


@pytest.mark.parametrize("attn", ["varlen", "sdpa"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_packed_row_gives_the_states_and_gradients_of_its_samples_alone(tokenizer_folder, family, attn):
    spec = family_settings(tokenizer_folder, family, attn=attn)
    samples = [make_sample(spec.load_processing(), sizes, words, seed) for seed, (sizes, words) in enumerate(SHAPES)]
    model = spec.load_model().train()
    together = loss_and_gradients(model, [pack(samples)])
    assert_same(together, loss_and_gradients(model, [pack([sample]) for sample in samples]))


def test_a_saved_model_is_plain_transformers_and_gives_the_same_logits(model, processing, samples, tmp_path):
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == processing.family.model_type and "qcvl" not in json.dumps(saved)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert all(type(module).__module__.startswith(("transformers.", "torch.")) for module in plain.modules())
    assert all((tensor == plain.state_dict()[name]).all() for name, tensor in model.state_dict().items())
    for sample in samples:
        batch = pack([sample])
        with torch.no_grad():
            expected = plain(**inputs_of(model, batch), use_cache=False).logits[0]
            found = label_logits(model, hidden_states(model, batch).states, torch.arange(len(sample["ids"])))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("sizes", [[(64, 64)] * 3, [(64, 64), (90, 150), (64, 64), (30, 90), (150, 150)]])
def test_vision_attention_over_all_images_at_once_equals_one_image_at_a_time(model, processing, sizes):
    batch = pack([make_sample(processing, sizes, 1, seed=3)])
    cells = (batch["image_grid_thw"].prod(1)).tolist()
    rows = batch["pixel_values"].split(cells)
    with torch.no_grad():
        together = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True)
        alone = [
            model.model.visual(row, grid_thw=grid[None], return_dict=True).pooler_output
            for row, grid in zip(rows, batch["image_grid_thw"], strict=True)
        ]
    torch.testing.assert_close(together.pooler_output, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_vision_attention_and_its_gradients_are_those_of_transformers(model, processing, tmp_path):
    model.save_pretrained(tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa")
    batch = pack([make_sample(processing, [(64, 64), (90, 150), (150, 150), (30, 90)], 1, seed=3)])
    found = []
    for tower in (model.model.visual, plain.model.visual):
        out = tower(batch["pixel_values"], grid_thw=batch["image_grid_thw"], return_dict=True).pooler_output
        out.square().sum().backward()
        gradients = {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}
        found.append({"": out.detach()} | gradients)
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, theirs in found[1].items():
        torch.testing.assert_close(found[0][name], theirs, rtol=2e-5, atol=2e-5 * theirs.abs().max().item())


def test_windows_are_kept_apart_and_full_layers_are_not(tokenizer_folder):
    """In Qwen2.5-VL a pixel reaches cells of other windows only through a layer of full attention."""
    reached = []
    for full in ([], [1]):
        vision = ARCHITECTURES["qwen2_5_vl"]["vision_config"] | {"fullatt_block_indexes": full}
        architecture = ARCHITECTURES["qwen2_5_vl"] | {"vision_config": vision}
        spec = family_settings(tokenizer_folder, "qwen2_5_vl", architecture=architecture)
        visual = spec.load_model().model.visual
        sample = make_sample(spec.load_processing(), [(112, 112)], 1, seed=0)  # 4x4 cells, four windows of 2x2
        rows, grid = sample["patches"][0], torch.tensor(sample["grids"])
        changed = rows.clone()
        changed[:4] += 1  # the first cell
        with torch.no_grad():
            before, after = (
                visual(pixels, grid_thw=grid, return_dict=True).pooler_output for pixels in (rows, changed)
            )
        reached.append((before != after).any(1).view(4, 4))
    assert reached[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert reached[1].all()


def test_the_linear_patch_embedding_equals_the_convolution(model, processing):
    ours, side = model.model.visual.patch_embed, processing.family.patch_size
    stock = type(ours).__mro__[2]
    assert stock.__module__.startswith("transformers.")
    rows = torch.randn(6, processing.family.patch_values, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(rows), stock.forward(ours, rows), rtol=1e-5, atol=1e-4)
    still = torch.randn(6, 3 * side**2, generator=torch.Generator().manual_seed(1))
    repeated = still.view(6, 3, 1, -1).expand(-1, -1, 2, -1).flatten(1)
    torch.testing.assert_close(ours(still), stock.forward(ours, repeated), rtol=1e-5, atol=1e-4)


def test_positions_are_those_of_the_model(model, processing, samples):
    for sample in samples:
        ids = torch.from_numpy(sample["ids"])[None]
        types = torch.from_numpy(media_types(sample["ids"], processing))[None].int()
        grids = torch.tensor(sample["grids"]) if sample["grids"] else None
        expected, _ = model.model.get_rope_index(ids, types, image_grid_thw=grids)
        found = rope_positions(sample["ids"], sample["grids"], processing)
        assert (found[1:] == expected[:, 0].numpy()).all()


def test_greedy_generation_over_left_padded_prompts_equals_one_by_one(model, samples):
    model.eval()
    prompts = [samples[1], samples[2]]

    def generate(chosen, width):
        ids = np.stack([np.pad(s["ids"], (width - len(s["ids"]), 0)) for s in chosen])
        mask = np.stack([np.pad(np.ones_like(s["ids"]), (width - len(s["ids"]), 0)) for s in chosen])
        batch = pack(chosen) | {"input_ids": torch.from_numpy(ids)}
        mask = torch.from_numpy(mask)
        return model.generate(**inputs_of(model, batch), attention_mask=mask, max_new_tokens=5, do_sample=False)[
            :, width:
        ]

    together = generate(prompts, max(len(sample["ids"]) for sample in prompts))
    for row, sample in zip(together, prompts, strict=True):
        alone = generate([sample], len(sample["ids"]))[0]
        assert row[: len(alone)].tolist() == alone.tolist()


def test_every_weight_follows_from_the_seed(spec, model):
    first, again = model.state_dict(), spec.load_model().state_dict()
    assert all((first[name] == again[name]).all() for name in first)
    std = {name: float(tensor.std()) for name, tensor in first.items() if tensor.ndim > 1}
    assert all(0.05 < value < 0.6 for value in std.values()), std  # none is left as transformers or malloc made it


def test_the_towers_hold_every_parameter_once(model):
    owned = {tower: tower_modules(model, tower) for tower in TOWERS}
    ids = [id(p) for modules in owned.values() for module in modules.values() for p in module.parameters()]
    assert len(ids) - 1 == len(set(ids)) == len(list(model.parameters()))  # one: lm_head and embed_tokens are tied
    counts = count_parameters(model)
    assert all(counts[tower].total > 0 for tower in TOWERS)
    deepstack = [name for name in owned["aligner"] if "deepstack" in name]
    assert len(deepstack) == (1 if "qwen3" in model.config.model_type else 0)


@pytest.mark.parametrize(
    ("family", "vision", "aligner", "llm"),
    [
        ("qwen2_vl", "qkv proj fc1 fc2", "0 2", "q k v o gate up down"),
        ("qwen2_5_vl", "qkv proj gate up down", "0 2", "q k v o gate up down"),
        ("qwen3_vl", "qkv proj linear_fc1 linear_fc2", "linear_fc1 linear_fc2", "q k v o gate up down"),
        ("qwen3_vl_moe", "qkv proj linear_fc1 linear_fc2", "linear_fc1 linear_fc2", "q k v o gate up down"),
    ],
)
def test_adapters_find_the_linears_of_each_tower(tokenizer_folder, family, vision, aligner, llm):
    model = family_settings(tokenizer_folder, family).load_model()
    for tower, expected in (("vision", vision), ("aligner", aligner), ("llm", llm)):
        found = {name.rsplit(".", 1)[1].removesuffix("_proj") for name in linear_names(model, tower)}
        assert found == set(expected.split()), tower


def test_a_position_table_scale_goes_with_a_position_table(tokenizer_folder):
    with pytest.raises(ConfigError, match="qwen2_vl has no vision position table; set it to null"):
        family_settings(tokenizer_folder, "qwen2_vl", position_table_scale=0.5).load_model()
    with pytest.raises(ConfigError, match="qwen3_vl needs one"):
        family_settings(tokenizer_folder, "qwen3_vl", position_table_scale=None).load_model()
