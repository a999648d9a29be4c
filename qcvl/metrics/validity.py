"""How many answers could be read, and how."""

from collections import Counter
from collections.abc import Iterable

KEYS = {"strict": "json_valid", "repaired": "json_repaired", "truncated": "json_truncated", "failed": "json_failed"}


def validity_metrics(statuses: Iterable[str]) -> dict[str, float]:
    """Shares of the answers by parse status, from ``"strict" | "repaired" | "truncated" | "failed"``.

    ``json_valid`` is the share that is valid JSON as it stands (strict); ``json_repaired``, ``json_truncated`` and
    ``json_failed`` are the others, so that the four add up to 1. Empty when there is no answer.
    """
    counts = Counter(statuses)
    total = counts.total()
    return {key: counts[status] / total for status, key in KEYS.items()} if total else {}
