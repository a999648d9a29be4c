"""The row layout that batches samples, and what the micro-batches of a step hold together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qcvl.augment.telemetry import added
from qcvl.data.chat import IGNORE
from qcvl.data.encode import Features
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.errors import DataError
from qcvl.models.pixels import repeated


def collate(features: Sequence[Features | None]) -> dict[str, Any]:
    """Lay samples one after another in one row.

    Returns:
        ``input_ids``, ``labels``, ``mm_token_type_ids`` int64 ``[1, L]``; ``label_kinds`` int8 ``[1, L]`` (see
        ``data.label_kinds``); ``position_ids`` int64 ``[4, 1, L]``;
        ``segments`` int64 ``[samples]`` (lengths, summing to L); ``pixel_values`` uint8 ``[N, patch dim]``, grey levels
        (see ``forward.normalised``) of images and videos in row order; ``image_grid_thw`` int64 ``[runs of visual
        tokens, 3]``; ``dropped``, how many samples were
        overlong; ``telemetry``, the sums of what augmentation counted; with grounding targets also ``cell_classes``
        int64 ``[cells]`` and ``cell_points`` float32 ``[cells, 8]``.

    Raises:
        DataError: when every sample of the batch was dropped as overlong.
    """
    kept = [item for item in features if item is not None]
    if not kept:
        raise DataError("every sample of a batch was dropped as overlong; raise global_max_length or data.batch_size")

    def row(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(item, name) for item in kept]))

    batch = {
        "input_ids": row("input_ids")[None],
        "labels": row("labels")[None],
        "label_kinds": row("label_kinds")[None],
        "mm_token_type_ids": row("token_types")[None],
        "position_ids": torch.from_numpy(np.concatenate([item.positions for item in kept], axis=1))[:, None],
        "segments": torch.tensor([len(item.input_ids) for item in kept]),
        "pixel_values": torch.from_numpy(_patches([item.patches for item in kept])),
        "image_grid_thw": row("grids"),
        "dropped": torch.tensor(len(features) - len(kept)),
        "telemetry": added(item.telemetry for item in kept),
    }
    if kept[0].cell_classes is not None:
        batch |= {"cell_classes": row("cell_classes"), "cell_points": row("cell_points")}
    return batch


def _patches(rows: Sequence[np.ndarray]) -> np.ndarray:
    """All patch rows, those of photos repeated along time where others are of videos and hold several frames."""
    width = max(part.shape[1] for part in rows)
    return np.concatenate([part if part.shape[1] == width else repeated(part, width // part.shape[1]) for part in rows])


def step_counts(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What some micro-batches hold together: label tokens by kind, int64 ``[LABEL_KINDS]``, and visual tokens.

    Of the visual tokens, those with grounding targets count, where there are any: a chat sample has none.
    """
    none = torch.zeros(len(LABEL_KINDS), dtype=torch.int64)
    labels = sum((count_labels(batch["label_kinds"]) for batch in batches), start=none)
    return {"step_labels": labels, "step_cells": torch.tensor(sum(map(_cells, batches)))}


def count_labels(label_kinds: torch.Tensor) -> torch.Tensor:
    """Label tokens of each kind, int64 ``[LABEL_KINDS]``, in a batch's ``label_kinds``."""
    return torch.bincount(label_kinds.flatten().int(), minlength=len(LABEL_KINDS) + 1)[1:]


def _cells(batch: Mapping[str, torch.Tensor]) -> int:
    if "cell_classes" in batch:
        return int((batch["cell_classes"] != IGNORE).sum())
    return int((batch["mm_token_type_ids"] > 0).sum())
