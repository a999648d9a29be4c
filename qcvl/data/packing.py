"""Batch plans: which samples make up each micro-batch of each rank."""

from qcvl.errors import DataError


def fixed_count(order: list[int], batch_size: int, world_size: int) -> list[list[list[int]]]:
    """``plan[step][rank]`` = the samples of one micro-batch: ``batch_size`` a rank, dealt round robin.

    Every rank gets the same number of micro-batches and every sample comes exactly once. The last global batch may be
    smaller; where it has fewer samples than there are ranks, it joins the one before it.

    Raises:
        DataError: when there are fewer samples than ranks.
    """
    if len(order) < world_size:
        raise DataError(
            f"an epoch of {len(order)} samples cannot feed {world_size} ranks; add data or use fewer devices"
        )
    width = batch_size * world_size
    chunks = [order[start : start + width] for start in range(0, len(order), width)]
    if len(chunks[-1]) < world_size:
        chunks[-2:] = [chunks[-2] + chunks[-1]]
    return [[chunk[rank::world_size] for rank in range(world_size)] for chunk in chunks]
