"""Which step folders stay: the newest, and the best by each of several metrics. Arithmetic on step numbers alone."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import TypedDict

Mode = Literal["min", "max"]


class Best(TypedDict):
    """A metric of which the best step has a link of its own."""

    monitor: str
    mode: Mode


@dataclass
class Ranking:
    """The best ``places`` steps by one metric: -1 for all of them, 0 for none."""

    monitor: str
    mode: Mode
    places: int
    scores: dict[int, float] = field(default_factory=dict)

    def offer(self, step: int, value: float) -> bool:
        """Rank a step; whether it is among the best. No number (NaN) never is, and of equal ones the earlier stays."""
        if self.places == 0 or math.isnan(value):
            return False
        self.scores[step] = value
        if 0 < self.places < len(self.scores):
            del self.scores[max(self.scores, key=self._order)]
        return step in self.scores

    @property
    def best(self) -> int | None:
        """The best step so far."""
        return min(self.scores, key=self._order, default=None)

    def forget(self, there: Iterable[int]) -> None:
        """Drop the steps that are not ``there``."""
        self.scores = {step: self.scores[step] for step in self.scores.keys() & set(there)}

    def state(self) -> dict[str, Any]:
        """Plain data for ``restore``."""
        return {"monitor": self.monitor, "mode": self.mode, "scores": dict(self.scores)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, unless it ranks by something else."""
        if (state["monitor"], state["mode"]) == (self.monitor, self.mode):
            self.scores = dict(state["scores"])

    def _order(self, step: int) -> tuple[float, int]:
        value = self.scores[step]
        return (value if self.mode == "min" else -value), step


def superfluous(steps: Iterable[int], rankings: Iterable[Ranking], keep_last: int) -> set[int]:
    """The steps that are neither among the newest ``keep_last`` nor among the best of any ranking."""
    rankings = list(rankings)
    if any(ranking.places == -1 for ranking in rankings):
        return set()
    steps = set(steps)
    newest = sorted(steps)[-keep_last:] if keep_last else []
    return steps.difference(newest, *(ranking.scores for ranking in rankings))
