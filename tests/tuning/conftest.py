"""A very small Qwen3-VL: two layers, width 32, vocabulary 64, two deepstack mergers, tied head."""

from collections.abc import Callable

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qcvl.tuning.settings import PeftTuner, TrainingStage
from tests.conftest import choice

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}


@pytest.fixture
def make_model() -> Callable[..., Qwen3VLForConditionalGeneration]:
    """Makes the small model from a seed, in a dtype."""

    def make(seed: int = 0, dtype: torch.dtype = torch.float32) -> Qwen3VLForConditionalGeneration:
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        text = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rope_parameters": ROPE}
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        ids = {"image_token_id": 60, "video_token_id": 61, "vision_start_token_id": 62, "vision_end_token_id": 63}
        config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        return Qwen3VLForConditionalGeneration(config).to(dtype)

    return make


@pytest.fixture
def model(make_model: Callable[..., Qwen3VLForConditionalGeneration]) -> Qwen3VLForConditionalGeneration:
    """The small model in float32."""
    return make_model()


@pytest.fixture
def lora() -> Callable[..., PeftTuner]:
    """Makes the tuner of ``tuner=lora`` at rank 4, with some fields changed."""
    return lambda **changes: PeftTuner(**choice("tuner/lora.yaml") | {"rank": 4, "alpha": 8} | changes)


@pytest.fixture
def stage() -> Callable[..., TrainingStage]:
    """Makes a stage over some towers with rates 1e-4 (adapter) and 1e-5 (full), and some fields changed."""

    def make(number: int, *towers: str, **changes: object) -> TrainingStage:
        values = choice("stage/2.yaml") | {"rates": {"adapter": 1e-4, "full": 1e-5}}
        return TrainingStage(**values | {"number": number, "towers": list(towers)} | changes)

    return make
