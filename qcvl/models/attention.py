"""Exact attention over samples packed in one row, as SDPA calls without a mask of L x L.

Shapes: B batch, H heads, L tokens of the row, S segments, M longest segment of a group, D head width.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qcvl.models.kernel import HALVES, fits_kernel, has_kernel, kernel_attention
from qcvl.models.sequence import RowShare, to_heads, to_tokens

VARLEN = "qcvl_varlen"
LEAST_FILL = 0.8  # shortest over longest segment of one padded call: at .8 the waste costs less than another call


class Segments:
    """Lengths of the samples of one row, as an object that compiled code hands on without a look.

    As a tuple among a block's arguments each packing would be compiled anew.
    """

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = tuple(lengths)


class Group(NamedTuple):
    """Segments that share one SDPA call: rows to gather ``[S * M]`` and which of its outputs are real ``[kept]``."""

    segments: int
    longest: int
    rows: torch.Tensor
    kept: torch.Tensor


class Plan(NamedTuple):
    """The SDPA calls of one packing, and ``order [L]`` that brings their concatenated outputs back into row order."""

    groups: tuple[Group, ...]
    order: torch.Tensor


@lru_cache(maxsize=64)  # every layer of a step, and its recomputation, asks for the same plan
def plan_calls(lengths: tuple[int, ...], causal: bool, device: torch.device) -> Plan:
    """Group segments of ``lengths`` tokens into few SDPA calls.

    Causal segments of similar length are padded on the right: no real token ever looks at what comes after it, so the
    padding is exact without a mask. Bidirectional segments share a call only when they are equally long.
    """
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    members: list[list[int]] = []
    for index in by_length:
        least = lengths[members[-1][0]] * (LEAST_FILL if causal else 1) if members else 0
        if members and lengths[index] >= least:
            members[-1].append(index)
        else:
            members.append([index])
    with torch.inference_mode(False):  # a plan made in validation is saved for backward in training
        groups = tuple(_group([(starts[index], lengths[index]) for index in group], device) for group in members)
        outputs = torch.cat([group.rows[group.kept] for group in groups])
        return Plan(groups, torch.argsort(outputs))


def _group(segments: list[tuple[int, int]], device: torch.device) -> Group:
    """One call over ``(start, length)`` segments, longest first; padding repeats the segment's own last row."""
    longest = segments[0][1]
    column = torch.arange(longest, device=device)
    start = torch.tensor([start for start, _ in segments], device=device)[:, None]
    length = torch.tensor([length for _, length in segments], device=device)[:, None]
    rows = start + torch.minimum(column, length - 1)
    return Group(len(segments), longest, rows.flatten(), (column < length).flatten().nonzero()[:, 0])


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: tuple[int, ...],
    *,
    causal: bool,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention ``[1, L, H, D]`` in which every segment of the row sees itself only.

    ``query`` is ``[1, H, L, D]``; ``key`` and ``value`` may have fewer heads (grouped-query attention).
    """
    if fits_kernel(query, dropout):
        return kernel_attention(query, key, value, lengths, causal=causal, scaling=scaling)
    options: dict[str, Any] = {"is_causal": causal, "scale": scaling, "dropout_p": dropout}
    if query.is_cuda and not (query.dtype in HALVES and has_kernel()):
        # Of grouped queries in float32, and on older GPUs, torch's own would make all scores at once.
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    options["enable_gqa"] = key.shape[1] != query.shape[1]
    if len(set(lengths)) == 1:  # nothing to gather: the row is a stack of equal segments
        q, k, v = (_stack(tensor, len(lengths)) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, **options)
        return out.transpose(1, 2).reshape(1, -1, query.shape[1], query.shape[3])
    plan = plan_calls(lengths, causal, query.device)
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [L, H, D] each
    outputs = []
    for group in plan.groups:
        shape = (group.segments, group.longest)
        q, k, v = (row.index_select(0, group.rows).unflatten(0, shape).transpose(1, 2) for row in rows)
        out = F.scaled_dot_product_attention(q, k, v, **options)
        outputs.append(out.transpose(1, 2).flatten(0, 1).index_select(0, group.kept))
    return torch.cat(outputs).index_select(0, plan.order)[None]


def _stack(tensor: torch.Tensor, segments: int) -> torch.Tensor:
    """``[1, H, S * M, D]`` as ``[S, H, M, D]`` without a copy."""
    return tensor[0].unflatten(1, (segments, -1)).transpose(0, 1)


@torch.compiler.disable  # its calls differ from packing to packing
def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    share: RowShare | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The registered attention: per segment when the row is packed, transformers' own SDPA otherwise (generation).

    ``segments`` are those of the packed samples; without them they are read off restarts of ``position_ids``.
    With a ``share`` the tokens are this rank's of a row that several ranks hold (see ``models.sequence``).
    """
    if segments is None:
        lengths = _restarts(query, key, attention_mask, kwargs.get("position_ids"))
    else:
        lengths = segments.lengths
    if lengths is None:
        options = {"dropout": dropout, "scaling": scaling, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    asked = kwargs.get("is_causal")
    causal = bool(module.is_causal if asked is None else asked)
    query, key, value = _as_autocast(query, key, value)
    if share is not None:
        query, key, value = to_heads(query, key, value, share)
    out = segment_attention(query, key, value, lengths, causal=causal, scaling=scaling, dropout=dropout)
    return (out if share is None else to_tokens(out, share)), None


def _as_autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Tensors in the precision in which SDPA takes them under autocast; kernels that it does not know of are told so.

    Rotated queries and keys are float32 where weights are.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in tensors]


def _restarts(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> tuple[int, ...] | None:
    """Segment lengths of one packed row whose positions restart at 0, or None where nothing is packed."""
    length = query.shape[2]
    packed = query.shape[0] == 1 and length == key.shape[2] > 1 and attention_mask is None
    if not packed or position_ids is None or position_ids.shape != (1, length):
        return None
    starts = (position_ids[0] == 0).nonzero()[:, 0].tolist()
    edges = [*starts, length]
    return tuple(end - start for start, end in pairwise(edges)) if len(starts) > 1 else None


def varlen_mask(attention_mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor | None:
    """No mask for rows without padding, whose samples `varlen_attention` separates; transformers' own otherwise."""
    if attention_mask is None and kwargs.get("q_length") == kwargs.get("kv_length"):
        return None
    return sdpa_mask(attention_mask=attention_mask, **kwargs)


def register() -> None:
    """Make ``qcvl_varlen`` known to transformers; calling it again changes nothing."""
    AttentionInterface.register(VARLEN, varlen_attention)
    AttentionMaskInterface.register(VARLEN, varlen_mask)
