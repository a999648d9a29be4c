"""The loss that keeps a mixture of experts from using a few of them alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qcvl.models.sequence import RowShare, summed


def load_balance(router_logits: Sequence[Tensor], top_k: int, share: RowShare | None = None) -> Tensor:
    """The load-balancing loss of Switch Transformer (https://arxiv.org/abs/2101.03961, equations 4 to 6), a scalar.

    ``E * sum(share_e * probability_e)`` over ``E`` experts: the tokens an expert gets, over all tokens, times its mean
    probability. ``top_k`` when all experts are used alike, up to ``E`` when the same ones are always chosen. All
    layers are counted together, as transformers does.

    Args:
        router_logits: ``[L, E]`` of each layer.
        top_k: experts a token goes to.
        share: what part of a row the tokens are, where several ranks hold it; the loss is that of the whole row.
    """
    own = None if share is None else share.tokens.stop - share.tokens.start  # what follows is padding
    logits = torch.cat([layer[:own].float() for layer in router_logits])
    probabilities = logits.softmax(-1)
    chosen = torch.zeros_like(logits).scatter_(1, probabilities.topk(top_k).indices, 1.0)
    sums, tokens = torch.stack([chosen.sum(0), probabilities.sum(0)]), len(logits)
    if share is not None:
        sums, tokens = summed(sums, share.group), len(router_logits) * share.length
    shares, mean = sums / tokens
    return logits.shape[1] * (shares * mean).sum()
