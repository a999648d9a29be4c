"""The chunked head loss equals the plain one, and never holds the whole logits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from qcvl.losses.cross_entropy import block_rows, label_cross_entropy

HIDDEN, VOCABULARY = 8, 33


def inputs(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (tokens,), generator=generator)


@settings(deadline=None)  # results are judged, not speed
@given(tokens=st.integers(1, 40), chunk=st.integers(1, 50), seed=st.integers(0, 5))
def test_value_gradients_and_correct_count_equal_the_plain_cross_entropy(tokens, chunk, seed):
    hidden, weight, targets = inputs(tokens, seed)
    losses, correct = label_cross_entropy(hidden, weight, targets, chunk)
    shares = torch.arange(1.0, tokens + 1) / tokens  # another weight for each token: none can take another's place
    gradients = torch.autograd.grad(losses @ shares, (hidden, weight))
    logits = hidden @ weight.T
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    for mine, plain in zip(gradients, torch.autograd.grad(expected @ shares, (hidden, weight)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
    assert correct == (logits.argmax(1) == targets).sum()


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_no_tensor_of_all_tokens_by_vocabulary_is_made_or_kept(chunk):
    hidden, weight, targets = inputs(48)
    kept, made = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made.extend(t.shape for t in (out if isinstance(out, tuple) else (out,)) if isinstance(t, torch.Tensor))
            return out

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        losses, _ = label_cross_entropy(hidden, weight, targets, chunk)
        kept_for_backward = list(kept)
    with Watch():
        losses.sum().backward()
        label_cross_entropy(hidden, weight, targets, chunk)
    transposed_weight = (HIDDEN, VOCABULARY)
    logits = [shape[0] for shape in made if len(shape) == 2 and shape[1] == VOCABULARY and shape != transposed_weight]
    assert max(logits) == chunk
    assert not [shape for shape in kept_for_backward if len(shape) == 2 and shape[1] == VOCABULARY]


def test_bfloat16_states_give_a_float32_loss_of_their_rounded_logits():
    hidden, weight, targets = inputs(20, dtype=torch.bfloat16)
    losses, _ = label_cross_entropy(hidden, weight, targets, 6)
    expected = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


def test_no_labels_give_no_losses_with_a_graph():
    hidden, weight, targets = inputs(0)
    losses, correct = label_cross_entropy(hidden, weight, targets, 4)
    losses.sum().backward()
    assert (losses.shape, correct.item()) == ((0,), 0)
    assert weight.grad.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_worked_on_in_blocks_and_give_the_plain_gradients(monkeypatch, dtype):
    monkeypatch.setattr("qcvl.losses.cross_entropy.CPU_BLOCK", 3 * 4 * VOCABULARY + 2)
    hidden, weight, targets = inputs(10, dtype=dtype)
    assert block_rows(F.linear(hidden, weight)) == 3
    shares = torch.arange(10.0) - 4
    losses, _ = label_cross_entropy(hidden, weight, targets, 10)
    mine = torch.autograd.grad(losses @ shares, (hidden, weight))
    plain = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none") @ shares
    tolerance = 1e-5 if dtype == torch.float32 else 0.05  # of bfloat16 gradients that are rounded twice
    for gradient, expected in zip(mine, torch.autograd.grad(plain, (hidden, weight)), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


def test_the_backward_pass_makes_no_second_tensor_as_large_as_the_logits(monkeypatch):
    monkeypatch.setattr("qcvl.losses.cross_entropy.CPU_BLOCK", 4 * 4 * VOCABULARY)
    hidden, weight, targets = inputs(48)
    losses, _ = label_cross_entropy(hidden, weight, targets, 48)
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                made.append((out.numel(), out.untyped_storage().data_ptr()))
            return out

    with Watch():
        losses.sum().backward()
    large = {storage for size, storage in made if size >= 48 * VOCABULARY}
    assert len(large) <= 1  # the logits' own


def test_a_second_backward_pass_is_refused_since_the_logits_are_gone():
    hidden, weight, targets = inputs(5)
    losses, _ = label_cross_entropy(hidden, weight, targets, 5)
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()
