"""Batch plans: every sample once, equal work for every rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.packing import fixed_count
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
