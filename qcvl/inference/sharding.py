"""Deal work over processes and gather results; with one process both do nothing."""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist

from qcvl.errors import QcvlError

Item = TypeVar("Item")


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if _are_several():
        dist.barrier()


def shard(items: Sequence[Item]) -> list[Item]:
    """This process's share: items ``rank, rank + world, …``; shares may differ by one."""
    if not _are_several():
        return list(items)
    return list(items[dist.get_rank() :: dist.get_world_size()])


def gather_objects(mine: Sequence[Item]) -> list[Item]:
    """All processes' items in the order ``shard`` dealt them, on every process.

    Raises:
        QcvlError: where one of them is gone.
    """
    if not _are_several():
        return list(mine)
    shares: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    try:
        dist.all_gather_object(shares, list(mine))
    except RuntimeError as error:
        told = str(error).splitlines()[0]
        raise QcvlError(
            f"another process of this command ended or cannot be reached: see its own error ({told})"
        ) from error
    longest = max(map(len, shares))
    return [share[place] for place in range(longest) for share in shares if place < len(share)]
