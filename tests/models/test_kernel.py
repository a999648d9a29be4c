"""torch's variable-length kernel is called as its documentation says, and only where it can be."""

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from qcvl.models import kernel
from qcvl.models.attention import segment_attention
from qcvl.models.kernel import fits_kernel, has_kernel, kernel_attention
from qcvl.models.speed import resolve_attention

LENGTHS = (5, 9, 1, 5)


@pytest.fixture(autouse=True)
def forget():
    has_kernel.cache_clear()
    yield
    has_kernel.cache_clear()


def documented(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The kernel by its documentation, one sample at a time: rows ``[T, H, D]`` and int32 edges."""
    assert cu_seq_q.dtype == torch.int32 and cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query)
    assert max_q == max_k == int(cu_seq_q.diff().max()) and (cu_seq_q == cu_seq_k).all()
    assert enable_gqa or query.shape[1] == key.shape[1]
    causal = {(-1, 0): True, (-1, -1): False}[window_size]
    outputs = []
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


def rows(heads, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(1, heads, sum(LENGTHS), 16, generator=generator).to(device, dtype)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shared", [2, 4])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_one_call_of_the_kernel_is_the_attention_of_every_segment(monkeypatch, causal, shared, scaling):
    monkeypatch.setattr(kernel, "import_module", lambda name: SimpleNamespace(varlen_attn=documented))
    query, key, value = rows(4), rows(shared), rows(shared) + 1
    found = kernel_attention(query, key, value, LENGTHS, causal=causal, scaling=scaling)
    expected = segment_attention(query, key, value, LENGTHS, causal=causal, scaling=scaling, dropout=0.0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("causal", [True, False])
def test_on_a_gpu_the_kernel_and_its_gradient_are_those_of_sdpa_in_float32(causal):
    found, exact = [], []
    for dtype, results in ((torch.bfloat16, found), (torch.float32, exact)):
        inputs = [rows(heads, "cuda", dtype).requires_grad_() for heads in (4, 2, 2)]
        assert fits_kernel(inputs[0], 0.0) == (dtype == torch.bfloat16 and has_kernel())
        out = segment_attention(*inputs, LENGTHS, causal=causal, scaling=None, dropout=0.0)
        results += [out, *torch.autograd.grad(out.float().square().sum(), inputs)]
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=3e-2, atol=3e-2 * theirs.abs().max().item())


def gpu(monkeypatch, capability=(9, 0), signature=documented):
    """As if there were a GPU and a torch with that kernel."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(kernel, "import_module", lambda name: SimpleNamespace(varlen_attn=signature))


def fake(dtype=torch.bfloat16, width=128):
    return SimpleNamespace(shape=(1, 4, 9, width), is_cuda=True, dtype=dtype)


def test_the_kernel_takes_half_precision_without_dropout_on_gpus_that_have_it(monkeypatch):
    gpu(monkeypatch)
    assert fits_kernel(fake(), 0.0) and fits_kernel(fake(torch.float16, 72), 0.0)
    assert not fits_kernel(fake(torch.float32), 0.0) and not fits_kernel(fake(), 0.1)
    assert not fits_kernel(fake(width=100), 0.0) and not fits_kernel(fake(width=264), 0.0)
    assert not fits_kernel(rows(4, dtype=torch.bfloat16), 0.0)  # on the CPU


@pytest.mark.parametrize(
    "change",
    [{"capability": (7, 5)}, {"signature": lambda query, key, value, is_causal: None}],
    ids=["old GPU", "torch"],
)
def test_a_gpu_or_torch_without_the_kernel_stays_with_sdpa(monkeypatch, change):
    gpu(monkeypatch, **change)
    assert not has_kernel() and not fits_kernel(fake(), 0.0)


def test_this_torch_has_all_that_is_asked_of_its_kernel(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    major, minor = map(int, torch.__version__.split(".")[:2])
    assert has_kernel() or (major, minor) < (2, 13)


@pytest.mark.parametrize(
    ("there", "name", "said"),
    [
        (("flash_attn", "torch.nn.attention.varlen"), "flash_attention_2", "flash-attn is installed"),
        (("torch.nn.attention.varlen",), "qcvl_varlen", "torch.nn.attention.varlen in half precision"),
        ((), "qcvl_varlen", "SDPA per packed sample"),
    ],
)
def test_auto_takes_the_first_that_is_there_and_says_which(monkeypatch, caplog, there, name, said):
    gpu(monkeypatch)
    monkeypatch.setattr("qcvl.models.kernel.find_spec", lambda wanted: wanted if wanted in there else None)
    monkeypatch.setattr("qcvl.models.speed.is_flash_attn_2_available", lambda: "flash_attn" in there)
    with caplog.at_level(logging.INFO):
        assert resolve_attention("auto", torch.bfloat16) == name
    assert said in caplog.text
    assert resolve_attention("auto", torch.float32) == "qcvl_varlen"  # flash-attn takes half precision alone
