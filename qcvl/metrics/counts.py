"""The two additive counts every score is made of: sums over shards equal the whole; means of batch values do not."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``part`` of ``whole``: right tokens of all tokens, exact summaries of all, summed error of all photos."""

    part: float = 0
    whole: int = 0

    def __add__(self, other: "Rate") -> "Rate":
        return Rate(self.part + other.part, self.whole + other.whole)

    @property
    def value(self) -> float | None:
        """``part / whole``; ``None`` when nothing was counted, so that an absent measurement never reads as 0."""
        return self.part / self.whole if self.whole else None


@dataclass(frozen=True, slots=True)
class DetectionCounts:
    """Objects found (``tp``), invented (``fp``) and missed (``fn``).

    Example:
        >>> (DetectionCounts(tp=1) + DetectionCounts(tp=1, fp=1, fn=1)).f1
        0.6666666666666666
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "DetectionCounts") -> "DetectionCounts":
        return DetectionCounts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def empty(self) -> bool:
        """True when there was nothing to find and nothing was reported: then no score exists."""
        return self.tp + self.fp + self.fn == 0

    @property
    def precision(self) -> float:
        """Share of the predictions that are right, 0..1; 0 when nothing was predicted."""
        return self.tp / max(self.tp + self.fp, 1)

    @property
    def recall(self) -> float:
        """Share of the true objects that were found, 0..1; 0 when there is none."""
        return self.tp / max(self.tp + self.fn, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, ``2 tp / (2 tp + fp + fn)``, 0..1; 0 when nothing was counted."""
        return 2 * self.tp / max(2 * self.tp + self.fp + self.fn, 1)
