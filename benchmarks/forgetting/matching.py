"""Old-task F1 where the new task is known equally well, and what five paired seeds say about a difference."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

# Student's t, two-sided 95 %, by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


class Point(NamedTuple):
    """F1 on both tasks (0..1) somewhere on a method's way; ``at`` is a step, or a part of the way."""

    at: float
    new: float
    old: float


def old_at(points: Sequence[Point], level: float) -> float | None:
    """Old-task F1 where new-task F1 first rises to ``level``, on the line between the points around it.

    None when it never does. ``points`` are in their order, the base model first.
    """
    for before, after in zip(points, points[1:], strict=False):
        if before.new < level <= after.new:
            part = (level - before.new) / (after.new - before.new)
            return before.old + part * (after.old - before.old)
    return None


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean of the differences ``ours - theirs`` of paired seeds, and half of its 95 % interval (Student's t)."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(differences) < 2:
        return differences[0], math.inf
    spread = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), T95[len(differences) - 1] * spread
