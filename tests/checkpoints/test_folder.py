"""A checkpoint folder is complete or absent, and readers can tell."""

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest

from qcvl.checkpoints.folder import check_free_space, link, newest_complete, verify, write_checkpoint
from qcvl.errors import CheckpointError


def fill(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "trainer").mkdir()
    (folder / "trainer" / "state.ckpt").write_bytes(b"state")


@pytest.fixture
def complete(tmp_path) -> Path:
    """A finished checkpoint of two files."""
    return write_checkpoint(tmp_path / "step-10", fill)


def test_a_written_checkpoint_lists_every_file_and_verifies(complete):
    verify(complete)
    files = json.loads((complete / "manifest.json").read_text())["files"]
    assert {name: entry["size"] for name, entry in files.items()} == {"model.safetensors": 7, "trainer/state.ckpt": 5}
    # printf weights | sha256sum
    assert files["model.safetensors"]["sha256"].startswith("9a129038d9a00aed0cf6a7ea059ca50a")
    assert not (complete.parent / "step-10.partial").exists()


def test_a_write_that_dies_leaves_no_checkpoint_and_the_next_one_starts_clean(tmp_path):
    def die(folder: Path) -> None:
        (folder / "half.bin").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "step-1", die)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1.partial"]
    assert newest_complete(tmp_path) is None
    folder = write_checkpoint(tmp_path / "step-1", fill)
    assert not (folder / "half.bin").exists()


def test_a_checkpoint_is_written_once(complete):
    with pytest.raises(CheckpointError, match="already exists and checkpoints are written once"):
        write_checkpoint(complete, fill)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weighty"), "model.safetensors: found .*sha256"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"weight"), "model.safetensors: found .*'size': 6"),
        (lambda folder: (folder / "trainer" / "state.ckpt").unlink(), "state.ckpt: missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "no complete checkpoint; found .*model.safetensors"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: cannot be read"),
    ],
    ids=["changed", "cut", "missing", "no manifest", "broken manifest", "another manifest"],
)
def test_a_damaged_checkpoint_fails_and_names_the_file(complete, damage, told):
    damage(complete)
    with pytest.raises(CheckpointError, match=told):
        verify(complete)


def test_a_manifest_that_points_outside_its_folder_is_refused(complete):
    (complete.parent / "secret").write_bytes(b"x")
    (complete / "manifest.json").write_text('{"files": {"../secret": {"size": 1, "sha256": ""}}}')
    with pytest.raises(CheckpointError, match="outside the folder"):
        verify(complete)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="step-3.*no such folder"):
        verify(tmp_path / "step-3")


def test_links_are_relative_and_move_to_the_new_target(complete):
    later = write_checkpoint(complete.parent / "step-20", fill)
    last = complete.parent / "last"
    for target in (complete, later):
        link(last, target)
        assert os.readlink(last) == target.name
        assert last.resolve() == target.resolve()
    assert sorted(path.name for path in complete.parent.iterdir()) == ["last", "step-10", "step-20"]


def test_a_link_never_replaces_a_real_folder(complete):
    with pytest.raises(CheckpointError, match="is not a link"):
        link(complete, complete)


def test_the_newest_is_the_largest_step_that_verifies(complete, caplog):
    for step in (9, 100, 200):
        write_checkpoint(complete.parent / f"step-{step}", fill)
    (complete.parent / "step-200" / "model.safetensors").write_bytes(b"")
    (complete.parent / "step-300.partial").mkdir()
    (complete.parent / "notes").mkdir()
    assert newest_complete(complete.parent).name == "step-100"
    assert "skipped step-200" in caplog.text


def test_too_little_space_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 0, 5_000_000))
    with pytest.raises(CheckpointError, match="5 MB free, a checkpoint needs about 6 MB"):
        write_checkpoint(tmp_path / "deep" / "step-1", fill, expected_bytes=6_000_000)
    assert list(tmp_path.iterdir()) == []
    check_free_space(tmp_path / "deep" / "step-1", 5_000_000)


def test_files_get_the_mode_the_umask_asks_for_whatever_their_writer_gave_them(tmp_path):
    def write(folder):
        (folder / "weights").write_bytes(b"w")
        (folder / "weights").chmod(0o600)

    before = os.umask(0o027)
    try:
        folder = write_checkpoint(tmp_path / "step-1", write)
    finally:
        os.umask(before)
    assert (folder / "weights").stat().st_mode & 0o777 == 0o640
