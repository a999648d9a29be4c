"""Positions of one sample's tokens for Qwen's multimodal rotary embedding, in numpy."""

from collections.abc import Sequence

import numpy as np

from qcvl.errors import DataError
from qcvl.models.spec import Processing


def media_types(input_ids: np.ndarray, processing: Processing) -> np.ndarray:
    """Int64 ``[L]``, 0 where a token is text, 1 where it is an image cell, 2 where it is a video cell."""
    ids = np.asarray(input_ids)
    return (ids == processing.image_pad) + 2 * (ids == processing.video_pad).astype(np.int64)


def rope_positions(
    input_ids: np.ndarray,
    grids: Sequence[tuple[int, int, int]] | np.ndarray,
    processing: Processing,
    intervals: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Int64 ``[4, L]``: row 0 counts the tokens from 0, rows 1-3 are time, height and width positions.

    Args:
        input_ids: ids ``[L]`` of one sample with its media placeholders already expanded.
        grids: one patch grid ``(time, rows, columns)`` per run of media cells, in the order they appear (a video of
            Qwen3-VL has one run and one grid per frame pair).
        processing: names the placeholder ids and the merge factor.
        intervals: how far time moves from one frame pair of a grid to the next; 1 if not given.

    Text moves all three by one a token; an image keeps time still, spreads height and width over its cells, and moves
    the text after it by the larger of its two sides. A video does so too, however far its time moves: this is how
    transformers counts.

    Raises:
        DataError: when the runs of placeholders do not match the grids.
    """
    is_media = media_types(input_ids, processing) > 0
    length = len(is_media)
    positions = np.empty((4, length), dtype=np.int64)
    positions[0] = np.arange(length)
    merge, token, position = processing.family.merge_size, 0, 0
    listed = np.asarray(grids, dtype=np.int64).reshape(-1, 3)
    steps = np.ones(len(listed)) if intervals is None else np.asarray(intervals)
    for number, ((time, rows, columns), step) in enumerate(zip(listed.tolist(), steps.tolist(), strict=True)):
        shape = (time, rows // merge, columns // merge)
        cells = shape[0] * shape[1] * shape[2]
        start = token + int(np.argmax(is_media[token:])) if is_media[token:].any() else length
        if not is_media[start : start + cells].all() or start + cells > length:
            raise DataError(
                f"media {number} has a grid of {cells} cells, but the sample has no run of that many placeholders from "
                f"token {start} of {length} on; expand placeholders from the patch grid"
            )
        positions[1:, token:start] = np.arange(position, position + start - token)
        position += start - token
        places = np.indices(shape).reshape(3, -1)
        places[0] = (places[0].astype(np.float32) * np.float32(step)).astype(np.int64)  # rounded down, as torch does
        positions[1:, start : start + cells] = places + position
        position += max(shape[1], shape[2])
        token = start + cells
    if is_media[token:].any():
        raise DataError(
            f"the sample has {int(is_media[token:].sum())} media placeholders more than its grids have cells"
        )
    positions[1:, token:] = np.arange(position, position + length - token)
    return positions
