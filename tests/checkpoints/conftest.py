"""A very small Qwen3-VL: two layers, width 32, vocabulary 64, two deepstack mergers, tied head."""

from collections.abc import Callable

import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from qcvl.tuning.settings import PeftTuner

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
    """Makes a LoRA tuner of rank 4 on every linear, with some fields changed."""

    def make(**changes: object) -> PeftTuner:
        values: dict = {"method": "lora", "rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
        return PeftTuner(**(values | {"full_towers": [], "options": {}} | changes))

    return make


@pytest.fixture
def logits() -> Callable[[torch.nn.Module], torch.Tensor]:
    """Gives a model's logits ``[1, 8, 64]`` for fixed tokens around one 64x64 image, in eval mode."""

    def run(model: torch.nn.Module) -> torch.Tensor:
        ids = torch.tensor([[5, 62, 60, 60, 60, 60, 63, 7]])
        pixels = torch.randn(16, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(3))
        grid = torch.tensor([[1, 4, 4]])
        with torch.no_grad():
            return model.eval()(
                input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=(ids == 60).long()
            ).logits

    return run


@pytest.fixture
def disturb() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Moves every trainable parameter away from its start, as training would."""

    def move(model: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(11)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return model

    return move
