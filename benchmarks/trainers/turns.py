"""Contenders in processes of their own that train in turns: one at a time, on one core, each with its own memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

COUNTS = ("samples", "tokens", "labels", "places")
SUMS = (*COUNTS, "seconds", "wall", "operations")


def _attention(query: Any, key: Any, value: Any, dropout: float = 0.0, causal: bool = False, **rest: Any) -> int:
    return sdpa_flop_count(query, key, value) // (1 + causal)  # it leaves out what lies above the diagonal


def _attention_backward(
    grad: Any, query: Any, key: Any, value: Any, out: Any, logsumexp: Any, dropout: float, causal: bool, **rest: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value) // (1 + causal)


# torch's counter knows the attention of GPUs alone
ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Turns:
    """A contender's side: wait for a turn, train, and say what that was.

    What the trainer prints goes to the log; the pipe to the benchmark is kept apart. Floating point operations of
    matrix products and attention are counted in the first pass, that of ``samples`` samples.
    """

    def __init__(self, core: int, samples: int) -> None:
        os.sched_setaffinity(0, {core})
        self._pipe = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._since: float | None = None
        self._clock = self._waited = 0.0
        self._uncounted, self._operations = samples, FlopCounterMode(display=False, custom_mapping=ON_CPU)
        with FlopCounterMode(display=False):
            torch.ones(1, 1) @ torch.ones(1, 1)  # what the counter imports at its first product is no training
        self._row = dict.fromkeys(COUNTS, 0)
        self.idle = 0

    def wait(self, model: Any) -> None:
        """Stop until it is this contender's turn; before the first one, note the memory of the idle ``model``."""
        if self._since is None:
            trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            self.idle = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
            self._say({"state": 12 * trained})  # bytes of gradients and Adam's two moments in float32
        asked = time.perf_counter()
        if not sys.stdin.readline():
            sys.exit("the benchmark ended")
        self._waited += time.perf_counter() - asked
        if self._since is None:
            self._since, self._clock, self._waited = time.process_time(), time.perf_counter(), 0.0
        if self._uncounted > 0:
            self._operations.__enter__()

    def count(self, samples: int, tokens: int, labels: int, *, places: int) -> None:
        """Note what a micro-batch holds: ``places`` are its tokens and its padding."""
        for name, value in zip(COUNTS, (samples, tokens, labels, places), strict=True):
            self._row[name] += int(value)

    def done(self) -> None:
        """End the turn. Its seconds are this process's since the last one's end, so that loading counts.

        Those of the clock (``wall``) leave out the wait for the turn.
        """
        assert self._since is not None
        operations = 0
        if self._uncounted > 0:
            self._operations.__exit__(None, None, None)
            operations, self._uncounted = self._operations.get_total_flops(), self._uncounted - self._row["samples"]
        now, clock, peak = time.process_time(), time.perf_counter(), _memory("VmHWM")
        times = {"seconds": now - self._since, "wall": clock - self._clock - self._waited}
        self._say({**self._row, **times, "operations": operations, "peak": peak, "extra": peak - self.idle})
        self._since, self._clock, self._waited, self._row = now, clock, 0.0, dict.fromkeys(COUNTS, 0)

    def _say(self, row: dict[str, Any]) -> None:
        self._pipe.write(json.dumps(row) + "\n")


def _memory(field: str) -> int:
    """Bytes of this process, by a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


class Contender:
    """The benchmark's side of one contender's process."""

    def __init__(self, script: str, name: str, folder: Path, core: int) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        command = [sys.executable, script, "--contender", name, "--work", str(folder), "--core", str(core)]
        with self.log.open("w") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, text=True, env=_one_thread(), **pipes)

    def __enter__(self) -> "Contender":
        self.state = self.hear()["state"]
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()  # type: ignore[union-attr]

    def hear(self) -> dict[str, Any]:
        """The next thing it says.

        Raises:
            RuntimeError: with the end of its log, where it ended instead.
        """
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")
        row: dict[str, Any] = json.loads(line)
        return row

    def turn(self) -> dict[str, Any]:
        """Let it train for one turn."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.hear()


def _one_thread() -> dict[str, str]:
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **quiet}


class Turn(NamedTuple):
    """Seconds of one turn: of the process (user and system), and of the clock."""

    seconds: float
    wall: float


class Speed(NamedTuple):
    """Median real tokens a CPU second over the passes, their rates, and peak bytes above the idle model.

    ``activations`` are those without gradients and Adam's moments, which no trainer of all weights can do without.
    ``wall`` is the median of tokens a second of the clock, ``padding`` the share of a batch's places that is none, and
    ``operations`` are floating point operations for a real token. ``peak`` is the process's whole; ``turns`` are all of
    them, in order.
    """

    rate: float
    rates: tuple[float, ...]
    wall: float
    extra: int
    activations: int
    padding: float
    operations: float
    peak: int
    turns: tuple[Turn, ...]


def race(script: str, names: Sequence[str], folder: Path, samples: int, passes: int, core: int) -> dict[str, Speed]:
    """Let contenders train the same records in turns, pass by pass.

    Raises:
        RuntimeError: where a pass is not the same tokens and labels for all.
    """
    runners: list[Contender] = []
    try:
        for name in names:  # one after another: starting is not what is measured
            runners.append(Contender(script, name, folder, core).__enter__())
        rows = [_pass(runners, samples) for _ in range(passes)]
    finally:
        for runner in runners:
            runner.__exit__()
    work = {(row[name]["tokens"], row[name]["labels"]) for row in rows for name in names}
    if len(work) != 1:
        raise RuntimeError(f"passes differ in (tokens, labels): {sorted(work)}; they must train the same")
    speeds = {}
    for runner in runners:
        passes_ = [row[runner.name] for row in rows]
        rates = tuple(row["tokens"] / row["seconds"] for row in passes_)
        extra, first = max(row["extra"] for row in passes_), passes_[0]
        speeds[runner.name] = Speed(
            rate=median(rates),
            rates=rates,
            wall=median(row["tokens"] / row["wall"] for row in passes_),
            extra=extra,
            activations=extra - runner.state,
            padding=1 - sum(row["tokens"] for row in passes_) / sum(row["places"] for row in passes_),
            operations=first["operations"] / first["tokens"],
            peak=max(row["peak"] for row in passes_),
            turns=tuple(turn for row in passes_ for turn in row["turns"]),
        )
    return speeds


def _pass(runners: Sequence[Contender], samples: int) -> dict[str, dict[str, Any]]:
    """One pass over the records by each contender: sums of its turns."""
    sums: dict[str, dict[str, Any]] = {
        runner.name: dict.fromkeys((*SUMS, "extra", "peak"), 0) | {"turns": []} for runner in runners
    }
    while waiting := [runner for runner in runners if sums[runner.name]["samples"] < samples]:
        for runner in waiting:
            row, total = runner.turn(), sums[runner.name]
            for key in SUMS:
                total[key] += row[key]
            for key in ("extra", "peak"):
                total[key] = max(total[key], row[key])
            total["turns"].append(Turn(row["seconds"], row["wall"]))
    return sums
