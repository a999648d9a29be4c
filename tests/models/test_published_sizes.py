"""Every published size, built without its weights: its parameters, towers and the places for adapters."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from qcvl.models.speed import speed_up
from qcvl.models.towers import TOWERS, count_parameters, linear_names, tower_modules
from tests.models.published import CONFIGS, PARAMETERS, TOLD

CHOICES = {path.stem for path in (Path(__file__).parents[2] / "conf" / "model").glob("qwen*.yaml")}


def empty(name):
    """The model on the meta device: shapes and names, no numbers."""
    config = dict(CONFIGS[name])
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(config.pop("model_type"), **config))


def test_every_choice_of_a_published_size_is_counted_here():
    assert set(CONFIGS) == set(PARAMETERS) == set(TOLD) == CHOICES


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_published_size_has_the_hubs_number_of_parameters_and_a_place_for_each_adapter(name):
    model = speed_up(empty(name), "auto")
    counts = count_parameters(model)
    assert tuple(counts[tower].total for tower in TOWERS) == PARAMETERS[name]
    assert f"{sum(PARAMETERS[name]) / 1e9:.3g}" == TOLD[name]

    config = model.config
    qwen3, gated_eye, experts = (
        "qwen3" in name,
        name.startswith("qwen2_5"),
        hasattr(config.text_config, "num_experts"),
    )
    mergers = 1 + len(config.vision_config.deepstack_visual_indexes) if qwen3 else 1
    assert mergers == (4 if qwen3 else 1)
    expected = {
        "vision": config.vision_config.depth * (5 if gated_eye else 4),  # qkv, proj and two or three of the MLP
        "aligner": 2 * mergers,
        "llm": config.text_config.num_hidden_layers * (4 if experts else 7),  # q, k, v, o; experts are one tensor
    }
    assert {tower: len(linear_names(model, tower)) for tower in TOWERS} == expected
    assert len(tower_modules(model, "aligner")) == mergers
