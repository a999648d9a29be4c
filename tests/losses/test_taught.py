"""Both losses in one pass are the two taken apart, and so are their gradients, whatever was foretold of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.losses import taught
from qcvl.losses.cross_entropy import label_cross_entropy
from qcvl.losses.jsd import Head, Top, divergence, most_likely
from qcvl.losses.taught import Formula, Taught, taught_losses

WORDS = 23


def heads(seed: int, tokens: int) -> tuple[Head, Head]:
    """A student over 6 features, with a gradient, and a teacher over 10; both are sure of some tokens."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        Head(*(2 * torch.randn(shape, generator=generator) for shape in ((tokens, width), (WORDS, width))))
        for width in (6, 10)
    )
    return Head(*(part.requires_grad_() for part in student)), teacher


def targets_and_shares(seed: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randint(WORDS, (tokens,), generator=generator), 2 * torch.rand(tokens, generator=generator)


def apart(student: Head, targets: torch.Tensor, teacher: Head | Top, formula: Formula) -> Taught:
    losses, correct = label_cross_entropy(*student, targets, formula.chunk)
    beta, temperature, chunk = formula
    return Taught(losses, divergence(student, teacher, beta=beta, temperature=temperature, chunk=chunk), correct)


def assert_same(found: Taught, expected: Taught, student: Head, shares: torch.Tensor, scale: float) -> None:
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-5, atol=1e-5)
    assert found.hits.sum() == expected.hits
    for one, other in zip(
        *(
            torch.autograd.grad(scale * (shares @ sums.cross_entropies + sums.divergence), student)
            for sums in (found, expected)
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-4)  # of gradients up to 10


@settings(deadline=None)
@given(
    seed=st.integers(0, 9999),
    tokens=st.integers(1, 9),
    k=st.one_of(st.none(), st.integers(1, WORDS - 1)),
    beta=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    temperature=st.sampled_from([1.0, 0.7, 2.0]),
    foretold=st.booleans(),
)
def test_losses_and_gradients_are_those_of_the_two_taken_apart(seed, tokens, k, beta, temperature, foretold):
    student, teacher = heads(seed, tokens)
    targets, shares = targets_and_shares(seed, tokens)
    said = teacher if k is None else most_likely(teacher, k, temperature=temperature, chunk=4)
    formula = Formula(beta, temperature, 4)
    found = taught_losses(student, targets, said, formula, shares if foretold else shares + 0.1)
    assert_same(found, apart(student, targets, said, formula), student, shares, 3.0)


@pytest.fixture
def passes(monkeypatch):
    """How often gradients were taken anew."""
    calls, original = [], taught._apart
    monkeypatch.setattr(taught, "_apart", lambda *parts: calls.append(1) or original(*parts))
    return calls


def test_weights_that_were_foretold_cost_no_further_pass_and_others_do(passes):
    student, teacher = heads(0, 5)
    targets, shares = targets_and_shares(0, 5)
    for foretold in (shares, shares * 1.01):
        found = taught_losses(student, targets, teacher, Formula(0.5, 1.0, 4), foretold)
        (0.3 * (shares @ found.cross_entropies) + 0.3 * found.divergence).backward()
    assert len(passes) == 1


@pytest.mark.parametrize("name", ["cross_entropies", "divergence"])
def test_each_loss_alone_has_its_own_gradient(passes, name):
    student, teacher = heads(1, 5)
    targets, shares = targets_and_shares(1, 5)
    formula = Formula(0.5, 1.0, 4)
    both = [taught_losses(student, targets, teacher, formula, shares), apart(student, targets, teacher, formula)]
    gradients = [torch.autograd.grad(getattr(sums, name).sum(), student) for sums in both]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert passes


def test_rows_are_worked_on_a_few_at_a_time_with_the_same_result(monkeypatch):
    monkeypatch.setattr(taught, "ROWS", 3)
    student, teacher = heads(2, 20)
    targets, shares = targets_and_shares(2, 20)
    for said in (teacher, most_likely(teacher, 4, temperature=1.0, chunk=8)):
        formula = Formula(0.5, 1.0, 8)
        found = taught_losses(student, targets, said, formula, shares)
        assert_same(found, apart(student, targets, said, formula), student, shares, 1.0)


def test_a_frozen_head_and_no_gradient_at_all_keep_nothing_for_one():
    student, teacher = heads(3, 5)
    targets, shares = targets_and_shares(3, 5)
    formula = Formula(0.5, 1.0, 4)
    frozen = Head(student.hidden, student.weight.detach())
    found = taught_losses(frozen, targets, teacher, formula, shares)
    assert_same(found, apart(frozen, targets, teacher, formula), Head(student.hidden, student.hidden), shares, 1.0)
    with torch.no_grad():
        assert taught_losses(student, targets, teacher, formula, shares).divergence.grad_fn is None


def test_no_label_gives_no_loss_with_a_graph():
    student, teacher = heads(4, 0)
    found = taught_losses(student, torch.zeros(0, dtype=torch.int64), teacher, Formula(0.5, 1.0, 4), torch.zeros(0))
    assert (found.cross_entropies.shape, found.divergence.item()) == ((0,), 0)
    (found.cross_entropies.sum() + found.divergence).backward()
    assert student.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("few", [False, True])
def test_half_precision_is_near_what_it_is_in_float32(few):
    student, teacher = heads(5, 6)
    targets, shares = targets_and_shares(5, 6)
    said = most_likely(teacher, 4, temperature=1.0, chunk=8) if few else teacher
    exact = taught_losses(student, targets, said, Formula(0.5, 1.0, 4), shares)
    with torch.autocast("cpu", torch.bfloat16):
        rough = taught_losses(student, targets, said, Formula(0.5, 1.0, 4), shares)
    torch.testing.assert_close(rough.cross_entropies, exact.cross_entropies, rtol=0.05, atol=0.1)
    wanted, found = (
        torch.autograd.grad(shares @ sums.cross_entropies + sums.divergence, student) for sums in (exact, rough)
    )
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


def test_tokens_that_are_hardly_possible_give_finite_losses_and_gradients():
    student = Head(torch.ones(1, 1), torch.tensor([[400.0], [0.0], [-300.0]]).requires_grad_())
    teacher = Head(torch.ones(1, 1), torch.tensor([[-300.0], [0.0], [400.0]]))
    for said in (teacher, most_likely(teacher, 1, temperature=1.0, chunk=8)):
        for beta in (0.0, 0.1, 1.0):
            found = taught_losses(student, torch.tensor([1]), said, Formula(beta, 1.0, 4), torch.ones(1))
            assert found.cross_entropies.item() == pytest.approx(400)
            (gradient,) = torch.autograd.grad(found.cross_entropies.sum() + found.divergence, [student.weight])
            assert gradient.isfinite().all() and found.divergence.isfinite()


def test_no_more_logits_exist_than_those_of_a_chunk_and_none_are_kept(monkeypatch):
    shapes, original = [], torch.nn.functional.linear
    monkeypatch.setattr(taught.F, "linear", lambda *parts: shapes.append((o := original(*parts)).shape) or o)
    student, teacher = heads(6, 20)
    targets, shares = targets_and_shares(6, 20)
    found = taught_losses(student, targets, teacher, Formula(0.5, 1.0, 8), shares)
    assert set(shapes) == {(8, WORDS), (4, WORDS)} and len(shapes) == 6
    assert not [kept for kept in found.divergence.grad_fn.saved_tensors if kept.shape == (20, WORDS)]
