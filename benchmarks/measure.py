"""What the benchmarks share: medians of interleaved repeats, a table for people, one JSON line for machines.

Times are CPU seconds of one thread, which busy neighbours disturb less than seconds of the clock; ``ratio`` is the
peer's time over ours, so above 1 means ours is faster.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Work = Callable[[], Any]


def median_seconds(works: Sequence[Work], repeats: int, clock: Callable[[], float] = time.process_time) -> list[float]:
    """Median seconds of each piece of work over ``repeats`` rounds; a round runs each once, the first one is not kept.

    Running in turns lets a machine that gets busier slow all of them alike.
    """
    rounds = []
    for _ in range(repeats + 1):
        times = []
        for work in works:
            start = clock()
            work()
            times.append(clock() - start)
        rounds.append(times)
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def report(name: str, rows: Mapping[str, str], **numbers: float | int | str) -> None:
    """Print ``rows`` (label: value) as a table, then ``{"name": …, "ratio": …, …}`` as the last line."""
    width = max(map(len, rows))
    print(f"{name}:")
    for label, value in rows.items():
        print(f"  {label:{width}}  {value}")
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in numbers.items()}
    print(json.dumps({"name": name, **rounded}))
