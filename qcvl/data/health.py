"""What must hold in every batch of the one-row layout before a model sees it."""

import math
from collections.abc import Mapping
from itertools import zip_longest

import torch

from qcvl.data.chat import IGNORE
from qcvl.errors import DataError


def check_batch(batch: Mapping[str, torch.Tensor], merge_size: int) -> None:
    """Check one row (see ``collate``) against its own segments and grids.

    Raises:
        DataError: naming the rule that is broken: segments cover the row, every segment starts unlabelled and holds at
            least one label, positions restart with each segment, image tokens match the grids, patches are grey levels.
    """
    ids, labels, segments = batch["input_ids"], batch["labels"], batch["segments"]
    starts = torch.cumsum(segments, 0) - segments
    if labels.shape != ids.shape:
        raise DataError(f"a batch has {labels.numel()} labels for {ids.numel()} tokens; expected one each")
    if int(segments.sum()) != ids.shape[1]:
        raise DataError(f"a batch of {ids.shape[1]} tokens has segments of {int(segments.sum())} in all")
    trained = (labels[0] != IGNORE).long()
    if trained[starts].any():
        raise DataError("a sample's first token carries a label; the sample before it would predict it")
    empty = [index for index, part in enumerate(trained.split(segments.tolist())) if not part.any()]
    if empty:
        raise DataError(f"samples {empty} of a batch carry no label; every sample needs an answer")
    if batch["position_ids"][0, 0, starts].any():
        raise DataError("positions do not restart at 0 where a sample starts; samples would see each other")
    cells, expected = int((batch["mm_token_type_ids"] > 0).sum()), int(batch["image_grid_thw"].prod(1).sum())
    if cells * merge_size**2 != expected or expected != len(batch["pixel_values"]):
        patches = len(batch["pixel_values"])
        raise DataError(
            f"a batch has {cells} image tokens and {patches} patches for grids of {expected} patches, {merge_size**2} "
            f"to a token{_first_misfit(batch, merge_size)}; the chat template or the model's patch settings are not "
            "those of its processor"
        )
    if batch["pixel_values"].dtype != torch.uint8:
        raise DataError(f"a batch has patches of {batch['pixel_values'].dtype}; expected grey levels, uint8")


def _first_misfit(batch: Mapping[str, torch.Tensor], merge_size: int) -> str:
    """The first image whose run of tokens is not what its grid makes."""
    kinds, counts = torch.unique_consecutive((batch["mm_token_type_ids"][0] > 0).int(), return_counts=True)
    found, grids = counts[kinds == 1].tolist(), batch["image_grid_thw"].tolist()
    for number, (tokens, grid) in enumerate(zip_longest(found, grids), start=1):
        expected = 0 if grid is None else math.prod(grid) // merge_size**2
        if tokens != expected:
            return f": image {number} has {tokens or 0} where its grid {grid} makes {expected}"
    return ""
