"""Token accuracy, exact summaries and readable answers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcvl.metrics.counts import DetectionCounts, Rate
from qcvl.metrics.summary import summary_match, summary_metrics
from qcvl.metrics.tokens import token_counts
from qcvl.metrics.validity import validity_metrics


def test_token_accuracy_counts_label_tokens_only():
    guesses, labels = [5, 6, 7, 8, -100], [-100, 6, 0, 8, -100]

    assert token_counts(np.array(guesses), np.array(labels)) == Rate(2, 3)
    assert token_counts(torch.tensor(guesses), torch.tensor(labels)) == Rate(2, 3)


def test_guesses_and_labels_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        token_counts(np.zeros(3), np.zeros(2))


def test_pooled_token_accuracy_is_not_the_mean_of_batches():
    batches = [Rate(1, 1), Rate(0, 9)]

    assert sum(batches, Rate()).value == 1 / 10
    assert np.mean([batch.value for batch in batches]) == 1 / 2


def test_a_rate_of_nothing_has_no_value():
    assert Rate().value is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=5))
def test_f1_is_the_harmonic_mean_of_precision_and_recall(triples):
    counts = sum((DetectionCounts(*triple) for triple in triples), DetectionCounts())
    precision, recall = counts.precision, counts.recall

    harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert counts.f1 == pytest.approx(harmonic)


@pytest.mark.parametrize(
    ("predicted", "right"),
    [("螺丝×2", 1), (" 螺丝×2\n", 1), ("螺丝×2。", 0), ("螺丝 ×2", 0), ("", 0), (None, 0)],
)
def test_a_summary_is_right_only_when_it_is_the_true_one(predicted, right):
    assert summary_match("螺丝×2", predicted) == Rate(right, 1)


def test_summary_scores_are_absent_without_summaries():
    assert summary_metrics([]) == {}
    assert summary_metrics([("a", "a"), ("a", "b"), ("b", None)]) == {"summary_exact": 1 / 3}


def test_validity_shares_add_up_to_one_and_are_absent_without_answers():
    shares = validity_metrics(["strict", "strict", "repaired", "failed"])

    assert shares == {"json_valid": 0.5, "json_repaired": 0.25, "json_truncated": 0, "json_failed": 0.25}
    assert validity_metrics([]) == {}
