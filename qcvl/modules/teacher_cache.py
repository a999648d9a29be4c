"""What a teacher said of samples, kept on disk and read back by memory map.

A folder holds ``header.json``, which says whose words these are, and two files of each writer: rows of ``rank-R.words``
(of a label each: ``k + 1`` float32 log-probabilities and ``k`` int32 token ids) and lines of ``rank-R.index`` (key,
first row, number of rows). Rows are on disk before their line is written, so that a killed run leaves entries that are
whole or absent.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qcvl.errors import ConfigError
from qcvl.losses.jsd import Top

HEADER_FILE, VERSION = "header.json", 1
KEY_BYTES = 16


class Entry(NamedTuple):
    """Rows ``first`` to ``first + rows`` of a file."""

    file: Path
    first: int
    rows: int


class TeacherCache:
    """The words of one teacher by sample; many processes may read and add to a folder at once.

    Args:
        folder: made where it is missing.
        header: all that what the teacher says follows from, but for the sample.
        k: tokens of a label.
        rank: of the process, which names its files.

    Raises:
        ConfigError: where the folder's header is another one.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], *, k: int, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.row = np.dtype([("log_probabilities", "<f4", (k + 1,)), ("ids", "<i4", (k,))])
        self._entries: dict[str, Entry] = {}
        self._read: dict[Path, int] = {}  # bytes of each index that are read
        self._files: tuple[BinaryIO, BinaryIO] | None = None  # of this process: words, index
        _require_header(folder, {"version": VERSION, **header, "k": k})

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that no process has added yet."""
        if any(key not in self._entries for key in keys):
            self._refresh()
        return [key for key in keys if key not in self._entries]

    def read(self, keys: Sequence[str], device: torch.device) -> Top:
        """What was said of these samples, one after another; none of them may be missing."""
        rows = np.concatenate([self.rows(key) for key in keys])
        log_probabilities, ids = (torch.from_numpy(np.ascontiguousarray(rows[name])) for name in self.row.names or ())
        return Top(log_probabilities.to(device), ids.to(device, torch.int64))

    def rows(self, key: str) -> np.ndarray:
        """A sample's rows as they lie in their file."""
        entry = self._entries[key]
        if not entry.rows:
            return np.empty(0, self.row)  # which cannot be mapped
        offset = entry.first * self.row.itemsize
        return np.memmap(entry.file, self.row, mode="r", offset=offset, shape=(entry.rows,))

    def add(self, keys: Sequence[str], labels: Sequence[int], said: Top) -> None:
        """Keep what is said of samples with so many labels each, where they are not there yet."""
        if not self.missing(keys):
            return
        words, index = self._files = self._files or self._open()
        rows = np.empty(len(said.ids), self.row)
        rows["log_probabilities"], rows["ids"] = said.log_probabilities.cpu().numpy(), said.ids.cpu().numpy()
        first, lines = words.tell() // self.row.itemsize, []
        for key, (start, end) in zip(keys, pairwise([0, *accumulate(labels)]), strict=True):
            if key not in self._entries:
                words.write(rows[start:end].tobytes())
                self._entries[key] = Entry(Path(words.name), first, end - start)
                lines.append(f"{key} {first} {end - start}\n")
                first += end - start
        words.flush()
        os.fsync(words.fileno())
        index.write("".join(lines).encode())
        index.flush()

    def _refresh(self) -> None:
        """Take what was added to any index since it was read."""
        for path in sorted(self.folder.glob("*.index")):
            with path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                new = stream.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for key, entry in self._whole_entries(whole, path.with_suffix(".words")):
                self._entries.setdefault(key, entry)

    def _whole_entries(self, lines: bytes, words: Path) -> Iterator[tuple[str, Entry]]:
        """Entries of whole lines, up to the first that is damaged or whose rows are not there."""
        there = words.stat().st_size // self.row.itemsize if words.exists() else 0
        for line in lines.splitlines():
            try:
                key, first, rows = line.decode("ascii").split(" ")
                entry = Entry(words, int(first), int(rows))
            except ValueError:
                return
            if len(key) != 2 * KEY_BYTES or entry.first + entry.rows > there:
                return
            yield key, entry

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        """Files of this process alone, cut after their last whole entry."""
        for number in count():
            path = self.folder / f"rank-{self.rank}{f'-{number}' if number else ''}.index"
            index = path.open("ab+")
            try:
                fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # another run adds to the same folder
                index.close()
        index.seek(0)
        lines = index.read()
        entries = list(self._whole_entries(lines[: lines.rfind(b"\n") + 1], path.with_suffix(".words")))
        index.truncate(sum(len(f"{key} {entry.first} {entry.rows}\n") for key, entry in entries))
        words = path.with_suffix(".words").open("ab")
        words.truncate(sum(entry.rows for _, entry in entries) * self.row.itemsize)
        words.seek(0, os.SEEK_END)
        return words, index


def _require_header(folder: Path, header: Mapping[str, Any]) -> None:
    path, text = folder / HEADER_FILE, json.dumps(header, indent=2) + "\n"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{HEADER_FILE}.{os.getpid()}"
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    if differ := [name for name in header if found.get(name) != header[name]]:
        told = ", ".join(f"{name} {_short(found.get(name))} (this run's: {_short(header[name])})" for name in differ)
        raise ConfigError(
            f"objective.teacher_cache={folder}: holds what was said by another teacher or in another way: {told}; name "
            "another folder, or set the objective as in the run that made this one"
        )


def _short(value: Any) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 12 else str(value)


def sample_keys(batch: Mapping[str, Any], merge_size: int) -> list[str]:
    """A hash for each sample of a row, of all a teacher sees of it: tokens, places of labels, positions and patches.

    Args:
        batch: as ``data.batch.collate`` makes one, with patches as grey levels.
        merge_size: patches along a side of a visual token.
    """
    cells = np.cumsum((_array(batch["mm_token_type_ids"])[0] > 0).astype(np.int64))
    grids, patches = _array(batch["image_grid_thw"]), _array(batch["pixel_values"])
    grid_ends = np.cumsum(grids.prod(axis=1))
    ids, labelled = _array(batch["input_ids"])[0], _array(batch["label_kinds"])[0] > 0
    positions = _array(batch["position_ids"])[:, 0]
    keys, grid, patch = [], 0, 0
    for start, end in pairwise([0, *accumulate(_array(batch["segments"]).tolist())]):
        last_patch = int(cells[end - 1]) * merge_size**2
        last_grid = int(np.searchsorted(grid_ends, last_patch, side="right"))
        parts = [ids[start:end], labelled[start:end], positions[:, start:end], grids[grid:last_grid]]
        keys.append(_digest([*parts, patches[patch:last_patch]]))
        grid, patch = last_grid, last_patch
    return keys


def label_counts(batch: Mapping[str, Any]) -> list[int]:
    """Labels of each sample of a row."""
    parts = (batch["label_kinds"][0] > 0).split(_array(batch["segments"]).tolist())
    return [int(part.sum()) for part in parts]


def _digest(arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for array in arrays:
        digest.update(str((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
