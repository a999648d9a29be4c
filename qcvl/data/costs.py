"""What a sample costs a training step, counted in tokens: the work of one text token without what it attends to.

The rates are those of Qwen3-VL-4B with all towers trained; of the other published sizes a patch is worth .01 to .5
tokens. They decide no more than which micro-batches run side by side.
"""

import numpy as np

PATCH = 0.091  # the vision tower and its mergers over one patch
CAUSAL_PAIR = 8.1e-5  # a token of a sample that attends to one before it (or to itself), in all text layers
FRAME_PAIR = 1.35e-5  # a patch that attends to one of its frame, in all vision blocks


def text_cost(tokens: np.ndarray) -> np.ndarray:
    """Float64 like ``tokens``: the text layers over samples of so many tokens, visual ones included."""
    return tokens + CAUSAL_PAIR / 2 * np.square(tokens, dtype=np.float64)


def visual_cost(grids: np.ndarray) -> float:
    """The vision tower over patch grids int64 ``[runs, 3]``: time, rows, columns."""
    frames, patches = grids[:, 0], grids[:, 1] * grids[:, 2]
    return float((frames * (PATCH * patches + FRAME_PAIR * np.square(patches, dtype=np.float64))).sum())
