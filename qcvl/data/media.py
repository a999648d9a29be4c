"""A sample's photos and clips in the order in which its conversation shows them: patches, grids and times."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qcvl.models.pixels import clip_grid, clip_patches, patch_grid, to_patches
from qcvl.models.spec import Family, Processing
from qcvl.schema.types import Clip, Place, Sample

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Media:
    """One entry a run of visual tokens: patch ``grids`` int64 ``[runs, 3]``, and how far time moves in one, ``[runs]``.

    ``times`` are those written into the text: for each clip the seconds of its groups of frames, which are its runs.
    Of a family that writes no times a clip is one run and has none.
    """

    grids: np.ndarray
    intervals: np.ndarray
    times: tuple[tuple[float, ...], ...] = ()


def media_of(sample: Sample, processing: Processing) -> Media:
    """What the sizes of a sample's photos and clips make of them; no pixel is looked at."""
    grids: list[Grid] = []
    intervals: list[float] = []
    times: list[tuple[float, ...]] = []
    family = processing.family
    for medium in _in_order(sample):
        if not isinstance(medium, Clip):
            grids.append(patch_grid(medium.shape[0], medium.shape[1], processing))
            intervals.append(1.0)
            continue
        grid = clip_grid(len(medium.frames), medium.frames.shape[1], medium.frames.shape[2], family)
        if family.times_in_text:
            times.append(group_seconds(medium.seconds, family))
            grids += [(1, *grid[1:])] * grid[0]
            intervals += [1.0] * grid[0]
        else:
            grids.append(grid)
            rate = family.tokens_per_second
            intervals.append(1.0 if rate is None else rate * family.temporal_patch_size / medium.fps)
    return Media(np.array(grids, dtype=np.int64).reshape(-1, 3), np.array(intervals), tuple(times))


def patches_of(sample: Sample, processing: Processing, *, still: bool) -> np.ndarray:
    """Uint8 patch rows ``[N, 3 * temporal * side * side]``, in the order of ``media_of``.

    ``still`` leaves out the repetition along time, as for ``to_patches``, where there is no clip.
    """
    if not sample.videos:
        return patchify(sample.images, processing, still=still)[0]
    return np.concatenate(
        [
            clip_patches(medium.frames, processing.family)
            if isinstance(medium, Clip)
            else to_patches(medium, processing)[0]
            for medium in _in_order(sample)
        ]
    )


def patchify(
    images: Sequence[np.ndarray], processing: Processing, *, still: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """All patches ``[N, patch dim]`` and grids ``[images, 3]`` of a sample's images; see ``to_patches``."""
    if not images:
        side = processing.family.factor
        blank, _ = to_patches(np.zeros((side, side, 3), np.uint8), processing, still=still)
        return blank[:0], np.zeros((0, 3), dtype=np.int64)
    pairs = [to_patches(image, processing, still=still) for image in images]
    rows = pairs[0][0] if len(pairs) == 1 else np.concatenate([patches for patches, _ in pairs])
    return rows, np.array([grid for _, grid in pairs], dtype=np.int64)


def group_seconds(seconds: Sequence[float] | np.ndarray, family: Family) -> tuple[float, ...]:
    """When each group of frames shows: midway between its first and last frame, the clip's last filling up its group.

    These are the times Qwen3VLProcessor writes.
    """
    size = family.temporal_patch_size
    times = [float(value) for value in seconds]
    times += [times[-1]] * (-len(times) % size)
    return tuple((times[start] + times[start + size - 1]) / 2 for start in range(0, len(times), size))


def _in_order(sample: Sample) -> Iterator[np.ndarray | Clip]:
    """The media as the places of the messages show them; a sample without messages shows its photos in order."""
    if not sample.videos:
        yield from sample.images
        return
    images, videos = iter(sample.images), iter(sample.videos)
    for message in sample.messages:
        for part in message.parts:
            if isinstance(part, Place):
                yield next(images) if part.kind == "image" else next(videos)
