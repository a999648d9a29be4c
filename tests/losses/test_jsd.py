"""The divergence of two heads against its definition in float64, its laws, and gradients by autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from qcvl.losses import jsd
from qcvl.losses.jsd import Head, divergence, most_likely

BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def make_heads(seed: int, tokens: int = 7, vocabulary: int = 23) -> tuple[Head, Head]:
    """A student over 6 features and a teacher over 10, both float32 with a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def head(width: int) -> Head:
        shapes = (tokens, width), (vocabulary, width)
        return Head(*(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes))

    return head(6), head(10)


def logits(head: Head) -> torch.Tensor:
    """Float64 ``[N, V]``."""
    return head.hidden.double() @ head.weight.double().T


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of probabilities, by its definition."""
    return (p * (p / q).log()).sum(-1)


def by_definition(student: torch.Tensor, teacher: torch.Tensor, beta: float, temperature: float) -> torch.Tensor:
    """The divergence of each position, from logits."""
    p, q = (values.div(temperature).softmax(-1) for values in (student, teacher))
    if beta in (0.0, 1.0):
        return kl(q, p) if beta == 0 else kl(p, q)
    mixture = (1 - beta) * p + beta * q
    return beta * kl(q, mixture) + (1 - beta) * kl(p, mixture)


@given(st.integers(0, 9999), st.one_of(st.sampled_from(BETAS), st.floats(0.01, 0.99)), st.floats(0.5, 4))
def test_it_equals_the_definition_in_float64_and_so_do_the_gradients(seed, beta, temperature):
    student, teacher = make_heads(seed)
    expected = by_definition(logits(student), logits(teacher), beta, temperature).sum()
    wanted = torch.autograd.grad(expected, student)
    found = divergence(student, teacher, beta=beta, temperature=temperature, chunk=3)
    gradients = torch.autograd.grad(3 * found, student)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, 3 * reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beta", BETAS)
def test_equal_heads_have_no_divergence_and_no_gradient(beta):
    student, _ = make_heads(0)
    found = divergence(student, Head(*(part.detach() for part in student)), beta=beta, temperature=1.0, chunk=4)
    assert found.item() == pytest.approx(0, abs=1e-5)
    for gradient in torch.autograd.grad(found, student):
        assert gradient.abs().max() < 1e-5


@given(st.integers(0, 9999))
def test_the_ends_of_beta_are_the_two_divergences_of_kullback_and_leibler_and_not_its_limits(seed):
    student, teacher = make_heads(seed)
    p, q = (logits(head).softmax(-1) for head in (student, teacher))
    ends = [divergence(student, teacher, beta=beta, temperature=1.0, chunk=9).item() for beta in (0.0, 1.0)]
    assert ends == pytest.approx([kl(q, p).sum().item(), kl(p, q).sum().item()], rel=1e-5)
    near = [divergence(student, teacher, beta=beta, temperature=1.0, chunk=9).item() for beta in (1e-6, 1 - 1e-6)]
    assert max(near) < 0.01 * min(ends)


@given(st.integers(0, 9999))
def test_at_one_half_student_and_teacher_may_change_places(seed):
    student, teacher = make_heads(seed)
    there = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=9).item()
    assert divergence(teacher, student, beta=0.5, temperature=1.0, chunk=9).item() == pytest.approx(there, rel=1e-5)
    assert 0 <= there <= 7 * math.log(2)


@pytest.mark.parametrize("beta", BETAS)
def test_chunks_of_any_size_give_the_same_sum_and_gradients(beta):
    student, teacher = make_heads(1)
    results = []
    for chunk in (1, 2, 7, 100):
        found = divergence(student, teacher, beta=beta, temperature=0.7, chunk=chunk)
        results.append((found, *torch.autograd.grad(found, student)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_the_mean_of_an_answer_does_not_depend_on_its_length():
    student, teacher = make_heads(2)
    once = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=4) / 7
    tripled = [Head(head.hidden.repeat(3, 1), head.weight) for head in (student, teacher)]
    assert (divergence(*tripled, beta=0.5, temperature=1.0, chunk=4) / 21).item() == pytest.approx(once.item())


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_trls_formula_whose_mean_over_labels_sums_over_the_vocabulary(beta):
    """TRL's ``generalized_jsd_loss`` by its published formula: log-space mixture, ``kl_div``, sum / label count."""
    student, teacher = make_heads(3)
    s, t = (logits(head).div(0.9).log_softmax(-1) for head in (student, teacher))
    if beta == 0:
        losses = F.kl_div(s, t, reduction="none", log_target=True)
    elif beta == 1:
        losses = F.kl_div(t, s, reduction="none", log_target=True)
    else:
        weights = torch.tensor(beta, dtype=torch.float64)
        mixture = torch.logsumexp(torch.stack([s + torch.log1p(-weights), t + weights.log()]), dim=0)
        from_teacher, from_student = (F.kl_div(mixture, x, reduction="none", log_target=True) for x in (t, s))
        losses = beta * from_teacher + (1 - beta) * from_student
    expected = losses.sum() / len(s)
    found = divergence(student, teacher, beta=beta, temperature=0.9, chunk=5) / len(s)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_frozen_head_gets_no_gradient_and_nothing_is_kept_without_one(monkeypatch):
    student, teacher = make_heads(4)
    frozen = Head(student.hidden, student.weight.detach())
    found = divergence(frozen, teacher, beta=0.5, temperature=1.0, chunk=3)
    assert found.grad_fn.saved_tensors[1] is None
    (gradient,) = torch.autograd.grad(found, [student.hidden])
    torch.testing.assert_close(
        gradient, torch.autograd.grad(divergence(student, teacher, beta=0.5, temperature=1.0, chunk=3), student)[0]
    )
    with torch.no_grad():
        assert divergence(student, teacher, beta=0.5, temperature=1.0, chunk=3).grad_fn is None


def test_no_log_probabilities_of_more_than_a_chunk_exist_and_none_are_kept(monkeypatch):
    student, teacher = make_heads(5, tokens=64, vocabulary=50)
    widths = []
    original = jsd._log_probabilities

    def watch(values, temperature):
        widths.append(values.shape)
        return original(values, temperature)

    monkeypatch.setattr(jsd, "_log_probabilities", watch)
    found = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=8)
    assert set(widths) == {(8, 50)} and len(widths) == 16
    assert sum(kept.numel() for kept in found.grad_fn.saved_tensors) == 64 * 6 + 50 * 6


def test_no_token_is_no_divergence():
    student, teacher = make_heads(6, tokens=0)
    found = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=8)
    assert found.item() == 0
    assert [gradient.abs().sum().item() for gradient in torch.autograd.grad(found, student)] == [0, 0]


def test_under_autocast_it_is_near_what_it_is_in_float32():
    student, teacher = make_heads(7)
    full = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=3)
    with torch.autocast("cpu", torch.bfloat16):
        half = divergence(student, teacher, beta=0.5, temperature=1.0, chunk=3)
    assert half.item() == pytest.approx(full.item(), rel=0.05) and half.dtype == torch.float32
    for rough, exact in zip(torch.autograd.grad(half, student), torch.autograd.grad(full, student), strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_under_autocast_it_is_summed_in_float32(beta):
    student, teacher = (logits(head).detach() for head in make_heads(3, vocabulary=400))
    said = [jsd.distribution(one.clone(), None) for one in (student, teacher) for _ in range(2)]
    expected, _ = jsd.token_divergence(said[0], said[2], beta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = jsd.token_divergence(said[1], said[3], beta)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def top_by_definition(student: torch.Tensor, teacher: torch.Tensor, k: int, beta: float, temperature: float):
    """The divergence of each position over the teacher's ``k`` likeliest tokens and the sum of the rest."""
    p, q = (values.div(temperature).softmax(-1) for values in (student, teacher))
    order = q.argsort(descending=True)
    p, q = (
        torch.cat([x.gather(-1, order)[:, :k], x.gather(-1, order)[:, k:].sum(-1, keepdim=True)], -1) for x in (p, q)
    )
    return by_definition(p.log(), q.log(), beta, 1.0)


def top_divergence(student: Head, teacher: Head, k: int, beta: float, temperature: float = 1.0, chunk: int = 3):
    top = most_likely(teacher, k, temperature=temperature, chunk=chunk)
    return divergence(student, top, beta=beta, temperature=temperature, chunk=chunk)


@given(st.integers(0, 9999), st.integers(1, 22), st.sampled_from([*BETAS, 0.3]), st.floats(0.5, 4))
def test_of_a_few_tokens_it_equals_the_definition_in_float64_and_so_do_the_gradients(seed, k, beta, temperature):
    student, teacher = make_heads(seed)
    expected = top_by_definition(logits(student), logits(teacher), k, beta, temperature).sum()
    wanted = torch.autograd.grad(expected, student)
    found = top_divergence(student, teacher, k, beta, temperature)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    for gradient, reference in zip(torch.autograd.grad(3 * found, student), wanted, strict=True):
        torch.testing.assert_close(gradient, 3 * reference, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 9999), st.sampled_from(BETAS))
def test_of_a_few_tokens_it_grows_with_their_number_up_to_the_whole_one(seed, beta):
    student, teacher = make_heads(seed)
    values = [top_divergence(student, teacher, k, beta).item() for k in (1, 2, 5, 12, 22, 23, 1000)]
    whole = divergence(student, teacher, beta=beta, temperature=1.0, chunk=3).item()
    assert all(low <= high + 1e-4 for low, high in zip(values, values[1:], strict=False))
    assert values[4:] == pytest.approx([whole] * 3, rel=1e-4)
    assert 0 <= values[0] < whole


@given(st.integers(0, 9999), st.integers(1, 30), st.sampled_from(BETAS))
def test_equal_heads_have_none_of_a_few_tokens_either(seed, k, beta):
    student, _ = make_heads(seed)
    found = top_divergence(student, Head(*(part.detach() for part in student)), k, beta)
    assert found.item() == pytest.approx(0, abs=1e-4)
    assert max(gradient.abs().max().item() for gradient in torch.autograd.grad(found, student)) < 1e-4


def test_a_rest_that_is_hardly_possible_still_counts_exactly():
    teacher = Head(torch.tensor([[1.0]]), torch.tensor([[40.0], [0.0], [-1.0]]))
    student = Head(torch.tensor([[1.0]]), torch.tensor([[0.0], [20.0], [0.0]]))
    top = most_likely(teacher, 1, temperature=1.0, chunk=8)
    rest = math.log(1 + math.exp(-1)) - 40
    assert top.log_probabilities[0].tolist() == pytest.approx([-math.exp(rest), rest])
    found = divergence(student, top, beta=1.0, temperature=1.0, chunk=8)
    assert found.item() == pytest.approx(kl(*(logits(x).softmax(-1) for x in (student, teacher))).item(), rel=0.02)


def test_of_few_tokens_no_log_probabilities_of_more_than_a_chunk_exist_either(monkeypatch):
    student, teacher = make_heads(5, tokens=64, vocabulary=50)
    shapes, original = [], jsd._log_probabilities

    def watch(values, temperature):
        shapes.append(values.shape)
        return original(values, temperature)

    monkeypatch.setattr(jsd, "_log_probabilities", watch)
    top_divergence(student, teacher, 4, 0.5, chunk=8)
    assert set(shapes) == {(8, 50)} and len(shapes) == 16


def test_of_few_tokens_no_position_is_no_divergence():
    student, teacher = make_heads(6, tokens=0)
    assert top_divergence(student, teacher, 4, 0.5).item() == 0
