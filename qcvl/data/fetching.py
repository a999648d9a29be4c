"""What happens in the loader's worker processes: samples become a row, and bad ones are left out of it and named."""

import os
import re
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.data.dataset import Key, Samples
from qcvl.data.encode import Features
from qcvl.errors import DataError, QcvlError, RecordError

_LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(.*)")


class Placed(NamedTuple):
    """A sample's key, and the optimizer step (of so many in the run) it is for."""

    key: Key
    step: int
    steps: int | None


@dataclass(frozen=True)
class BadSample:
    """A sample that cannot be used: where its record stands, and the error that says why."""

    where: str
    error: QcvlError


@dataclass(frozen=True)
class Row:
    """The row of one micro-batch and ``{"where", "problem"}`` of each sample left out; ``hollow`` when none was left.

    A hollow row holds a sample without labels: the model runs as on every rank and learns nothing from it.
    """

    batch: dict[str, Any]
    bad: tuple[dict[str, str], ...]
    hollow: bool


@dataclass(frozen=True)
class Reading:
    """What each worker process reads just now, in memory they share: rows of a pid and a key."""

    rows: torch.Tensor

    @classmethod
    def by(cls, workers: int, key_numbers: int) -> "Reading":
        """Nothing yet, for so many workers and keys of so many numbers."""
        return cls(torch.zeros((workers, 1 + key_numbers), dtype=torch.int64).share_memory_())

    def note(self, key: Key) -> None:
        """Say, in a worker, what it reads now."""
        worker = get_worker_info()
        if worker is not None:
            self.rows[worker.id] = torch.tensor([os.getpid(), *key])

    def last(self, pid: int) -> Key | None:
        """The key that a worker began to read last."""
        return next((tuple(key) for found, *key in self.rows.tolist() if found == pid), None)


@dataclass(frozen=True)
class Guarded(Dataset):
    """The dataset with a bad sample as a value: its error, raised in a worker, would arrive inside a traceback."""

    dataset: Samples
    reading: Reading

    def __getitem__(self, placed: Placed) -> Features | BadSample | None:
        key = placed.key
        self.reading.note(key)
        try:
            return self.dataset.at(placed.step, placed.steps)[key]
        except QcvlError as error:
            return BadSample(_where(self.dataset, key, error), error)


@dataclass(frozen=True)
class ToRow:
    """Lays encoded samples in a row. With ``keep_going`` a bad one is left out, else its error is the answer."""

    dataset: Samples
    keep_going: bool

    def __call__(self, items: Sequence[Features | BadSample | None]) -> Row | QcvlError:
        """The row of some items; None stands for an overlong sample that was dropped."""
        bad = tuple(item for item in items if isinstance(item, BadSample))
        for item in bad:
            if not (self.keep_going and isinstance(item.error, DataError)):
                return item.error
        good = [item for item in items if not isinstance(item, BadSample)]
        hollow = all(item is None for item in good)
        try:
            batch = collate([self._stand_in(), *good] if hollow else good)
        except QcvlError as refusal:
            return refusal
        return Row(batch, tuple({"where": item.where, "problem": str(item.error)} for item in bad), hollow)

    def _stand_in(self) -> Features | None:
        """The first sample that can be encoded, without labels or targets; None where all are overlong."""
        for key in self.dataset.opening():
            try:
                features = self.dataset[key]
            except DataError:
                continue
            if features is not None:
                classes = features.cell_classes
                return replace(
                    features,
                    labels=np.full_like(features.labels, IGNORE),
                    label_kinds=np.zeros_like(features.label_kinds),
                    telemetry={},
                    cell_classes=None if classes is None else np.full_like(classes, IGNORE),
                )
        return None


def lost_worker(error: BaseException, guarded: Guarded | None) -> QcvlError | None:
    """The error of a run that lost a worker process of its loader; None where ``error`` is about something else.

    Torch tells of it in a RuntimeError, from the loader or, by a signal, from whatever the process is doing.
    """
    match = _LOST.search(str(error)) if isinstance(error, RuntimeError) else None
    if match is None:
        return None
    keys = [guarded.reading.last(int(pid)) for pid in match[1].split(",")] if guarded else []
    places = [guarded.dataset.where(key) for key in keys if guarded and key]
    return QcvlError(
        f"a worker process of the training loader (pid {match[1]}) {match[2].strip(' .') or 'ended'}"
        f"{' while it read ' + ', '.join(places) if places else ''}: the run stops. Killed workers are mostly those "
        "the machine has no memory for: lower data.num_workers, data.cache_mb or the size of that photo; resume= goes "
        "on from the last checkpoint"
    )


def one_thread(worker: int) -> None:
    """Start a worker: its threads would take the cores that other workers need."""
    torch.set_num_threads(1)
    obey_parent_alone()


def obey_parent_alone() -> None:
    """End by a SIGTERM or SIGUSR1 of the parent's; ignore those that all processes of a job get when it is to stop.

    The run then finishes its step and ends its workers itself.
    """
    signals = {signal.SIGTERM, signal.SIGUSR1}

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # threads started from now on inherit it
    threading.Thread(target=wait, daemon=True).start()


def _where(dataset: Samples, key: Key, error: QcvlError) -> str:
    if isinstance(error, RecordError) and error.path is not None:
        return ":".join(str(part) for part in (error.path, error.line) if part is not None)
    try:
        return dataset.where(key)
    except QcvlError:  # not even its record can be read
        return f"sample {key[1]} of epoch {key[0]}"
