"""Exact match of one-line summaries."""

from collections.abc import Iterable

from qcvl.metrics.counts import Rate


def summary_match(truth: str, predicted: str | None) -> Rate:
    """1 of 1 when the answer is the true summary, white space around both aside; ``None`` (no answer) is wrong."""
    return Rate(int(predicted is not None and predicted.strip() == truth.strip()), 1)


def summary_metrics(pairs: Iterable[tuple[str, str | None]]) -> dict[str, float]:
    """``{"summary_exact": share}`` over ``(truth, predicted)`` pairs; empty when there is no pair."""
    value = sum((summary_match(truth, predicted) for truth, predicted in pairs), Rate()).value
    return {} if value is None else {"summary_exact": value}
