"""A longer context is YaRN with transformers' own frequencies, and is saved with the model."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from qcvl.errors import ConfigError
from qcvl.models.forward import hidden_states
from qcvl.models.settings import ModelSpec, at_path
from qcvl.models.spec import FAMILIES
from tests.models.conftest import make_sample, pack, scratch
from tests.models.families import ARCHITECTURES


def settings(tokenizer_folder, family, factor):
    scale = 0.5 if family.startswith("qwen3") else None
    changes = {"architecture": ARCHITECTURES[family], "position_table_scale": scale, "context_factor": factor}
    return scratch(tokenizer_folder, **changes)


def at(folder, factor):
    values = {"dtype": "auto", "attn": "auto", "min_cells": 1, "max_cells": 16, "lr_multiplier": 1}
    return ModelSpec(
        path=str(folder), context_factor=factor, gradient_checkpointing=False, compile=False, liger=False, **values
    )


def yarn(width, base, trained, factor):
    """Frequencies by the paper: those that turn 32 times within the trained context stay, slower than once are slowed.

    In between the two are mixed linearly over the whole indices of the frequencies.
    """
    low, high = (width * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1))
    low, high = max(math.floor(low), 0), min(math.ceil(high), width - 1)
    frequencies = []
    for index in range(width // 2):
        fast = base ** (-2 * index / width)
        slowed = min(max((index - low) / (high - low), 0), 1)
        frequencies.append(fast / factor * slowed + fast * (1 - slowed))
    return torch.tensor(frequencies)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("factor", [2, 3])
def test_a_longer_context_has_the_frequencies_of_yarn(tokenizer_folder, family, factor):
    plain, longer = (settings(tokenizer_folder, family, value).load_model() for value in (1, factor))
    rotary = longer.model.language_model.rotary_emb
    torch.testing.assert_close(rotary.inv_freq, yarn(16, 10_000.0, 512, factor))
    assert rotary.attention_scaling == pytest.approx(0.1 * math.log(factor) + 1)
    theirs, scaling = ROPE_INIT_FUNCTIONS["yarn"](longer.config.text_config)
    torch.testing.assert_close(rotary.inv_freq, theirs)
    assert rotary.attention_scaling == scaling
    assert not torch.allclose(rotary.inv_freq, plain.model.language_model.rotary_emb.inv_freq)
    rope = longer.config.text_config.rope_parameters
    assert rope["mrope_section"] == plain.config.text_config.rope_parameters["mrope_section"]
    assert longer.config.text_config.max_position_embeddings == 512 * factor


def test_plain_transformers_reads_the_longer_context_from_the_saved_config(tokenizer_folder, tmp_path):
    spec = settings(tokenizer_folder, "qwen2_5_vl", 2)
    model, sample = spec.load_model().eval(), make_sample(spec.load_processing(), [(64, 64)], 40, seed=1)
    model.save_pretrained(tmp_path)
    model.double()  # in float32 the two ways to attend differ by more than 1e-5 on some processors
    batch = pack([sample])
    inputs = {key: batch[key] for key in ("input_ids", "pixel_values", "image_grid_thw")}
    types = (batch["input_ids"] == model.config.image_token_id).int()
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa").eval().double()
    with torch.no_grad():
        expected = plain.model(**inputs, mm_token_type_ids=types, use_cache=False).last_hidden_state
        torch.testing.assert_close(hidden_states(model, batch).states, expected, rtol=1e-5, atol=1e-5)
        short = hidden_states(settings(tokenizer_folder, "qwen2_5_vl", 1).load_model().eval().double(), batch).states
    assert not torch.allclose(short, expected, atol=1e-3)


def test_a_checkpoint_is_extended_once(tokenizer_folder, tmp_path):
    settings(tokenizer_folder, "qwen3_vl", 1).load_model().save_pretrained(tmp_path / "trained")
    longer = at(tmp_path / "trained", 2).load_model()
    longer.save_pretrained(tmp_path / "longer")
    for factor in (1, 2):  # its own, or the same again
        found = at(tmp_path / "longer", factor).load_model().config.text_config
        assert found.max_position_embeddings == 1024
        assert found.rope_parameters == longer.config.text_config.rope_parameters
    with pytest.raises(ConfigError, match=r"scaled already .rope_type yarn, factor 2.0.; use model.context_factor=2.0"):
        at(tmp_path / "longer", 3).load_model()


def test_a_context_is_never_shortened_or_stretched_out_of_all_proportion(tokenizer_folder):
    for factor in (0.5, 8):
        with pytest.raises(ValidationError, match="context_factor"):
            settings(tokenizer_folder, "qwen3_vl", factor)


def test_the_context_goes_with_a_model_to_another_path(tokenizer_folder):
    assert at_path(settings(tokenizer_folder, "qwen3_vl", 3), "elsewhere").context_factor == 3
