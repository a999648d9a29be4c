"""Arrays kept on disk: made once for equal facts, whoever asks, and made again when they are damaged."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from qcvl.data.stored import KEEP_DAYS, stored_array


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QCVL_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "kind"


def made(calls: list, value: int = 1):
    def make() -> np.ndarray:
        calls.append(value)
        return np.full(3, value)

    return make


def test_equal_facts_give_the_kept_array_and_other_facts_another():
    calls: list[int] = []
    first = stored_array("kind", {"a": 1, "b": "ü"}, made(calls, 5))
    again = stored_array("kind", {"b": "ü", "a": 1}, made(calls, 6))
    other = stored_array("kind", {"a": 2, "b": "ü"}, made(calls, 7))
    assert first.tolist() == again.tolist() == [5, 5, 5] and other.tolist() == [7, 7, 7] and calls == [5, 7]
    for array in (first, again):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"nothing of the kind"])
def test_a_damaged_file_is_made_again(folder, damage):
    calls: list[int] = []
    stored_array("kind", {}, made(calls))
    (file,) = folder.glob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(damage or whole[:-4])
    assert stored_array("kind", {}, made(calls)).tolist() == [1, 1, 1] and calls == [1, 1]
    assert file.read_bytes() == whole


def test_an_error_while_it_is_made_passes_through_and_leaves_nothing(folder):
    def fail():
        raise OSError("no such photo")

    with pytest.raises(OSError, match="no such photo"):
        stored_array("kind", {}, fail)
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_folder_that_cannot_be_written_is_said_and_costs_only_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCVL_CACHE", str(tmp_path / "file"))
    calls: list[int] = []
    for _ in range(2):
        assert stored_array("kind", {}, made(calls)).tolist() == [1, 1, 1]
    assert calls == [1, 1] and "cannot be written" in caplog.text and "QCVL_CACHE" in caplog.text


def test_what_nobody_used_for_long_goes_when_another_is_written(folder):
    stored_array("kind", {"a": 1}, made([]))
    stored_array("kind", {"a": 2}, made([]))
    used, unused = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime_ns)
    long_ago = time.time() - (KEEP_DAYS + 1) * 86400
    for path in (used, unused):
        os.utime(path, (long_ago, long_ago))
    stored_array("kind", {"a": 1}, lambda: pytest.fail("made again"))
    stored_array("kind", {"a": 3}, made([]))
    assert used.exists() and not unused.exists() and len(list(folder.glob("*.npy"))) == 2


def test_processes_that_ask_at_once_make_it_once(folder):
    code = (
        "import sys, time, numpy as np\n"
        "from qcvl.data.stored import stored_array\n"
        "def make():\n"
        "    print('made', flush=True); time.sleep(0.5); return np.arange(4)\n"
        "assert stored_array('kind', {}, make).tolist() == [0, 1, 2, 3]"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0] and "".join(outputs) == "made\n"
