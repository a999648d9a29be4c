"""One packed row held by several ranks: Ulysses sequence parallelism (https://arxiv.org/abs/2309.14509).

Each rank of a group runs all layers on its part of the row's tokens. Before attention an all-to-all turns the part of
the tokens with all heads into all tokens with a part of the heads, and after it back; so attention itself is that of
the whole row, segments included. Each looks at its share of the row's images, and an all-to-all brings the visual
tokens to where they stand in the row.

Shapes: S ranks of a group, L tokens of the row, n = ceil(L / S) of them on each rank (the last ones padding), H heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from qcvl.errors import ConfigError


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that hold rows together: torch's process group, this rank's number in it, and how many they are."""

    process_group: dist.ProcessGroup
    rank: int
    size: int

    @classmethod
    def join(cls, size: int) -> "SequenceGroup":
        """Neighbouring ranks, ``size`` of them; every rank of the run calls this at the same time."""
        own, _ = dist.new_subgroups(size)
        return cls(own, dist.get_rank() % size, size)


@dataclass(frozen=True)
class RowShare:
    """This rank's part of a row: how long the row is, and which of its tokens are in the part.

    Of the row's visual tokens each rank has those of ``cells`` in its part, and looks at the images of those of
    ``seen``.
    """

    group: SequenceGroup
    length: int
    tokens: slice
    cells: tuple[slice, ...]
    seen: tuple[slice, ...]

    @property
    def width(self) -> int:
        """Tokens of each rank's part, padding included."""
        return share_width(self.length, self.group.size)


def share_width(length: int, ranks: int) -> int:
    """Tokens of each part of a row of ``length``, padded so that the parts are equal."""
    return -(-length // ranks)


def deal_frames(grids: Tensor, ranks: int) -> list[Tensor]:
    """Each rank's part of a row's images and videos, ``image_grid_thw [n, 3]``: neighbouring frames, equal patches.

    No frame is divided, so that ranks may differ by one, and some have none; towers attend within a frame (pair).
    """
    of_grid = torch.arange(len(grids), device=grids.device).repeat_interleave(grids[:, 0])
    patches = (grids[:, 1] * grids[:, 2])[of_grid]
    middles = patches.cumsum(0) - patches / 2
    owners = (middles * ranks / patches.sum()).long()
    parts = []
    for rank in range(ranks):
        frames = of_grid[owners == rank].bincount(minlength=len(grids))
        parts.append(torch.cat([frames[:, None], grids[:, 1:]], dim=1)[frames > 0])
    return parts


def require_heads(heads: int, key_heads: int, ranks: int) -> None:
    """Raise ConfigError where ``ranks`` cannot share the language model's attention heads evenly.

    Fewer key heads than ranks are repeated, so their number must divide that of the ranks, or the other way round.
    """
    if heads % ranks == 0 and (key_heads % ranks == 0 or ranks % key_heads == 0):
        return
    fits = [n for n in range(1, heads + 1) if heads % n == 0 and (key_heads % n == 0 or n % key_heads == 0)]
    raise ConfigError(
        f"sp_degree: {ranks} ranks cannot share {heads} attention heads and {key_heads} key heads evenly; this model "
        f"takes {', '.join(map(str, fits))}"
    )


def to_heads(query: Tensor, key: Tensor, value: Tensor, share: RowShare) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens of some heads, ``[1, H / S, L, D]``, from some tokens of all heads, ``[1, H, n, D]``."""
    ranks = share.group.size
    parts = [_enough_heads(tensor[0], ranks).unflatten(0, (ranks, -1)) for tensor in (query, key, value)]
    row = exchange(torch.cat(parts, dim=1), share.group)  # [S, heads of all three, n, D], from each rank its tokens
    row = row.transpose(0, 1).flatten(1, 2)[:, : share.length]
    q, k, v = row[None].split([part.shape[1] for part in parts], dim=1)
    return q, k, v


def to_tokens(out: Tensor, share: RowShare) -> Tensor:
    """Some tokens of all heads, ``[1, n, H, D]``, from all tokens of some heads, ``[1, L, H / S, D]``."""
    ranks, width = share.group.size, share.width
    padded = F.pad(out[0], (0, 0, 0, 0, 0, ranks * width - share.length))
    return exchange(padded.unflatten(0, (ranks, width)), share.group).transpose(0, 1).flatten(1, 2)[None]


def _enough_heads(tensor: Tensor, ranks: int) -> Tensor:
    """Heads ``[H, n, D]``, each repeated where there are fewer than ranks."""
    return tensor if len(tensor) >= ranks else tensor.repeat_interleave(ranks // len(tensor), dim=0)


def to_places(seen: Tensor, share: RowShare) -> Tensor:
    """Visual tokens ``[m, D]`` of this rank's part of the row, from those ``[n, D]`` that it has looked at."""
    rank = share.group.rank
    sent = [_common(share.seen[rank], part) for part in share.cells]
    received = [_common(part, share.cells[rank]) for part in share.seen]
    result: Tensor = _Exchange.apply(seen, sent, received, share.group.process_group)
    return result


def _common(one: slice, other: slice) -> int:
    return max(min(one.stop, other.stop) - max(one.start, other.start), 0)


def exchange(blocks: Tensor, group: SequenceGroup) -> Tensor:
    """All-to-all: block ``i`` of ``[S, …]`` goes to rank ``i``; block ``i`` of the result comes from it.

    It is its own inverse and its own transpose, so gradients travel back by the same exchange.
    """
    each = [1] * group.size
    result: Tensor = _Exchange.apply(blocks, each, each, group.process_group)
    return result


def summed(tensor: Tensor, group: SequenceGroup) -> Tensor:
    """The sum of the ranks' tensors, on each of them.

    Each rank's loss may depend on it: its gradient is the sum of what comes back to all of them.
    """
    result: Tensor = _Sum.apply(tensor, group.process_group)
    return result


class _Exchange(torch.autograd.Function):
    """All-to-all of ``sent[i]`` rows to rank ``i`` and ``received[i]`` rows from it."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sent: list[int], received: list[int], process_group: dist.ProcessGroup
    ) -> Tensor:
        ctx.way_back = received, sent, process_group
        result = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(result, rows.contiguous(), received, sent, group=process_group)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _Exchange.apply(gradient, *ctx.way_back), None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, process_group: dist.ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        total = tensor.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _Sum.apply(gradient, ctx.process_group), None
