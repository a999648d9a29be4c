"""Which part of a batch's row a rank trains on, where several ranks hold one row together."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from qcvl.data.chat import IGNORE
from qcvl.errors import ConfigError
from qcvl.models.attention import VARLEN
from qcvl.models.forward import unwrap
from qcvl.models.sequence import RowShare, SequenceGroup, deal_frames, require_heads, share_width


class RowSharing:
    """Groups of ``degree`` neighbouring ranks that get the same batches, and each rank's share of them.

    With a degree of 1 a batch comes back as it is.
    """

    def __init__(self, degree: int) -> None:
        self.degree = degree
        self.group: SequenceGroup | None = None

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError for a language model whose attention or number of heads does not go with the degree."""
        if self.degree == 1:
            return
        text = unwrap(model).config.text_config
        if text._attn_implementation != VARLEN:
            raise ConfigError(
                f"sp_degree: {self.degree} needs model.attn=varlen; this model attends by {text._attn_implementation}"
            )
        require_heads(text.num_attention_heads, text.num_key_value_heads, self.degree)

    def join(self) -> None:
        """Find the ranks of one's group, once; all processes are there by now."""
        if self.degree == 1 or self.group is not None:
            return
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if processes % self.degree:
            raise ConfigError(
                f"sp_degree: groups of {self.degree} ranks do not divide the {processes} of this run; set "
                "trainer.devices (times trainer.num_nodes) to a multiple of sp_degree"
            )
        self.group = SequenceGroup.join(self.degree)

    def share(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The same batch with this rank's tokens ``[1, n]`` of the row, and ``share``, which says what they are of.

        ``labels`` and ``label_kinds`` are ``[1, n + 1]``: the label behind the last token is predicted here. The
        first one is predicted, and counts, on the rank before. ``pixel_values`` and ``image_grid_thw`` are of the
        frames that this rank looks at, the targets of visual tokens those of its tokens; ``segments`` stay whole.
        """
        if self.group is None:
            return batch
        rank, ranks = self.group.rank, self.group.size
        length = batch["input_ids"].shape[1]
        width = share_width(length, ranks)
        start, stop = rank * width, (rank + 1) * width
        padding = ranks * width + 1 - length

        def part(name: str, end: int, filling: int = 0) -> Tensor:
            return F.pad(batch[name], (0, padding), value=filling)[..., start:end]

        kinds = part("label_kinds", stop + 1).clone()
        kinds[:, 0] = 0
        is_cell = F.pad(batch["mm_token_type_ids"][0] > 0, (0, padding - 1))
        cells = _neighbours(is_cell.view(ranks, width).sum(1).tolist())
        grids = deal_frames(batch["image_grid_thw"], ranks)
        patches = [int(grid.prod(1).sum()) for grid in grids]
        a_cell = max(sum(patches), 1) // max(cells[-1].stop, 1)
        seen = _neighbours([count // a_cell for count in patches])
        mine = {
            "input_ids": part("input_ids", stop),
            "position_ids": part("position_ids", stop),
            "mm_token_type_ids": part("mm_token_type_ids", stop),
            "labels": part("labels", stop + 1, IGNORE),
            "label_kinds": kinds,
            "pixel_values": batch["pixel_values"][_neighbours(patches)[rank]],
            "image_grid_thw": grids[rank],
            "share": RowShare(self.group, length, slice(start, min(stop, max(start, length))), cells, seen),
        }
        mine |= {name: batch[name][cells[rank]] for name in ("cell_classes", "cell_points") if name in batch}
        return {**batch, **mine}


def _neighbours(counts: Sequence[int]) -> tuple[slice, ...]:
    """So many things for each, one behind another."""
    edges = [0, *accumulate(counts)]
    return tuple(slice(start, stop) for start, stop in pairwise(edges))
