"""Eight-bit AdamW on a CPU: its steps are near those of 32 bits, its state is small, and it goes on exactly."""

import io
import sys

import pytest
import torch

from qcvl.errors import ConfigError
from qcvl.tuning.descent.settings import AdamW, AdamW8bit
from tests.conftest import choice

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'qcvl[quant]'")
pytestmark = pytest.mark.quant
EIGHT = AdamW8bit(**choice("optimizer/adamw_8bit.yaml"))
FULL = AdamW(**choice("optimizer/adamw.yaml"))


def weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(128, 128, generator=generator)), torch.nn.Parameter(torch.zeros(128))]


def descend(optimizer: torch.optim.Optimizer, parameters: list, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = parameter.detach() + torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def group(parameters: list) -> list[dict]:
    return [{"params": parameters, "lr": 1e-2, "weight_decay": 0.1, "tower": "llm"}]


def test_its_steps_are_near_those_of_thirty_two_bits():
    eight, full = weights(), weights()
    descend(EIGHT.setup(group(eight)), eight, range(20))
    descend(FULL.setup(group(full)), full, range(20))
    moved = (full[0] - weights()[0]).norm()
    assert (eight[0] - full[0]).norm() < 0.05 * moved
    assert not torch.equal(eight[0], full[0])
    torch.testing.assert_close(eight[1], full[1])  # under 4096 numbers it keeps 32 bits


def test_its_moments_take_a_byte_each():
    parameters = weights()
    optimizer = EIGHT.setup(group(parameters))
    descend(optimizer, parameters, range(1))
    state = optimizer.state[parameters[0]]
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    assert state["state1"].numel() == 128 * 128


def test_saved_and_loaded_it_takes_the_same_steps():
    straight = weights()
    optimizer = EIGHT.setup(group(straight))
    descend(optimizer, straight, range(4))
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    stream.seek(0)
    resumed = [torch.nn.Parameter(parameter.detach().clone()) for parameter in straight]
    again = EIGHT.setup(group(resumed))
    again.load_state_dict(torch.load(stream, weights_only=True))
    for made, parameters in ((optimizer, straight), (again, resumed)):
        descend(made, parameters, range(4, 9))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_without_bitsandbytes_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"8-bit optimizers need; pip install 'qcvl\[quant\]'"):
        EIGHT.setup(group(weights()))
