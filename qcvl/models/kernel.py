"""Attention over packed samples in one call of torch's own variable-length kernel, where the GPU has it."""

import inspect
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import accumulate

import torch

HALVES = (torch.bfloat16, torch.float16)
NEEDED = {"scale", "window_size", "enable_gqa"}  # arguments that the first torch versions with the kernel lack
AMPERE = (8, 0)  # the first GPUs that the kernel runs on


@lru_cache
def has_kernel() -> bool:
    """Whether this torch has `torch.nn.attention.varlen` with all that is needed of it, and a GPU for it."""
    if not torch.cuda.is_available() or find_spec("torch.nn.attention.varlen") is None:
        return False
    known = inspect.signature(import_module("torch.nn.attention.varlen").varlen_attn).parameters
    return known.keys() >= NEEDED and torch.cuda.get_device_capability() >= AMPERE


def fits_kernel(query: torch.Tensor, dropout: float) -> bool:
    """Whether the kernel takes this query ``[1, H, L, D]``: half precision on a GPU, heads of whole eights, no dropout.

    float32 stays with SDPA, which keeps its precision.
    """
    width = query.shape[-1]
    return query.is_cuda and query.dtype in HALVES and not dropout and width % 8 == 0 and width <= 256 and has_kernel()


def kernel_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    *,
    causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """`segment_attention` in one call: ``[1, L, H, D]`` from ``[1, H, L, D]``, each segment seeing itself only."""
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [L, H, D] each
    starts, longest = _edges(lengths, query.device), max(lengths)
    out: torch.Tensor = import_module("torch.nn.attention.varlen").varlen_attn(
        *rows,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out[None]


@lru_cache(maxsize=64)  # every layer of a step asks for the same
def _edges(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Int32 ``[S + 1]``: where each segment starts, and where the last one ends."""
    with torch.inference_mode(False):  # made in validation, used in training
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
