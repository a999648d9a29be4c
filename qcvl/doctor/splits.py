"""What training and validation share and should not: photos, copies of photos, and groups such as boards or sites."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from qcvl.doctor.findings import Finding, found
from qcvl.doctor.photos import Photo

MAX_DISTANCE = 6  # differing bits of 128 up to which two photos look alike; unrelated photos differ in about 64
PAIRS_AT_ONCE = 2**20
HEAD_BYTES = 2**14  # read first: files of equal size mostly differ early


class Place(NamedTuple):
    """Where a photo or group stands: source, file and line."""

    source: str
    path: str | None
    line: int | None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line is not None else str(self.path)


Groups = dict[str, tuple[Place, int]]  # the first record of each group, and how many it has


class Seen(NamedTuple):
    """A photo that can be read, its number among the images of its record, and where that stands."""

    photo: Photo
    image: int
    place: Place


def shared_photos(val: Iterable[Seen], train: Iterable[Seen]) -> Iterator[Finding]:
    """A warning for each photo of validation that is trained on as well, by its path."""
    files = {seen.photo.file: seen.place for seen in train}
    for seen in val:
        if (place := files.get(seen.photo.file)) is not None:
            yield _finding("image-shared", seen, f"is also in {place}")


def copied_photos(val: Iterable[Seen], train: Iterable[Seen]) -> Iterator[Finding]:
    """A warning for each photo of validation that is, byte by byte, another file of training; shared ones left out."""
    by_size: dict[int, list[Seen]] = {}
    files = set()
    for seen in train:
        by_size.setdefault(seen.photo.bytes, []).append(seen)
        files.add(seen.photo.file)
    digests: dict[tuple[str, int], bytes] = {}

    def digest(seen: Seen, limit: int) -> bytes:
        key = (str(seen.photo.file), limit)
        if key not in digests:
            digests[key] = _digest(key[0], limit)
        return digests[key]

    for seen in val:
        if seen.photo.file in files:
            continue
        candidates = by_size.get(seen.photo.bytes, [])
        for limit in (HEAD_BYTES, -1):
            candidates = [other for other in candidates if digest(other, limit) == digest(seen, limit)]
        if candidates:
            yield _finding("image-duplicate", seen, f"has the same bytes as the photo of {candidates[0].place}")


def similar_photos(val: Sequence[Seen], train: Sequence[Seen]) -> Iterator[Finding]:
    """A warning for each photo of validation that differs from one of training in at most ``MAX_DISTANCE`` bits.

    Shared photos and photos of one colour are left out.
    """
    files = {seen.photo.file for seen in train}
    mine = [seen for seen in val if seen.photo.fingerprint and seen.photo.file not in files]
    theirs = [seen for seen in train if seen.photo.fingerprint]
    if not mine or not theirs:
        return
    marks, others = (np.array([seen.photo.fingerprint for seen in side], dtype=np.uint64) for side in (mine, theirs))
    for index, (other, distance) in sorted(nearest(marks, others).items()):
        message = f"looks like the photo of {theirs[other].place} ({distance} of 128 bits differ)"
        yield _finding("image-similar", mine[index], message)


def nearest(marks: np.ndarray, others: np.ndarray, limit: int = MAX_DISTANCE) -> dict[int, tuple[int, int]]:
    """The nearest of ``others`` uint64 ``[M, 2]`` to each of ``marks`` ``[N, 2]`` within ``limit`` bits, and how far.

    Of the eight parts of 16 bits, at least one is equal where at most seven bits differ: only such pairs are compared.
    """
    assert limit < 8
    best: dict[int, tuple[int, int]] = {}
    for mine, theirs in zip(marks.view(np.uint16).T, others.view(np.uint16).T, strict=True):
        order = np.argsort(theirs, kind="stable")
        low, high = (np.searchsorted(theirs[order], mine, side) for side in ("left", "right"))
        for rows in _portions(high - low):
            counts = (high - low)[rows]
            which = np.repeat(rows, counts)
            steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            found_at = order[np.repeat(low[rows], counts) + steps]
            distances = np.bitwise_count(marks[which] ^ others[found_at]).sum(axis=1)
            near = np.flatnonzero(distances <= limit)
            for place in near[np.argsort(distances[near], kind="stable")][::-1]:
                pair = (int(found_at[place]), int(distances[place]))
                index = int(which[place])
                if index not in best or pair[1] <= best[index][1]:
                    best[index] = pair
    return best


def shared_groups(val: Groups, train: Groups, group_by: str) -> Iterator[Finding]:
    """A warning for each group with records in both."""
    for group in val:
        if group in train:
            (place, count), (other, there) = val[group], train[group]
            message = (
                f"group {group} is in {count} record{'s' * (count != 1)} here and in {there} of training ({other} …)"
            )
            advice = "scores then say little about new groups: keep each group in one split"
            yield found("group-shared", f"{message}; {advice}", **place._asdict(), field=group_by)


def _portions(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Row numbers with a count, in portions of about ``PAIRS_AT_ONCE`` pairs."""
    rows = np.flatnonzero(counts)
    parts = np.cumsum(counts[rows]) // PAIRS_AT_ONCE
    return iter(np.split(rows, np.flatnonzero(np.diff(parts)) + 1)) if len(rows) else iter(())


def _finding(code: str, seen: Seen, message: str) -> Finding:
    text = f"({seen.photo.file}) {message}; expected photos the model has not been trained on"
    return found(code, text, **seen.place._asdict(), field=f"images[{seen.image}]")


def _digest(file: str, limit: int) -> bytes:
    """Hash of the first ``limit`` bytes of a file, of all for -1; a file that is gone by now equals no other."""
    try:
        with open(file, "rb") as stream:
            if limit > 0:
                return hashlib.blake2b(stream.read(limit), digest_size=16).digest()
            return hashlib.file_digest(stream, "blake2b").digest()
    except OSError:
        return file.encode()
