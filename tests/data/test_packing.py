"""Batch plans: every sample once, equal work for every rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.packing import WIDTH, Plan, TokenBudget, fixed_count
from qcvl.errors import DataError

plans = st.tuples(st.integers(1, 60), st.integers(1, 5), st.integers(1, 6)).filter(lambda p: p[0] >= p[2])


@given(plans)
def test_every_sample_is_dealt_to_exactly_one_rank(plan):
    count, batch_size, ranks = plan
    dealt = fixed_count(list(range(count)), batch_size, ranks)
    assert sorted(index for step in dealt for batch in step for index in batch) == list(range(count))


@given(plans)
def test_every_rank_has_a_filled_batch_in_every_step(plan):
    count, batch_size, ranks = plan
    dealt = fixed_count(list(range(count)), batch_size, ranks)
    assert all(len(step) == ranks and all(step) for step in dealt)
    assert all(len(batch) == batch_size for step in dealt[:-2] for batch in step)
    assert max(len(batch) for step in dealt for batch in step) <= batch_size + 1


@given(plans)
def test_a_step_over_all_ranks_is_a_stretch_of_the_order(plan):
    count, batch_size, ranks = plan
    order = list(range(count))
    dealt = fixed_count(order, batch_size, ranks)
    assert [index for step in dealt for index in sorted(index for batch in step for index in batch)] == order


def test_seven_samples_for_two_ranks_of_batches_of_two():
    assert fixed_count([5, 3, 6, 1, 0, 2, 4], 2, 2) == [[[5, 6], [3, 1]], [[0, 4], [2]]]


def test_a_tail_smaller_than_the_ranks_joins_the_step_before_it():
    assert fixed_count(list(range(9)), 2, 2) == [[[0, 2], [1, 3]], [[4, 6, 8], [5, 7]]]
    assert fixed_count(list(range(5)), 2, 2) == [[[0, 2, 4], [1, 3]]]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_samples_than_ranks_are_refused(count):
    with pytest.raises(DataError, match=f"an epoch of {count} samples cannot feed 3 ranks"):
        fixed_count(list(range(count)), 4, 3)


lengths = st.lists(st.integers(1, 300), min_size=1, max_size=80)


def planned(sizes, budget: int, ranks: int, seed: int = 0, bounds=None) -> Plan:
    """One epoch of samples of these lengths; ``bounds`` where an epoch may have longer ones."""
    rng = np.random.default_rng(seed)
    budgets = TokenBudget(np.sort(np.asarray(sizes if bounds is None else bounds))[::-1], budget, ranks)
    return budgets(np.asarray(sizes), rng.permutation(len(sizes)), rng)


@given(lengths, st.integers(50, 1000), st.integers(1, 4), st.integers(0, 9))
def test_a_token_budget_deals_every_sample_once_and_fills_every_rank_in_every_step(sizes, budget, ranks, seed):
    if len(sizes) < ranks:
        with pytest.raises(DataError, match=f"an epoch of {len(sizes)} samples cannot feed {ranks} ranks"):
            planned(sizes, budget, ranks)
        return
    plan = planned(sizes, budget, ranks, seed)
    assert sorted(index for step in plan for batch in step for index in batch) == list(range(len(sizes)))
    assert all(len(step) == ranks and all(step) for step in plan)


@given(lengths.filter(lambda sizes: len(sizes) >= 4), st.integers(320, 1000), st.integers(1, 2), st.integers(0, 9))
def test_a_batch_of_several_samples_stays_within_the_token_budget(sizes, budget, ranks, seed):
    batches = [batch for step in planned(sizes, budget, ranks, seed) for batch in step]
    over = [batch for batch in batches if len(batch) > 1 and sum(sizes[index] for index in batch) > budget]
    assert len(over) < ranks  # a tail smaller than the ranks joins the step before it where that has none to spare


@given(lengths, lengths, st.integers(320, 1000), st.integers(0, 9))
def test_an_epoch_of_shorter_samples_has_as_many_steps_and_stays_within_the_budget(sizes, others, budget, seed):
    count = min(len(sizes), len(others))
    bounds, shorter = sizes[:count], np.minimum(sizes[:count], others[:count])
    plan = planned(shorter, budget, 1, seed, bounds=bounds)
    assert len(plan) == len(planned(bounds, budget, 1))
    assert all(len(batch) == 1 or sum(shorter[index] for index in batch) <= budget for step in plan for batch in step)


def skewed(count: int = 4000) -> np.ndarray:
    """Lengths as photos of several sizes with few or many objects have them: a median of 700 and a long tail."""
    drawn = np.random.default_rng(0).lognormal(6.5, 0.6, count)
    return np.minimum(drawn.astype(int) + 50, 4096)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_wait_for_each_other_less_than_with_a_fixed_count(ranks):
    sizes = skewed()

    def waiting(plan: Plan) -> float:
        """By how much the longest batch of a step exceeds the mean of its ranks."""
        loads = np.array([[sizes[batch].sum() for batch in step] for step in plan])
        return float((loads.max(axis=1) / loads.mean(axis=1)).mean() - 1)

    counted = fixed_count(np.random.default_rng(1).permutation(len(sizes)).tolist(), 8, ranks)
    assert waiting(planned(sizes, 8192, ranks)) < 0.015 and waiting(counted) > 0.1  # .003 to .009; .12 to .34


def test_a_token_budget_is_nearly_filled_with_samples_of_about_one_length():
    sizes = skewed()
    batches = [sizes[batch] for step in planned(sizes, 8192, 4) for batch in step]
    assert np.mean([batch.sum() for batch in batches]) > 0.85 * 8192
    spread = np.mean([batch.max() / batch.min() for batch in batches])
    assert spread < WIDTH**3 < np.mean([sizes[i : i + 8].max() / sizes[i : i + 8].min() for i in range(0, 4000, 8)])


def test_each_epoch_mixes_samples_of_about_one_length_anew_and_their_steps():
    sizes = skewed(1000)
    first, second = planned(sizes, 8192, 2, seed=1), planned(sizes, 8192, 2, seed=2)
    assert first == planned(sizes, 8192, 2, seed=1)
    as_sets = [{frozenset(batch) for step in plan for batch in step} for plan in (first, second)]
    assert len(as_sets[0] & as_sets[1]) < 0.5 * len(as_sets[0])
    means = [np.mean([sizes[index] for batch in step for index in batch]) for step in first]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # not from long to short


def test_samples_of_one_length_fill_a_budget_by_hand():
    plan = planned([100] * 10, 300, 2)  # 100 counts as 104: two fit, a third would make 312
    assert sorted(len(batch) for step in plan for batch in step) == [1, 1, 2, 2, 2, 2]
    assert len(planned([100] * 10, 312, 2)) == 2
    assert [len(batch) for step in planned([500, 100, 100], 300, 1) for batch in step].count(1) == 1
