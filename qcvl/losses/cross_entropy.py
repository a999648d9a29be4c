"""Cross-entropy of the LM head at label positions, without the whole logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

BLOCK = 160 * 2**20  # bytes of the rows of logits that are float32 at once: 276 at a vocabulary of 151,936
CPU_BLOCK = 12 * 2**20  # whose allocator gives larger tensors back after each use, and gets them again page by page


def label_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Cross-entropies ``[N]`` of ``hidden [N, H] @ weight[V, H].T`` against ``targets [N]``, and the correct count.

    Works on ``chunk`` tokens at a time and computes each chunk's logits again in the backward pass, so that at most
    ``[chunk, V]`` logits exist at once. The losses are float32 and carry the graph; the count is int64.

    Example:
        >>> label_cross_entropy(torch.zeros(3, 2), torch.zeros(5, 2), torch.tensor([0, 1, 2]), chunk=2)
        (tensor([1.6094, 1.6094, 1.6094]), tensor(1))
    """
    if len(targets) <= chunk:
        return _chunk_loss(hidden, weight, targets)
    losses, correct = [], targets.new_zeros(())
    for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True):
        part, hits = checkpoint(_chunk_loss, h, weight, y, use_reentrant=False, preserve_rng_state=False)
        losses.append(part)
        correct = correct + hits
    return torch.cat(losses), correct


def _chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    losses, hits = _InPlaceCrossEntropy.apply(F.linear(hidden, weight), targets)  # type: ignore[no-untyped-call]
    return losses, hits.sum()


class _InPlaceCrossEntropy(torch.autograd.Function):
    """Float32 losses ``[N]`` and bool hits ``[N]`` of ``logits [N, V]``, whose memory becomes that of their gradient.

    torch's own keeps the logarithms of the probabilities and makes two gradients of that size in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and hits; ``BLOCK`` bytes at a time become float32."""
        rows = block_rows(logits)
        pairs = zip(logits.split(rows), targets.split(rows), strict=True)
        blocks = [_block_loss(block.float(), target) for block, target in pairs]
        losses, hits, totals = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        ctx.save_for_backward(logits, targets, totals)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """Probabilities less the target's one, times the losses' gradient, in the place of the logits."""
        logits, targets, totals = ctx.saved_tensors
        blocks = (tensor.split(block_rows(logits)) for tensor in (logits, targets, totals, grad))
        for block, target, total, scale in zip(*blocks, strict=True):
            values = block.float().sub_(total[:, None]).exp_()  # of float32 logits this is the block itself
            values.scatter_add_(1, target[:, None], -torch.ones_like(target, dtype=values.dtype)[:, None])
            block.copy_(values.mul_(scale[:, None]))
        return logits, None


def block_rows(logits: Tensor) -> int:
    """How many rows of logits ``[N, V]`` are worked on at once."""
    size = CPU_BLOCK if logits.device.type == "cpu" else BLOCK
    return max(size // (4 * logits.shape[1]), 1)


def _block_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, hits and logarithms of the sums of exponentials of some rows."""
    top, best = logits.max(dim=-1)
    totals = (logits - top[:, None]).exp_().sum(dim=-1).log_() + top
    return totals - logits.gather(1, targets[:, None])[:, 0], best == targets, totals
