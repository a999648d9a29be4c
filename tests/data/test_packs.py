"""Packs: every sample once, within a row, equally many in every epoch, and of about one cost side by side."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.packs import FITS, Packing, Packs, best_fit, first_fit
from qcvl.errors import DataError

lengths = st.lists(st.integers(1, 40), max_size=60)
fits = st.sampled_from(list(FITS))


def totals(packs, sizes) -> list[int]:
    return [sum(sizes[sample] for sample in pack) for pack in packs]


@given(lengths, st.integers(1, 40), fits, st.randoms())
def test_packs_fit_and_hold_every_sample_once(sizes, capacity, fit, random):
    order = random.sample(range(len(sizes)), len(sizes))
    packs = FITS[fit](sizes, capacity, order)
    assert sorted(sample for pack in packs for sample in pack) == list(range(len(sizes)))
    loads = totals(packs, sizes)
    assert all(total <= capacity or len(pack) == 1 for total, pack in zip(loads, packs, strict=True))
    smallest = sorted(loads)[:2]
    assert len(packs) < 2 or sum(smallest) > capacity  # no two would fit together


@given(st.lists(st.integers(1, 40), max_size=8), st.integers(1, 80), st.randoms())
def test_a_best_fit_is_the_fullest_pack_around_the_longest_sample_left(sizes, capacity, random):
    left = set(range(len(sizes)))
    for pack in best_fit(sizes, capacity, random.sample(range(len(sizes)), len(sizes))):
        longest = max(sizes[sample] for sample in left)
        assert sizes[pack[0]] == longest
        others = [sizes[sample] for sample in left - {pack[0]}]
        sums = [longest + sum(some) for count in range(len(others) + 1) for some in combinations(others, count)]
        within = [total for total in sums if total <= capacity]
        assert totals([pack], sizes)[0] == max(within, default=longest)
        left -= set(pack)


@given(lengths, st.integers(1, 40), st.randoms())
def test_a_first_fit_is_that_of_looking_at_each_pack_in_turn(sizes, capacity, random):
    order = random.sample(range(len(sizes)), len(sizes))
    packs: list[list[int]] = []
    for sample in order:
        roomy = [pack for pack in packs if sum(sizes[one] for one in pack) + sizes[sample] <= capacity]
        if not roomy:
            packs.append(roomy_new := [])
            roomy = [roomy_new]
        roomy[0].append(sample)
    assert first_fit(sizes, capacity, order) == packs


def test_packs_whose_best_is_known():
    assert best_fit([], 10, []) == first_fit([], 10, []) == []
    assert best_fit([6, 4, 7, 3, 5, 5], 10, range(6)) == [[2, 3], [0, 1], [4, 5]]
    assert best_fit([11, 2, 8], 10, range(3)) == [[0], [2, 1]]
    assert first_fit([6, 4, 7, 3, 5, 5], 10, range(6)) == [[0, 1], [2, 3], [4, 5]]
    assert first_fit([5, 8, 4, 2, 11], 10, range(5)) == [[0, 2], [1, 3], [4]]


def test_a_pack_of_more_samples_than_are_looked_at_once_is_filled_to_the_last_token():
    sizes = [1000, *[3] * 1000]
    packs = best_fit(sizes, 2000, range(len(sizes)))
    assert totals(packs, sizes) == [1999, 1998, 3]


def planned(sizes, packing, ranks, seed=0, bounds=None, costs=None):
    """One epoch of samples of these lengths; ``bounds`` where an epoch may have longer ones."""
    rng, sizes = np.random.default_rng(seed), np.asarray(sizes)
    longest = np.sort(sizes if bounds is None else np.asarray(bounds))[::-1]
    costs = sizes if costs is None else costs
    return Packs(longest, packing, ranks)(sizes, costs, rng.permutation(len(sizes)), rng)


some = st.lists(st.integers(1, 300), min_size=1, max_size=80)


@given(some, some, st.integers(50, 1000), fits, st.integers(1, 4), st.integers(0, 9))
def test_every_epoch_has_as_many_packs_for_each_rank_and_every_sample_once(sizes, other, capacity, fit, ranks, seed):
    count, packing = min(len(sizes), len(other)), Packing(fit, capacity)
    bounds, shorter = sizes[:count], np.minimum(sizes[:count], other[:count])
    if count < ranks:
        with pytest.raises(DataError, match=f"an epoch of {count} samples cannot feed {ranks} ranks"):
            planned(bounds, packing, ranks)
        return
    plan = planned(shorter, packing, ranks, seed, bounds=bounds)
    assert sorted(sample for step in plan for pack in step for sample in pack) == list(range(count))
    assert all(len(step) == ranks and all(step) for step in plan)
    assert len(plan) == len(planned(bounds, packing, ranks))
    over = [pack for step in plan for pack in step if len(pack) > 1 and shorter[pack].sum() > capacity]
    assert len(over) < ranks  # only where there are no samples to go round


@given(some, st.integers(320, 1000), fits, st.integers(0, 9))
def test_where_samples_go_round_no_pack_of_several_is_above_the_capacity(sizes, capacity, fit, seed):
    plan = planned(sizes, Packing(fit, capacity), 1, seed)
    assert all(len(pack) == 1 or sum(sizes[sample] for sample in pack) <= capacity for (pack,) in plan)


def test_one_sample_too_few_to_go_round_joins_the_shortest():
    assert planned([300, 250, 200], Packing("best_fit", 300), 2) in ([[[0], [1, 2]]], [[[1, 2], [0]]])


@pytest.mark.parametrize("fit", FITS)
def test_packs_are_made_anew_each_epoch_and_are_a_function_of_the_seed(fit):
    sizes = np.random.default_rng(0).integers(50, 1500, 600)
    first, again, other = (planned(sizes, Packing(fit, 4096), 2, seed) for seed in (1, 1, 2))
    assert first == again
    packs = [{frozenset(pack) for step in plan for pack in step} for plan in (first, other)]
    assert len(packs[0] & packs[1]) < 0.1 * len(packs[0])
    loads = [sizes[step[0]].sum() for step in first]
    assert len(first) == len(other) and abs(np.corrcoef(loads, range(len(loads)))[0, 1]) < 0.3


def test_an_epoch_that_packs_worse_than_any_tried_falls_back_to_places_by_length(monkeypatch):
    sizes = [7, 6, 5, 5, 4, 3]
    packs = Packs(np.array(sizes), Packing("best_fit", 10), 1)
    assert packs.count == 3
    monkeypatch.setitem(FITS, "best_fit", lambda lengths, capacity, order: [[one] for one in order])
    plan = packs(np.array([3, 7, 5, 6, 5, 4]), np.ones(6), np.arange(6), np.random.default_rng(0))
    assert sorted(pack for (pack,) in plan) == [[0, 1], [2, 4], [3, 5]]


def test_packs_side_by_side_are_those_of_about_one_cost():
    costs = np.array([9.0, 1, 8, 2])
    plan = planned([10, 10, 10, 10], Packing("best_fit", 10), 2, costs=costs)
    assert sorted(sorted(pack for (pack,) in step) for step in plan) == [[0, 2], [1, 3]]
