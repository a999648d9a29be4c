"""What a command cost: processor time of its process and of the processes it started, and time by the clock."""

import json
import resource
import time
from pathlib import Path

COST_FILE = "cost.json"


def processor_seconds() -> float:
    """Seconds of processor time, user and system, of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


class Meter:
    """Counts from where it is made."""

    def __init__(self) -> None:
        self._processor, self._clock = processor_seconds(), time.perf_counter()

    def spent(self) -> tuple[float, float]:
        """Seconds of processor time and by the clock; a loader's workers count once they have ended."""
        return processor_seconds() - self._processor, time.perf_counter() - self._clock


def write_cost(folder: Path, values: dict[str, float]) -> None:
    """Write ``cost.json`` into a run's folder."""
    rounded = {key: float(f"{value:.7g}") for key, value in values.items()}
    (folder / COST_FILE).write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
