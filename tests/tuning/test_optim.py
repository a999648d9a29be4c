"""Muon + AdamW in one optimizer steps exactly as the two of torch do side by side."""

import copy
import io

import pytest
import torch
from torch import nn

from qcvl.tuning.descent.optim import MuonWithAdamW
from qcvl.tuning.descent.settings import MuonAdamW

RATE, SCALE, STEPS = 3e-3, 6.667, 5
ADAMW = {"betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.02, "fused": False}
MUON = {"momentum": 0.95, "nesterov": True, "ns_steps": 4, "weight_decay": 0.02}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))


def split(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    parameters = list(net.parameters())
    return [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim == 1]


def groups(net: nn.Module) -> list[dict]:
    matrices, rest = split(net)
    return [
        {"params": rest, "lr": RATE, "matrix": False, "tower": "llm"},
        {"params": matrices, "lr": RATE, "matrix": True, "tower": "llm"},
    ]


def backward(net: nn.Module, step: int) -> None:
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
    net.zero_grad()
    net(x).square().mean().backward()


def together(net: nn.Module) -> MuonWithAdamW:
    return MuonWithAdamW(groups(net), adamw=ADAMW, muon=MUON, lr_scale=SCALE)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_it_equals_torch_muon_and_torch_adamw_run_separately():
    net, other = network(), network()
    optimizer, (matrices, rest) = together(net), split(other)
    separate = [torch.optim.Muon(matrices, lr=RATE * SCALE, **MUON), torch.optim.AdamW(rest, lr=RATE, **ADAMW)]
    for step in range(STEPS):
        for model, optimizers in ((net, [optimizer]), (other, separate)):
            backward(model, step)
            for each in optimizers:
                each.step()
        assert equal(net, other)
    assert not equal(net, network())


def test_the_settings_make_the_same_optimizer():
    net, other = network(), network()
    values = {**ADAMW, "momentum": 0.95, "nesterov": True, "ns_steps": 4, "lr_scale": SCALE}
    for model, optimizer in ((net, MuonAdamW(**values).setup(groups(net))), (other, together(other))):
        backward(model, 0)
        optimizer.step()
    assert equal(net, other)


@pytest.mark.parametrize("change", [{"lr_scale": 2.0}, {"momentum": 0.5}, {"nesterov": False}, {"ns_steps": 2}])
def test_each_muon_setting_changes_the_second_step(change):
    values = {**ADAMW, "momentum": 0.95, "nesterov": True, "ns_steps": 4, "lr_scale": SCALE}
    net, other = network(), network()
    for model, settings in ((net, values), (other, values | change)):
        optimizer = MuonAdamW(**settings).setup(groups(model))
        for step in range(2):
            backward(model, step)
            optimizer.step()
    assert not equal(net, other)


def test_saved_and_reloaded_it_continues_the_same_steps():
    net = network()
    optimizer = together(net)
    for step in range(2):
        backward(net, step)
        optimizer.step()
    stream = io.BytesIO()
    torch.save(optimizer.state_dict(), stream)
    stream.seek(0)
    copied = copy.deepcopy(net)
    resumed = together(copied)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    for step in range(2, STEPS):
        for model, each in ((net, optimizer), (copied, resumed)):
            backward(model, step)
            each.step()
    assert equal(net, copied)
    assert resumed.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_a_scheduler_moves_both_halves():
    net, other = network(), network()
    optimizer = together(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    backward(net, 0)
    optimizer.step()
    scheduler.step()
    after_one = copy.deepcopy(net)
    backward(net, 1)
    optimizer.step()
    assert equal(net, after_one)
    assert not equal(net, other)


def test_the_closures_loss_is_returned_and_its_gradients_are_used():
    net, other = network(), network()
    reference, optimizer = together(other), together(net)
    backward(other, 0)
    reference.step()

    def closure() -> float:
        backward(net, 0)
        return 42.0

    assert optimizer.step(closure) == 42.0
    assert equal(net, other)


@pytest.mark.parametrize("flag", [True, False])
def test_one_kind_of_group_alone_is_enough(flag):
    net = network()
    mine = [group for group in groups(net) if group["matrix"] is flag]
    backward(net, 0)
    MuonWithAdamW(mine, adamw=ADAMW, muon=MUON, lr_scale=SCALE).step()
    moved = [not torch.equal(a, b) for a, b in zip(net.parameters(), network().parameters(), strict=True)]
    assert moved == [(p.ndim == 2) is flag for p in net.parameters()]
