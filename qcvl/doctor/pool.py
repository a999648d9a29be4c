"""Work handed to other processes, its results in order: never more at once than the processes can chew."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from qcvl.errors import DataError

Given = TypeVar("Given")
Made = TypeVar("Made")
PATIENCE_S = 2.0  # of work done here before processes are started: about what their start takes


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
    work: Callable[[Any, Given], Made],
    shared: Any,
    items: Iterable[Given],
    workers: int,
    patience_s: float = PATIENCE_S,
) -> Iterator[tuple[Given, Made]]:
    """Each item and ``work(shared, item)``, in the order of the items, worked out by ``workers`` processes.

    ``shared`` is sent to each process once. The first seconds are worked off in this process, so that a small set
    needs no other one.

    Raises:
        DataError: when a process ends before its work is done, as it does when memory runs out.
    """
    items, start = iter(items), time.monotonic()
    while workers <= 1 or time.monotonic() - start < patience_s:
        try:
            item = next(items)
        except StopIteration:
            return
        yield item, work(shared, item)
    context = multiprocessing.get_context("spawn")  # a fork would inherit the locks of this process's threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(work, shared))
    waiting: deque[tuple[Given, Future]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(_call, item)))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the check ended before its work was done (out of memory?); try workers=1"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_work: Callable[[Any, Any], Any]
_shared: Any


def _begin(work: Callable[[Any, Any], Any], shared: Any) -> None:
    global _work, _shared
    _work, _shared = work, shared


def _call(item: Any) -> Any:
    return _work(_shared, item)
