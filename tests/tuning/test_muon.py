"""Muon over stacks: torch's own steps, and matrices that come out with singular values near 1."""

import pytest
import torch
from torch import nn

from qcvl.tuning.descent.muon import StackedMuon, orthogonalize

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of https://kellerjordan.github.io/posts/muon/
SHAPES = [(8, 8), (8, 8), (12, 5), (5, 12), (12, 5), (7, 3)]


@pytest.mark.parametrize("change", [{}, {"nesterov": False}, {"momentum": 0.5}, {"ns_steps": 2}, {"weight_decay": 0.3}])
def test_it_steps_as_torchs_own_muon(change):
    options = {"lr": 0.02, "weight_decay": 0.02, "ns_steps": 4} | change
    runs = []
    for optimizer in (torch.optim.Muon, StackedMuon):
        generator = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
        made = optimizer(weights, **options)
        for _ in range(4):
            for weight in weights[:-1]:  # the last one never gets a gradient
                weight.grad = torch.randn(weight.shape, generator=generator)
            made.step()
        runs.append(weights)
    for theirs, ours in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=4 * 0.02 * 2**-6)  # bfloat16 has 8 bits, four steps


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_every_matrix_of_a_stack_comes_out_near_orthogonal_and_alone_as_in_company(shape):
    stack = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalize(stack, COEFFICIENTS, 5, 1e-7).float()
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.4 and values.median() > 0.6  # the polynomial leaves them spread around 1
    for index in range(4):
        alone = orthogonalize(stack[index : index + 1], COEFFICIENTS, 5, 1e-7).float()[0]
        torch.testing.assert_close(alone, found[index], rtol=0, atol=2**-5)
        u, _, v = torch.linalg.svd(stack[index], full_matrices=False)
        assert (u @ v * found[index]).sum() > 0.8 * min(shape)  # along the orthogonal factor of its own matrix
