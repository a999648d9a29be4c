"""What an epoch holds and in which order: laws of (seed, epoch, index)."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.sampling import choose_task, epoch_counts, expand_epoch, shuffled

seeds, epochs = st.integers(0, 2**32), st.integers(0, 1000)
sources = st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 4)), min_size=1, max_size=4)


@pytest.mark.parametrize("task", ["dense", "summary", "chat"])
def test_a_fixed_task_is_every_samples_task(task):
    assert {choose_task(task, 0.5, (0, 0, index)) for index in range(50)} == {task}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9, 1.0])
def test_mixed_sampling_is_dense_with_the_asked_probability(share):
    count = 4000
    dense = sum(choose_task("mixed", share, (1, 2, index)) == "dense" for index in range(count))
    assert abs(dense / count - share) <= 4 * (share * (1 - share) / count) ** 0.5  # four standard deviations


@given(seeds, epochs, st.integers(0, 10**6))
def test_a_task_depends_on_its_key_alone(seed, epoch, index):
    key = (seed, epoch, index)
    first = choose_task("mixed", 0.5, key)
    np.random.default_rng(0).random(3)
    choose_task("mixed", 0.5, (seed, epoch, index + 1))
    assert choose_task("mixed", 0.5, key) == first


def test_tasks_differ_between_seeds_epochs_and_indices():
    base = [choose_task("mixed", 0.5, (0, 0, index)) for index in range(64)]
    assert len(set(base)) == 2
    assert base != [choose_task("mixed", 0.5, (0, 1, index)) for index in range(64)]
    assert base != [choose_task("mixed", 0.5, (1, 0, index)) for index in range(64)]


@given(sources, seeds, epochs)
def test_an_epoch_shows_each_record_the_floor_or_the_ceiling_of_its_repeat(given_sources, seed, epoch):
    lengths, repeats = zip(*given_sources, strict=True)
    rows = expand_epoch(lengths, epoch_counts(lengths, repeats), seed, epoch)
    counts = Counter(map(tuple, rows.tolist()))
    for source, (length, repeat) in enumerate(given_sources):
        shown = [counts[source, record] for record in range(length)]
        assert set(shown) <= {int(repeat), int(repeat) + 1}
        assert sum(shown) == max(1, int(repeat) * length + round((repeat - int(repeat)) * length))
    assert set(rows[:, 0].tolist()) == set(range(len(lengths)))


@given(sources, seeds)
def test_every_epoch_has_the_same_length(given_sources, seed):
    lengths, repeats = zip(*given_sources, strict=True)
    assert len({len(expand_epoch(lengths, epoch_counts(lengths, repeats), seed, e)) for e in range(4)}) == 1


def test_the_part_a_fraction_shows_is_drawn_anew_each_epoch_and_covers_all_in_time():
    parts = [frozenset(expand_epoch([10], [3], 0, epoch)[:, 1].tolist()) for epoch in range(40)]
    assert all(len(part) == 3 for part in parts) and len(set(parts)) > 20
    assert frozenset().union(*parts) == set(range(10))
    assert parts == [frozenset(expand_epoch([10], [3], 0, epoch)[:, 1].tolist()) for epoch in range(40)]


def test_two_sources_of_equal_length_draw_different_parts():
    rows = expand_epoch([100, 100], [50, 50], 0, 0)
    first, second = (rows[rows[:, 0] == source, 1].tolist() for source in (0, 1))
    assert first != second


@given(st.integers(0, 200), seeds, epochs)
def test_a_shuffle_is_a_permutation_and_the_same_each_time(count, seed, epoch):
    order = shuffled(count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == shuffled(count, seed, epoch).tolist()


def test_shuffles_differ_between_epochs_and_seeds():
    orders = [tuple(shuffled(50, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16


def test_weights_share_an_epoch_out_exactly():
    assert epoch_counts([100, 10], [1, 1], [3, 1], 40) == [30, 10]
    assert epoch_counts([100, 10], [1, 1], [1, 1]) == [55, 55]  # as long as without weights, the small one oversampled
    assert epoch_counts([100, 10], [1, 2], None, 60) == [50, 10]  # shorter or longer in the sources' own proportion
    assert epoch_counts([5, 5, 5], [1, 1, 1], [1, 1, 1], 10) == [4, 3, 3]
    assert epoch_counts([100, 10], [1.5, 0.5]) == [150, 5]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=6), st.integers(1, 5000), seeds
)
def test_shares_are_whole_next_to_their_exact_value_and_sum_up(given_sources, total, seed):
    lengths, weights = zip(*given_sources, strict=True)
    counts = epoch_counts(lengths, [1] * len(lengths), weights, total)
    exact = [weight / sum(weights) * total for weight in weights]
    assert sum(counts) == total and all(abs(count - share) < 1 for count, share in zip(counts, exact, strict=True))
    rows = expand_epoch(lengths, counts, seed, 0)
    for source, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        shown = np.bincount(rows[rows[:, 0] == source, 1], minlength=length)
        assert shown.sum() == count and set(shown.tolist()) <= {count // length, count // length + 1}
