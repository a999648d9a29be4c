"""The folders and links of a run are sound whenever it is killed, and it does not fill a disk unawares."""

import os
import shutil
import signal
import sys
from collections import namedtuple

import pytest

from qcvl.checkpoints.folder import newest_complete, set_aside_after, steps_in, verify
from qcvl.checkpoints.keeping import Ranking
from qcvl.checkpoints.writer import FolderWriter
from qcvl.errors import CheckpointError

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod", "shutil.rmtree")
usage = namedtuple("usage", "total used free")


def fill(folder):
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "trainer").mkdir()
    (folder / "trainer/state.ckpt").write_bytes(b"s" * 1000)


def best(step: int) -> dict[str, Ranking]:
    return {"best": Ranking("eval/x", "min", 1, {step: 0.5})}


@pytest.fixture
def before(tmp_path):
    """A run that saved steps 1 and 2, of which 1 is the best."""
    writer = FolderWriter(tmp_path / "before", 1, background=False)
    for step in (1, 2):
        writer.write(step, fill, 0, best(1))
    return writer.folder


def save_and_die(folder, at: int) -> bool:
    """Save step 3, the best so far, in another process that kills itself at its ``at``-th change; whether it did."""
    child = os.fork()
    if child == 0:
        left = at

        def count(event, arguments):
            nonlocal left
            if event in CHANGES:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        writer = FolderWriter(folder, 1, background=at % 2 == 0)
        writer.write(3, fill, 0, best(3))
        writer.finish()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_save_that_is_killed_at_any_of_its_changes_leaves_sound_folders_and_the_run_goes_on(before, tmp_path):
    killed, newest_after = 0, set()
    for at in range(1, 200):
        folder = shutil.copytree(before, tmp_path / f"at-{at}", symlinks=True)
        died = save_and_die(folder, at)
        killed += died
        newest = newest_complete(folder)
        newest_after.add(newest.name)
        for link in ("last", "best"):
            verify(folder / link)  # of the old state or the new one
        for path in steps_in(folder).values():
            verify(path)

        step = int(newest.name.removeprefix("step-"))
        set_aside_after(folder, step)  # what a resumed run does, which then knows the best of that step
        writer = FolderWriter(folder, 1, background=False)
        writer.arrange(step, best(1 if step == 2 else 3))
        writer.write(4, fill, 0, best(4))
        assert sorted(path.name for path in folder.iterdir()) == ["best", "last", "step-4"]
        assert (folder / "last").resolve() == (folder / "best").resolve() == folder / "step-4"
        if not died:
            break
    assert killed > 15 and newest_after == {"step-2", "step-3"}


def test_a_run_for_which_not_one_folder_fits_is_refused_and_one_that_will_fill_the_disk_is_warned(
    before, monkeypatch, caplog
):
    writer = FolderWriter(before, 3, background=False)  # 3 newest, 1 best, 1 being written; 2 are there
    for free, warned in ((3_000_000, False), (2_999_999, True)):
        caplog.clear()
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: usage(10, 0, free))
        writer.require_space(1_000_000, best(1))
        assert ("keeps up to 4 folders of about 1 MB" in caplog.text) == warned
    with pytest.raises(CheckpointError, match="3 MB free, a checkpoint needs about 4 MB; free space, keep fewer"):
        writer.require_space(4_000_000, best(1))


def test_an_error_in_the_background_is_raised_at_the_next_save_and_at_the_end_and_once(tmp_path):
    def fail(folder):
        raise ValueError("shape")

    writer = FolderWriter(tmp_path, 1, background=True)
    writer.write(1, fail, 0, {})
    with pytest.raises(ValueError, match="shape"):
        writer.write(2, fill, 0, {})
    writer.write(3, fail, 0, {})
    writer.wait()
    with pytest.raises(ValueError, match="shape"):
        writer.finish()
    writer.finish()
    writer.write(4, fill, 0, {})
    writer.finish()
    assert steps_in(tmp_path).keys() == {4}
