"""The newest and the best steps stay, counted by definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.checkpoints.keeping import Ranking, superfluous

SCORES = st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(math.nan)), max_size=12)


@given(values=SCORES, mode=st.sampled_from(["min", "max"]), places=st.integers(1, 4))
def test_a_ranking_holds_the_first_of_all_steps_sorted_by_score_then_step(values, mode, places):
    ranking = Ranking("eval/x", mode, places)
    for step, value in enumerate(values, start=1):
        seen = [(v if mode == "min" else -v, s) for s, v in enumerate(values[:step], start=1) if not math.isnan(v)]
        expected = [s for _, s in sorted(seen)[:places]]
        assert ranking.offer(step, value) == (step in expected)
        assert sorted(ranking.scores) == sorted(expected)
        assert ranking.best == (expected[0] if expected else None)


@pytest.mark.parametrize(("places", "kept"), [(0, set()), (-1, {1, 2, 3})])
def test_no_place_ranks_nothing_and_minus_one_ranks_all(places, kept):
    ranking = Ranking("eval/x", "min", places)
    for step in (1, 2, 3):
        ranking.offer(step, float(step))
    assert ranking.scores.keys() == kept


def test_a_ranking_goes_on_from_its_state_unless_it_ranks_by_something_else():
    ranking = Ranking("eval/x", "min", 2, {3: 0.5, 9: 0.1})
    others = [Ranking("eval/x", "min", 2), Ranking("eval/x", "max", 2), Ranking("eval/y", "min", 2)]
    for other in others:
        other.restore(ranking.state())
    assert [other.scores for other in others] == [{3: 0.5, 9: 0.1}, {}, {}]
    others[0].forget({3, 4})
    assert others[0].best == 3 and ranking.best == 9


@given(
    steps=st.sets(st.integers(1, 20)),
    one=st.dictionaries(st.integers(1, 20), st.floats(0, 1), max_size=3),
    two=st.dictionaries(st.integers(1, 20), st.floats(0, 1), max_size=1),
    keep_last=st.integers(1, 5),
)
def test_what_goes_is_neither_new_nor_best_by_any_metric(steps, one, two, keep_last):
    rankings = [Ranking("a", "min", 3, one), Ranking("b", "max", 1, two)]
    going = superfluous(steps, rankings, keep_last)
    for step in steps:
        newer = sum(other > step for other in steps)
        assert (step in going) == (newer >= keep_last and step not in one and step not in two)
    assert superfluous(steps, [*rankings, Ranking("c", "min", -1)], keep_last) == set()
