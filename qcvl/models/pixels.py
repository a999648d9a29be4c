"""From an RGB image to the model's patch rows in grey levels, those of transformers' `Qwen2VLImageProcessorPil`.

Rows stay uint8 on their way from a worker to the device, a quarter of the bytes; ``forward.normalised`` does the rest.
"""

import math

import numpy as np
from PIL import Image

from qcvl.errors import DataError
from qcvl.models.spec import Family, Processing

MAX_ASPECT_RATIO = 200  # transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.smart_resize


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """``(height, width)`` in pixels, multiples of ``factor`` near the given ones with the area brought into budget.

    Raises:
        DataError: when a side is empty or one side is over 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise DataError(
            f"an image of {width}x{height} pixels cannot be cut into patches: sides must be at least 1 and their ratio "
            f"at most {MAX_ASPECT_RATIO}; crop it or leave it out"
        )
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def seen_size(height: int, width: int, processing: Processing) -> tuple[int, int]:
    """``(height, width)`` in pixels of the resized image the model sees."""
    return smart_resize(height, width, processing.family.factor, processing.min_pixels, processing.max_pixels)


def patch_grid(height: int, width: int, processing: Processing) -> tuple[int, int, int]:
    """Patch grid ``(1, rows, columns)`` that `to_patches` gives an image of this size; no pixels needed."""
    seen_height, seen_width = seen_size(height, width, processing)
    side = processing.family.patch_size
    return 1, seen_height // side, seen_width // side


def to_patches(
    image: np.ndarray, processing: Processing, *, still: bool = False
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Uint8 patch rows ``[rows * columns, 3 * temporal * side * side]`` and the grid ``(1, rows, columns)``.

    Args:
        image: uint8 RGB ``[H, W, 3]``.
        processing: budget, resampling and patch sides.
        still: leave out the repetition along time: rows of ``3 * side * side``, for a model that takes these.

    Rows are ordered block by block (``merge_size`` x ``merge_size`` patches make one cell), as the vision tower wants.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"expected a uint8 RGB image [H, W, 3], found {image.dtype} {list(image.shape)}")
    height, width = seen_size(image.shape[0], image.shape[1], processing)
    if image.shape[:2] != (height, width):
        resized = Image.fromarray(image).resize((width, height), resample=Image.Resampling(processing.resample))
        image = np.asarray(resized)
    return _cut(image, processing, still)


def clip_grid(frames: int, height: int, width: int, family: Family) -> tuple[int, int, int]:
    """Patch grid ``(time, rows, columns)`` of so many frames, whose sides in pixels fit the patches."""
    return -(-frames // family.temporal_patch_size), height // family.patch_size, width // family.patch_size


def clip_patches(frames: np.ndarray, family: Family) -> np.ndarray:
    """Uint8 patch rows ``[time * rows * columns, 3 * temporal * side * side]`` of a clip (see ``clip_grid``).

    Args:
        frames: uint8 RGB ``[T, H, W, 3]``, sides multiples of ``family.factor``; the last frame fills up its group.
        family: patch sides.
    """
    group, side, merge = family.temporal_patch_size, family.patch_size, family.merge_size
    time, rows, columns = clip_grid(len(frames), frames.shape[1], frames.shape[2], family)
    filled = np.concatenate([frames, np.repeat(frames[-1:], time * group - len(frames), axis=0)])
    blocks = filled.reshape(time, group, rows // merge, merge, side, columns // merge, merge, side, 3)
    values = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # [time, R, C, merge, merge, 3, group, side, side]
    return np.ascontiguousarray(values).reshape(time * rows * columns, family.patch_values)


def to_frames(rows: np.ndarray, grid: tuple[int, int, int], family: Family) -> np.ndarray:
    """The picture, or the frames of a clip, that patch rows were cut from, uint8 ``[T, H, W, 3]``.

    Args:
        rows: uint8 patch rows ``[time * rows * columns, …]``, of stills or with frames (see ``to_patches``).
        grid: ``(time, rows, columns)``.
        family: patch sides.
    """
    side, merge = family.patch_size, family.merge_size
    time, high, wide = grid
    group = rows.shape[1] // (3 * side * side)
    blocks = rows.reshape(time, high // merge, wide // merge, merge, merge, 3, group, side, side)
    frames = blocks.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)  # [time, group, R, merge, side, C, merge, side, 3]
    return np.ascontiguousarray(frames).reshape(time * group, high * side, wide * side, 3)


def repeated(rows: np.ndarray, times: int) -> np.ndarray:
    """Still patch rows ``[N, 3 * side * side]`` as transformers lays them out, ``[N, 3 * times * side * side]``."""
    parts = rows.reshape(len(rows), 3, 1, rows.shape[1] // 3)
    return np.repeat(parts, times, axis=2).reshape(len(rows), times * rows.shape[1])


def _cut(image: np.ndarray, processing: Processing, still: bool) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Lay uint8 ``[H, W, 3]`` out as patch rows (repeated along time unless ``still``)."""
    family = processing.family
    side, merge = family.patch_size, family.merge_size
    rows, columns = image.shape[0] // side, image.shape[1] // side
    blocks = image.reshape(rows // merge, merge, side, columns // merge, merge, side, 3)
    values = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # [R, C, merge, merge, 3, side, side]
    patches = np.ascontiguousarray(values).reshape(rows * columns, 3 * side * side)
    return patches if still else repeated(patches, family.temporal_patch_size), (1, rows, columns)
