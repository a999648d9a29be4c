"""A job of a sweep (``-m``) in a process of its own, whichever launcher asks for it.

A job that is refused, fails or is killed then leaves the others alone: its folder says why in ``error.txt``, and the
sweeper gets no value for it.
"""

import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from qcvl.composition.check import validate
from qcvl.composition.processes import is_first_process
from qcvl.composition.resume import quoted
from qcvl.errors import ConfigError
from qcvl.viz.runs import ERROR_FILE, read_run

_OF_THE_SWEEP = re.compile(r"^\+{0,2}hydra[./](mode|run|sweep|sweeper|launcher)\b")
_LINES_KEPT = 200  # of what a job writes to stderr
_SECONDS_TO_END = 60.0  # between asking a job to end and killing it


def this_program() -> list[str]:
    """How the running command is started again: ``["-m", "qcvl.train"]``, or the path of its script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name] if spec is not None else [os.path.abspath(sys.argv[0])]


def run_in_own_process(cfg: DictConfig, program: Sequence[str], sweep_overrides: Sequence[str]) -> float | None:
    """Run the job that Hydra is about to run as ``python <program> <its overrides>`` and wait for it.

    Returns the final value of what the job monitored; None when it has none or failed.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        validate(cfg)
    except ConfigError as error:
        _record(folder, "; ".join(str(error).splitlines()), "")
        return None
    command = [sys.executable, *program, *job_arguments(hydra)]
    names = {
        "WANDB_RUN_GROUP": os.environ.get("WANDB_RUN_GROUP") or "/".join(Path(hydra.sweep.dir).parts[-2:]),
        "WANDB_NAME": job_name(list(hydra.overrides.task), [*sweep_overrides, *_swept_in_yaml(hydra)]),
    }
    code, told = _follow(command, hydra.runtime.cwd, {**os.environ, **names})
    if code:
        _record(folder, headline(code, told), "\n".join(told))
        return None
    value = read_run(folder).value
    return value if value is not None and math.isfinite(value) else None


def job_arguments(hydra: Any) -> list[str]:
    """The command line of one job as a run of its own, in the directory that the sweep gave it."""
    own = [override for override in hydra.overrides.hydra if not _OF_THE_SWEEP.match(override)]
    return [
        *hydra.overrides.task,
        *own,
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted(Path(hydra.runtime.output_dir))}",
        f"hydra.sweep.dir={quoted(Path(hydra.sweep.dir).absolute())}",
        f"hydra.job.num={hydra.job.num}",
    ]


def job_name(overrides: Sequence[str], sweep_overrides: Sequence[str]) -> str:
    """``stage=1 tuner=lora``: a job's own values of what the sweep varies."""
    parser = OverridesParser.create()
    varied = {
        override.key_or_group
        for override in parser.parse_overrides(list(sweep_overrides))
        if override.is_sweep_override()
    }
    chosen = [override for override in parser.parse_overrides(list(overrides)) if override.key_or_group in varied]
    return " ".join(f"{override.key_or_group}={override.value()}" for override in chosen)


def headline(code: int, told: Sequence[str]) -> str:
    """One line about why a process ended with ``code``, from the last lines it wrote to stderr."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (": out of memory, or from outside" if name == "SIGKILL" else "")
    starts = [index for index, line in enumerate(told) if line.startswith(("error: ", "Traceback (most recent"))]
    for line in told[starts[-1] :] if starts else ():
        if line.startswith("error: "):
            return line.removeprefix("error: ")
        if not line.startswith((" ", "Traceback")) and line.strip():
            return line
    return f"ended with {code}"


def _swept_in_yaml(hydra: Any) -> list[str]:
    """What a choice of ``hparams_search`` varies, as overrides."""
    return [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]


def _record(folder: Path, reason: str, told: str) -> None:
    if is_first_process():
        (folder / ERROR_FILE).write_text(f"{reason}\n\n{told}".rstrip() + "\n", encoding="utf-8")
    print(f"error: job {folder.name}: {reason}", file=sys.stderr)


def _follow(command: Sequence[str], cwd: str, environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a command to its end; returns its exit code (negative: the signal) and its last lines on stderr.

    It gets a process group of its own, of which nothing is left afterwards: the loader's workers and further ranks of a
    killed job would go on holding memory.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stderr is not None  # asked for above
    told: deque[str] = deque(maxlen=_LINES_KEPT)
    reader = threading.Thread(target=_pass_on, args=(process.stderr, told), daemon=True)
    reader.start()
    try:
        with _sigterm_raises():
            process.wait()
    except BaseException:  # Ctrl-C or SIGTERM: the job is asked to end before the sweep does
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(_SECONDS_TO_END)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(timeout=5)
    return process.returncode, list(told)


def _pass_on(stream: IO[str], told: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        told.append(line.rstrip("\n"))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends this process by SystemExit(143), unless something else handles it or this is no main thread."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
