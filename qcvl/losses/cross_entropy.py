"""Cross-entropy of the LM head at label positions, without the whole logits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


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
    logits = F.linear(hidden, weight).float()
    return F.cross_entropy(logits, targets, reduction="none"), (logits.argmax(dim=-1) == targets).sum()
