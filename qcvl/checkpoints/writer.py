"""Writes the step folders of a run, one at a time, in this thread or another, and keeps its links and its folders."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from qcvl.checkpoints.folder import STEP, check_free_space, free_bytes, link, remove, steps_in, write_checkpoint
from qcvl.checkpoints.keeping import Ranking, superfluous
from qcvl.log import get_logger

log = get_logger(__name__)


class FolderWriter:
    """Step folders in ``folder``, with ``last`` and a link for each ranking.

    A folder that is being written in the background is finished before the next one is begun. What kept it from being
    written is raised then, or by ``finish``.
    """

    def __init__(self, folder: Path, keep_last: int, *, background: bool) -> None:
        self.folder, self.keep_last, self.background = folder, keep_last, background
        self._writing: Future[None] | None = None

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / f"{STEP}{step}"

    def require_space(self, expected_bytes: int, rankings: Mapping[str, Ranking]) -> None:
        """Look whether the folders that a run keeps will fit on the disk, before it trains.

        Raises:
            CheckpointError: when not even one does; where not all do, this is a warning.
        """
        check_free_space(self.folder, expected_bytes)
        kept = self.keep_last + sum(max(ranking.places, 0) for ranking in rankings.values())
        missing = kept + 1 - len(steps_in(self.folder))  # one more while it is written
        if (free := free_bytes(self.folder)) < missing * expected_bytes:
            told = "%s: %.0f MB free, and the run keeps up to %d folders of about %.0f MB, and one more while it writes"
            log.warning(told, self.folder, free / 1e6, kept, expected_bytes / 1e6)

    def write(
        self, step: int, fill: Callable[[Path], None], expected_bytes: int, rankings: Mapping[str, Ranking]
    ) -> None:
        """Write the folder of ``step``; then links and the removal of older folders follow ``rankings``."""

        def job() -> None:
            write_checkpoint(self.path(step), fill, expected_bytes)
            self.arrange(step, rankings)

        self.finish()
        if not self.background:
            return job()
        executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = executor.submit(job)
        executor.shutdown(wait=False)  # the thread ends with the job, and the process not before it

    def finish(self) -> None:
        """Wait for the folder that is being written."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def wait(self) -> None:
        """``finish`` where another error is the one to tell."""
        if self._writing is not None:
            self._writing.exception()

    def arrange(self, step: int, rankings: Mapping[str, Ranking]) -> None:
        """Point the links at their folders, then remove those that nothing keeps."""
        there = steps_in(self.folder)
        if step in there:
            link(self.folder / "last", there[step])
        for name, ranking in rankings.items():
            if ranking.best is not None and ranking.best in there:
                link(self.folder / name, there[ranking.best])
        for number in superfluous(there, rankings.values(), self.keep_last):
            remove(there[number])
