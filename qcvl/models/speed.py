"""Faster forms of transformers' own layers, equal in arithmetic and in state_dict names."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from qcvl.log import get_logger
from qcvl.models.attention import VARLEN, Segments, register
from qcvl.models.forward import blocks, unwrap
from qcvl.models.kernel import HALVES, has_kernel

log = get_logger(__name__)


class LinearPatches:
    """A patch embedding ``[N, patch_values] -> [N, hidden]`` as one matrix product.

    Its convolution has kernel == stride, so it is a linear map; Conv3d takes 10-20 times as long on some versions.
    """

    proj: nn.Module
    in_channels: int
    temporal_patch_size: int
    patch_size: int

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Embed patch rows; with an adapter in place of the convolution, the stock path runs.

        Rows without the repetition along time (``to_patches(…, still=True)``) meet the sum of the weights over time.
        """
        channels, time, side = self.in_channels, self.temporal_patch_size, self.patch_size
        still = hidden_states.shape[-1] == channels * side**2
        if not isinstance(self.proj, nn.Conv3d):
            if still:
                hidden_states = hidden_states.view(-1, channels, 1, side**2).expand(-1, -1, time, -1).flatten(1)
            return super().forward(hidden_states)  # type: ignore[misc]
        weight = (self.proj.weight.sum(2) if still else self.proj.weight).flatten(1)
        return F.linear(hidden_states.to(weight.dtype).view(-1, weight.shape[1]), weight, self.proj.bias)


def takes_still_patches(model: nn.Module) -> bool:
    """Whether a model embeds patch rows that leave out the repetition along time: any that ``speed_up`` has seen."""
    return isinstance(getattr(unwrap(model).model.visual, "patch_embed", None), LinearPatches)


class BatchedImages:
    """Vision attention over all images in one call of the registered attention instead of a loop over images."""

    @torch.compiler.disable  # it reads the images' sizes
    def forward(self, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The stock forward over one span, with the images (or windows) handed on as its segments.

        Sizes are read once for all blocks: a GPU would have to wait for the host at each.
        """
        sizes: Any = cu_seqlens  # the same tensor for every block
        if not hasattr(sizes, "segments"):
            sizes.segments, sizes.span = Segments(cu_seqlens.diff().tolist()), cu_seqlens[[0, -1]]
        return super().forward(  # type: ignore[misc]
            hidden_states, sizes.span, *args, segments=sizes.segments, **kwargs
        )


class CompiledBlock:
    """A block whose training forward is torch.compile's; answers are written without it, their lengths never rest."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock forward, compiled once for all blocks of a class and all lengths."""
        stock = super().forward.__func__  # type: ignore[misc]
        run = _compiled(stock) if self.training and kwargs.get("past_key_values") is None else stock  # type: ignore[attr-defined]
        return run(self, *args, **kwargs)


@lru_cache
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(forward, dynamic=True)


def compile_blocks(model: PreTrainedModel) -> None:
    """Compile every block of both towers but its attention over packed samples."""
    for block in blocks(model):
        give_forward(block, CompiledBlock)


@lru_cache
def _with_forward_of(mixin: type, cls: type) -> type:
    return type(cls.__name__, (mixin, cls), {})


def give_forward(module: nn.Module, mixin: type) -> None:
    """Put ``mixin.forward`` before the module's own; a subclass survives deepcopy, which a bound method does not."""
    stock: Any = type(module)
    if not issubclass(stock, mixin):
        module.__class__ = _with_forward_of(mixin, stock)


def resolve_attention(attn: str, dtype: torch.dtype) -> str:
    """The transformers name of an attention choice, for weights loaded as ``dtype``.

    ``auto`` is flash_attention_2 on a GPU that has it and in half precision, which is all it takes; else varlen.
    """
    if attn == "auto":
        flash = torch.cuda.is_available() and dtype in HALVES and is_flash_attn_2_available()
        attn = "flash_attention_2" if flash else "varlen"
        log.info("attention: %s (%s)", attn, _reason(flash))
    return VARLEN if attn == "varlen" else attn


def _reason(flash: bool) -> str:
    if flash:
        return "flash-attn is installed"
    if has_kernel():
        return "torch.nn.attention.varlen in half precision, else SDPA per packed sample; no flash-attn here"
    return "SDPA per packed sample; flash-attn and torch.nn.attention.varlen need a GPU"


def speed_up(model: PreTrainedModel, attn: str) -> PreTrainedModel:
    """Set the attention of both towers and swap in the fast patch embedding; returns the same model.

    Args:
        model: a Qwen vision-language model, not yet wrapped by adapters.
        attn: ``auto``, ``sdpa``, ``varlen`` or ``flash_attention_2``.

    Parameters keep their names and values, so what is saved loads in plain transformers.
    """
    register()
    name = resolve_attention(attn, model.dtype)
    visual = model.model.visual
    model.set_attn_implementation({"text_config": name, "vision_config": name})
    give_forward(visual.patch_embed, LinearPatches)
    if name == VARLEN:
        for block in visual.blocks:
            give_forward(block.attn, BatchedImages)
    return model
