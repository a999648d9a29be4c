"""Operations of a step, counted by hand, against those that torch counts while the step runs."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.vision_utils import get_vision_window_index

from qcvl.errors import QcvlError
from qcvl.models.flops import batch_amounts, step_flops
from qcvl.models.forward import hidden_states
from qcvl.models.speed import speed_up
from qcvl.models.towers import TOWERS, linear_names, tower_of
from qcvl.modules.sft import answer_loss
from tests.models.conftest import ARCHITECTURE

IMAGE = 90  # the placeholder's id
TEXT = ARCHITECTURE["text_config"] | {"vocab_size": 100}
OLD_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
OLD_TEXT = TEXT | {"rope_parameters": OLD_ROPE, "num_attention_heads": 2, "num_key_value_heads": 1}
FAMILIES = {
    "qwen3_vl": (TEXT, ARCHITECTURE["vision_config"] | {"out_hidden_size": 32}),
    "qwen3_vl_moe": (
        TEXT | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
        ARCHITECTURE["vision_config"] | {"out_hidden_size": 32},
    ),
    "qwen2_5_vl": (
        OLD_TEXT,
        {"depth": 3, "hidden_size": 24, "intermediate_size": 40, "num_heads": 2, "patch_size": 14}
        | {"out_hidden_size": 32, "window_size": 56, "fullatt_block_indexes": [1]},
    ),
    "qwen2_vl": (
        OLD_TEXT,
        {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2},
    ),
}


def build(family: str = "qwen3_vl") -> nn.Module:
    text, vision = FAMILIES[family]
    config = AutoConfig.for_model(family, text_config=text, vision_config=vision, image_token_id=IMAGE)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    return speed_up(AutoModelForImageTextToText.from_config(config), "varlen").train()


def row(model: nn.Module, samples: list[tuple[int, list[tuple[int, int, int]]]]) -> dict:
    """Packed samples of so many text tokens after images of the given grids; every third token is a label."""
    vision = model.config.vision_config
    merge, ids, segments = vision.spatial_merge_size, [], []
    grids = [grid for _, images in samples for grid in images]
    for words, images in samples:
        cells = sum(time * rows * columns for time, rows, columns in images) // merge**2
        ids += [IMAGE] * cells + [1] * words
        segments.append(cells + words)
    kinds = torch.tensor([int(token == 1 and place % 3 == 0) for place, token in enumerate(ids)], dtype=torch.int8)
    kinds[[sum(segments[:number]) for number in range(len(segments))]] = 0
    patches = sum(time * rows * columns for time, rows, columns in grids)
    return {
        "input_ids": torch.tensor(ids)[None],
        "position_ids": torch.cat([torch.arange(length) for length in segments]).expand(4, 1, -1),
        "segments": torch.tensor(segments),
        "label_kinds": kinds[None],
        "labels": torch.where(kinds > 0, torch.tensor(ids), -100)[None],
        "pixel_values": torch.randn(patches, 6 * vision.patch_size**2),
        "image_grid_thw": torch.tensor(grids).reshape(-1, 3),
    }


# Lengths so different that none is padded to another in one call of attention.
SAMPLES = [(20, [(1, 4, 6)]), (7, []), (20, [(1, 2, 4), (2, 6, 6)])]


def counted(model: nn.Module, batch: dict) -> int:
    """What torch counts in one forward and backward."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        hidden = hidden_states(model, batch | {"segments": tuple(batch["segments"].tolist())})
        answer_loss(model, hidden.states, batch["labels"], batch["label_kinds"])["sft_sum"].sum().backward()
    return counter.get_total_flops()


def expected(model: nn.Module, batch: dict) -> float:
    """Ours, but for causal attention over all pairs: torch computes those above the diagonal, too."""
    count = step_flops(model)
    amounts = batch_amounts(batch, count.merge, count.window)
    amounts["causal_pair"] = sum(length**2 for length in batch["segments"].tolist())
    return sum(rate * amounts[unit] for unit, rate in count.rates.items())


def train_only(model: nn.Module, wanted) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(wanted(name)))


SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(TOWERS, size)]


@pytest.mark.parametrize("towers", SUBSETS, ids="+".join)
@pytest.mark.parametrize("family", FAMILIES)
def test_fully_trained_towers_cost_what_torch_counts(family, towers):
    model = build(family)
    train_only(model, lambda name: tower_of(name) in towers)
    batch = row(model, SAMPLES)
    assert expected(model, batch) == counted(model, batch)


@pytest.mark.parametrize("towers", SUBSETS, ids="+".join)
def test_adapters_cost_what_torch_counts(towers):
    model = build()
    names = [name for tower in towers for name in linear_names(model, tower)]
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=names))
    batch = row(model, SAMPLES)
    assert expected(adapted, batch) == counted(adapted, batch)


def test_adapters_beside_a_fully_trained_aligner_cost_what_torch_counts():
    model = build()
    saved = ["visual.merger", "deepstack_merger_list.0"]
    config = LoraConfig(r=4, target_modules=linear_names(model, "llm"), modules_to_save=saved)
    adapted = get_peft_model(model, config)
    batch = row(model, SAMPLES)
    assert expected(adapted, batch) == counted(adapted, batch)


@pytest.mark.parametrize(
    "part",
    ["language_model.layers.1", "language_model.norm", "embed_tokens", "visual.blocks.1", "visual.deepstack", "mlp"],
)
def test_parts_of_towers_cost_what_torch_counts(part):
    model = build()
    train_only(model, lambda name: part in name)
    batch = row(model, SAMPLES)
    assert expected(model, batch) == counted(model, batch)


def test_a_frozen_vision_tower_costs_its_forward_alone():
    model = build()
    batch = row(model, SAMPLES)
    train_only(model, lambda name: True)
    trained = step_flops(model)
    train_only(model, lambda name: tower_of(name) == "llm")
    frozen = step_flops(model)
    assert trained.rates["patch"] == 3 * frozen.rates["patch"]
    assert trained.rates["frame_pair"] == 3 * frozen.rates["frame_pair"]
    assert trained.rates["patch_value"] == 2 * frozen.rates["patch_value"]  # no gradient of pixels
    assert trained.rates["token"] == frozen.rates["token"]
    assert frozen.of(batch) < trained.of(batch)


def test_a_frozen_layer_above_an_adapter_costs_a_forward_and_its_inputs_gradient():
    model = build()
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=r".*layers\.0\.self_attn\.q_proj"))
    hidden, width, rest = 32, 64, 48
    own = 2 * 4 * (2 * hidden) + 2 * 4 * (3 * width)  # lora_A: no gradient of its input; lora_B: both
    whole = 2 * (2 * width * hidden + 2 * 32 * hidden + 3 * hidden * rest)  # one layer, forward
    first = 2 * (width * hidden + 2 * 32 * hidden) + 4 * (width * hidden + 3 * hidden * rest)
    assert step_flops(adapted).rates["token"] == own + first + 2 * whole


def test_a_row_of_text_costs_nothing_in_the_vision_tower():
    model = build()
    alone = step_flops(model)
    batch = row(model, [(12, [])])
    amounts = batch_amounts(batch, 2, None)
    assert {unit for unit, amount in amounts.items() if amount} == {"token", "label", "causal_pair"}
    assert alone.of(batch) == sum(alone.rates[unit] * amounts[unit] for unit in ("token", "label", "causal_pair"))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_token_attends_to_itself_and_all_before_it_in_its_own_sample(lengths):
    batch = {"segments": torch.tensor(lengths), "label_kinds": torch.zeros(1, sum(lengths), dtype=torch.int8)}
    batch |= {"pixel_values": torch.zeros(0, 8), "image_grid_thw": torch.zeros(0, 3, dtype=torch.int64)}
    masks = [torch.ones(length, length, dtype=torch.bool).tril() for length in lengths]
    assert batch_amounts(batch, 2, None)["causal_pair"] == int(torch.block_diag(*masks).sum())


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3))
def test_windows_are_those_that_transformers_cuts(sizes):
    grids = torch.tensor([(time, 2 * rows, 2 * columns) for time, rows, columns in sizes])
    _, edges = get_vision_window_index(grids, 2, 112, 14)
    batch = {"segments": torch.tensor([1]), "label_kinds": torch.zeros(1, 1, dtype=torch.int8)}
    batch |= {"pixel_values": torch.zeros(int(grids.prod(1).sum()), 8), "image_grid_thw": grids}
    assert batch_amounts(batch, 2, 4)["window_pair"] == int((edges.diff().long() ** 2).sum())


def test_a_layer_that_is_not_known_is_named_and_not_left_out():
    model = build()
    model.model.language_model.layers[1].mlp.extra = nn.Linear(2, 3)
    with pytest.raises(QcvlError, match=r"layers\.1\.mlp\.extra \(Linear\).*~callbacks\.utilization"):
        step_flops(model)
