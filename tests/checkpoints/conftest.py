"""What the checkpoint tests share: the tiny model of the tuning tests, its logits, and weights that moved."""

from collections.abc import Callable

import pytest
import torch

from tests.tuning.conftest import lora, make_model, model  # noqa: F401


@pytest.fixture
def logits() -> Callable[[torch.nn.Module], torch.Tensor]:
    """Gives a model's logits ``[1, 8, 64]`` for fixed tokens around one 64x64 image, in eval mode."""

    def run(network: torch.nn.Module) -> torch.Tensor:
        ids = torch.tensor([[5, 62, 60, 60, 60, 60, 63, 7]])
        pixels = torch.randn(16, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(3))
        grid = torch.tensor([[1, 4, 4]])
        with torch.no_grad():
            return network.eval()(
                input_ids=ids, pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=(ids == 60).long()
            ).logits

    return run


@pytest.fixture
def disturb() -> Callable[[torch.nn.Module], torch.nn.Module]:
    """Moves every trainable parameter away from its start, as training would."""

    def move(network: torch.nn.Module) -> torch.nn.Module:
        generator = torch.Generator().manual_seed(11)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return network

    return move
