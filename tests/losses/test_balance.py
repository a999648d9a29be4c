"""The load-balancing loss by its definition, and as transformers computes it."""

import pytest
import torch
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import load_balancing_loss_func

from qcvl.losses.balance import load_balance


def test_experts_used_alike_give_top_k_and_one_expert_for_all_gives_their_number():
    alike = torch.eye(4) * 50  # each token is sure of an expert of its own
    assert float(load_balance([alike], 1)) == pytest.approx(1)
    assert float(load_balance([torch.zeros(6, 4)], 2)) == pytest.approx(2)  # 4 * (2 chosen experts * 1/4 each)
    same = torch.tensor([[50.0, 0, 0, 0]]).expand(5, -1)
    assert float(load_balance([same], 1)) == pytest.approx(4)


def test_shares_and_probabilities_are_counted_over_all_layers():
    half = torch.tensor([[0.0, 0.0]]).expand(3, -1) + torch.tensor([1e-6, 0])  # sure of neither, goes to the first
    sure = torch.tensor([[-50.0, 0.0]])
    expected = 2 * (3 / 4 * (3 * 0.5 + 0) / 4 + 1 / 4 * (3 * 0.5 + 1) / 4)
    assert float(load_balance([half, sure], 1)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_value_and_gradient_are_those_of_transformers(top_k):
    layers = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (40, 40, 40)]
    found = load_balance(layers, top_k)
    own = torch.autograd.grad(found, layers)
    expected = load_balancing_loss_func(tuple(layers), 8, top_k)
    torch.testing.assert_close(found, expected)
    for gradient, other in zip(own, torch.autograd.grad(expected, layers), strict=True):
        torch.testing.assert_close(gradient, other)
