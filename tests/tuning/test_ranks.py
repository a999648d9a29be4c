"""AdaLoRA's course: the budget falls as the paper's cubic, importances survive a resume, the penalty is the paper's."""

import copy

import pytest
import torch

from qcvl.errors import ConfigError
from qcvl.tuning.settings import PeftTuner
from tests.conftest import choice

STEPS, FIRST, LAST, MODULES = 20, 4, 6, 14  # warmup_ratio .2, final_ratio .3; the llm's linears
START, END = 6, 4


def adalora(**schedule: object) -> PeftTuner:
    values = choice("tuner/adalora.yaml") | {"rank": END, "alpha": 8}
    course = {"initial_rank": START, "warmup_ratio": 0.2, "final_ratio": 0.3, "every_steps": 1} | schedule
    return PeftTuner(**values | {"rank_schedule": values["rank_schedule"] | course})


def ranks(model) -> dict[str, int]:
    return {n: int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n}


@pytest.fixture
def run(make_model):
    """``run(tuner, first, last)``: steps along random gradients, the course's after each; also the ranks."""

    def descend(tuner, first=1, last=STEPS, tuned=None, course=None):
        tuned = tuned or tuner.setup(make_model(), ["llm"])
        course = course or tuner.rank_course(tuned, STEPS)
        seen = []
        for step in range(first, last + 1):
            generator = torch.Generator().manual_seed(step)
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                    parameter.data -= 0.01 * parameter.grad
            course.after_step(step)
            seen.append(ranks(tuned))
        return tuned, course, seen

    return descend


def test_the_budget_stays_then_falls_along_a_cubic_then_stays(run):
    _, _, seen = run(adalora())
    totals = [sum(found.values()) for found in seen]
    assert set(totals[:FIRST]) == {START * MODULES}
    # The share of the way that is left, cubed: https://openreview.net/pdf?id=lq62uWRJjiY, equation 12. Several
    # triplets may share the score at the threshold; then all of them go.
    falling = range(FIRST + 1, STEPS - LAST + 1)
    left = [1 - (step - FIRST) / (STEPS - LAST - FIRST) for step in falling]
    expected = [int(END * MODULES + (START - END) * MODULES * share**3) for share in left]
    assert totals[FIRST : STEPS - LAST] == pytest.approx(expected, abs=1)
    assert set(totals[STEPS - LAST :]) == {END * MODULES}
    assert len(set(seen[-1].values())) > 1  # dealt where they matter, not evenly
    assert all(found == seen[-1] for found in seen[STEPS - LAST :])


def test_ranks_are_dealt_every_so_many_steps(run):
    totals = [sum(found.values()) for found in run(adalora(every_steps=4))[2]]
    # A singular value set to 0 moves again with the next gradient, so between two allotments all of them live.
    assert [step for step, total in enumerate(totals, 1) if total < START * MODULES] == [8, 12, 14, *range(15, 21)]


def test_a_run_too_short_to_shrink_in_is_refused(make_model):
    tuner = adalora(warmup_ratio=0.5, final_ratio=0.5)
    with pytest.raises(ConfigError, match=r"of 2 steps 1 keep the initial rank and 1 the final one.*train longer"):
        tuner.rank_course(tuner.setup(make_model(), ["llm"]), 2)


@pytest.mark.parametrize("cut", [2, 9, 15])
def test_a_course_that_goes_on_from_its_state_deals_the_same_ranks(run, make_model, cut):
    tuner = adalora()
    whole, _, seen = run(tuner)
    half, course, _ = run(tuner, last=cut)
    state = copy.deepcopy(course.state_dict())
    again = tuner.setup(make_model(), ["llm"])
    again.load_state_dict(half.state_dict())
    resumed = tuner.rank_course(again, STEPS)
    resumed.load_state_dict(state)
    _, _, rest = run(tuner, first=cut + 1, tuned=again, course=resumed)
    assert rest == seen[cut:]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_the_penalty_is_the_gradient_that_peft_adds_to_its_loss(make_model):
    ids = torch.tensor([[1, 2, 3]])

    def gradients(tuned) -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None}
        tuned.zero_grad()
        return found

    theirs, ours = {}, {}
    for weight in (0.5, 0.0):
        tuner = adalora(orthogonality=weight)
        tuned = tuner.setup(make_model(), ["llm"])
        for parameter in tuned.parameters():
            parameter.data += 0.1 * parameter.requires_grad
        course = tuner.rank_course(tuned, STEPS)
        tuned.base_model(input_ids=ids, labels=ids).loss.backward()  # AdaLoraModel's forward, which qcvl never calls
        theirs[weight] = gradients(tuned)
        course.add_penalty()
        ours[weight] = gradients(tuned)
    assert ours[0.0] == {}
    assert {name.split(".")[-2] for name in ours[0.5]} == {"lora_A", "lora_B"}
    for name, gradient in theirs[0.5].items():
        expected = ours[0.5].get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient - theirs[0.0][name], expected, rtol=1e-4, atol=1e-6)
