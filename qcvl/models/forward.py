"""The training path: packed samples in, final hidden states and merged visual tokens out, logits only where asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from qcvl.errors import DataError
from qcvl.models.attention import VARLEN, Segments
from qcvl.models.sequence import RowShare, to_places
from qcvl.models.spec import Family


class Hidden(NamedTuple):
    """Final hidden states ``[1, L, H]``, and merged visual tokens ``[cells, H]`` in row order or None.

    Without images these have no row, or are None where the batch has no ``pixel_values`` at all. ``router_logits`` are
    ``[L, experts]`` of each layer that has experts, where asked for. With a ``share`` all are of this rank's tokens.
    """

    states: torch.Tensor
    visual: torch.Tensor | None
    router_logits: tuple[torch.Tensor, ...] = ()


class Seen(NamedTuple):
    """What the vision tower and the aligner make of a row's images.

    ``merged`` are visual tokens ``[cells, H]`` in row order, ``deepstack`` the further ones of the same shape that go
    into the first layers of the language model, none in most families. ``blocks`` are outputs ``[patches, D]`` of the
    tower's blocks, by number, that the aligner reads; the last one is among them. A row of text alone has no cell, and
    ``nothing`` is then the scalar 0 that depends on both.
    """

    merged: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    blocks: Mapping[int, torch.Tensor]
    nothing: torch.Tensor | None

    def dealt(self, share: RowShare) -> "Seen":
        """The visual tokens of this rank's part of a row, of which these are what the rank has looked at.

        Where there are none, ``nothing`` depends on their exchange, in whose way back all ranks take part.
        """
        levels = torch.cat([self.merged, *self.deepstack], dim=1)
        merged, *deepstack = (mine := to_places(levels, share)).split(self.merged.shape[1], dim=1)
        return Seen(merged, tuple(deepstack), self.blocks, None if len(mine) else _nothing([mine]))


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The conditional-generation model inside a PeftModel, or the model itself; adapters stay active in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The vision tower's blocks and the language model's layers, in the order in which they run."""
    core = unwrap(model).model
    return [*core.visual.blocks, *core.language_model.layers]


def normalised(patches: torch.Tensor, family: Family) -> torch.Tensor:
    """Uint8 patch rows ``[N, 3 * values]`` as float32 of the same shape: ``(x / 255 - mean) / std`` of each channel.

    Runs where the rows lie, so that a device gets grey levels, a quarter of the bytes.
    """
    if patches.dtype != torch.uint8:
        raise DataError(f"patches are {patches.dtype}; expected the grey levels of to_patches, uint8")
    mean, std = (torch.tensor(row, device=patches.device)[:, None] for row in (family.image_mean, family.image_std))
    values = patches.to(torch.float32).view(len(patches), 3, patches.shape[1] // 3)
    return values.div_(255).sub_(mean).div_(std).flatten(1)


def hidden_states(
    model: nn.Module, batch: Mapping[str, Any], *, routing: bool = False, seen: Seen | None = None
) -> Hidden:
    """Run both towers over packed samples.

    Args:
        model: a Qwen vision-language model, plain or wrapped by peft.
        batch: ``input_ids [1, L]``, ``position_ids [4, 1, L]`` (row 0 restarting at 0 per sample), ``segments``
            (lengths of the samples, summing to L), and with images or videos ``pixel_values [N, patch_values]`` (see
            ``normalised``) and ``image_grid_thw [n, 3]``, one grid a run of visual tokens.
        routing: give the logits of the routers as well.
        seen: what ``look`` gave for the row's images, in place of looking at them here.

    With a ``share`` (see ``models.sequence``) ``input_ids`` and ``position_ids`` are this rank's part of the row, the
    images those it looks at, of whose visual tokens each rank gets those of its part; ``segments`` are the whole row's.
    The ranks' gradients add up to those of the row, in every tower.

    Images and videos lie in one list, in the order of the row: the vision tower sees each frame pair of a video as it
    sees an image.

    A row of text alone, whose patches are ``[0, patch_values]``, still takes the vision tower along, over one blank
    cell that counts for nothing: other ranks may have images, and all must run and reduce the same layers.

    Samples do not see each other: the language model runs without cache and without a padding mask, the only
    combination in which transformers keeps packed samples apart.
    """
    core = unwrap(model).model
    embeds = core.get_input_embeddings()(batch["input_ids"])
    extra: dict[str, Any] = {"output_router_logits": True} if routing else {}
    share = batch.get("share")
    if seen is None and batch.get("pixel_values") is not None:
        seen = look(model, batch["pixel_values"], batch["image_grid_thw"])
    if seen is not None:
        seen = seen if share is None else seen.dealt(share)
        embeds, more = place(core, batch["input_ids"], embeds, seen)
        extra |= more
    out = core.language_model(
        inputs_embeds=embeds,
        position_ids=batch["position_ids"],
        attention_mask=None,
        use_cache=False,
        **_packing(core.language_model.config._attn_implementation, batch["segments"], embeds.device),
        **({} if share is None else {"share": share}),
        **extra,
    )
    visual = None if seen is None else seen.merged
    return Hidden(out.last_hidden_state, visual, tuple(out.get("router_logits") or ()))


def label_logits(model: nn.Module, hidden: torch.Tensor, label_index: torch.Tensor) -> torch.Tensor:
    """Logits ``[K, vocabulary]`` at the ``K`` positions ``label_index`` of ``hidden [1, L, H]``.

    A label at position ``p`` is predicted at ``p - 1``; the other positions never reach the head.
    """
    return unwrap(model).get_output_embeddings()(hidden[0, label_index])


def look(
    model: nn.Module,
    pixel_values: torch.Tensor,
    grids: torch.Tensor,
    *,
    blocks: Mapping[int, torch.Tensor] | None = None,
    keep_blocks: bool = False,
) -> Seen:
    """The vision tower and aligner, without a graph when none of their parameters is trained.

    Without a patch they look at one blank cell.

    Args:
        model: a Qwen vision-language model, plain or wrapped by peft.
        pixel_values: ``[N, patch_values]`` (see ``normalised``).
        grids: ``image_grid_thw [n, 3]``.
        blocks: outputs of the same blocks over the same images, of which the aligner alone is run anew.
        keep_blocks: give the outputs of blocks.
    """
    if not pixel_values.is_floating_point():
        raise DataError(f"pixel_values are {pixel_values.dtype}, grey levels; give them to normalised() first")
    visual = unwrap(model).model.visual
    trained = any(parameter.requires_grad for parameter in visual.parameters())
    blank = not len(pixel_values)
    if blank:
        side = visual.spatial_merge_size
        pixel_values = pixel_values.new_zeros(side**2, pixel_values.shape[1])
        grids = torch.tensor([[1, side, side]], dtype=grids.dtype, device=grids.device)
    kept: dict[int, torch.Tensor] = {}
    replay = nullcontext() if blocks is None else _replaying(visual, blocks)
    with (
        nullcontext() if trained else torch.no_grad(),
        replay,
        _keeping(visual, kept) if keep_blocks else nullcontext(),
    ):
        out = visual(pixel_values.to(visual.dtype), grid_thw=grids, return_dict=True)
    merged, deepstack = out.pooler_output, tuple(getattr(out, "deepstack_features", None) or ())
    if not blank:
        return Seen(merged, deepstack, kept, None)
    return Seen(merged[:0], tuple(part[:0] for part in deepstack), kept, _nothing([merged, *deepstack]))


def _read_by_aligner(visual: PreTrainedModel) -> set[int]:
    """Numbers of the blocks whose outputs go into the aligner."""
    return {*getattr(visual, "deepstack_visual_indexes", ()), len(visual.blocks) - 1}


@contextmanager
def _keeping(visual: PreTrainedModel, kept: dict[int, torch.Tensor]) -> Iterator[None]:
    """Put the outputs that the aligner reads into ``kept``."""

    def keep(index: int) -> Any:
        return lambda module, inputs, output: kept.update({index: output})

    hooks = [visual.blocks[index].register_forward_hook(keep(index)) for index in _read_by_aligner(visual)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Replayed(nn.Module):
    """Stands for a block whose output is known; one that is None gives on what it gets."""

    def __init__(self, output: torch.Tensor | None) -> None:
        super().__init__()
        self.output = output

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states if self.output is None else self.output


@contextmanager
def _replaying(visual: PreTrainedModel, blocks: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Let the tower's forward run on known outputs of its blocks, whatever a family does around them."""
    own = visual.blocks
    visual.blocks = nn.ModuleList(_Replayed(blocks.get(index)) for index in range(len(own)))
    try:
        yield
    finally:
        visual.blocks = own


def place(
    core: nn.Module, input_ids: torch.Tensor, embeds: torch.Tensor, seen: Seen
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Token embeddings ``[B, L, H]`` with visual tokens in their places, and what the language model is told of them.

    ``core`` is ``unwrap(model).model``; visual tokens lie in the order of the placeholders, row after row.

    Raises:
        DataError: where there are not as many of the one as of the other.
    """
    if seen.nothing is not None:
        embeds = embeds + seen.nothing.to(embeds.dtype)
    is_cell = _cells(core, input_ids)
    where = is_cell.flatten().nonzero()[:, 0]
    if len(where) != len(seen.merged):
        raise DataError(
            f"the batch has {len(where)} visual placeholders for {len(seen.merged)} visual tokens; expand placeholders "
            "from image_grid_thw"
        )
    embeds = embeds.flatten(0, 1).index_copy(0, where, seen.merged.to(embeds.dtype)).view_as(embeds)
    if not seen.deepstack or seen.nothing is not None:
        return embeds, {}
    return embeds, {"visual_pos_masks": is_cell, "deepstack_visual_embeds": list(seen.deepstack)}


def _cells(core: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """Bool of the shape of ``input_ids``: where a visual token stands."""
    return (input_ids == core.config.image_token_id) | (input_ids == core.config.video_token_id)


def _nothing(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The scalar 0 that depends on every output of the vision tower."""
    return torch.stack([output.float().sum() for output in outputs]).sum() * 0


def _packing(attention: str, segments: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """How an attention implementation is told where samples begin; plain SDPA reads it off the restarting positions."""
    if attention == VARLEN:
        return {"segments": Segments(segments)}
    if "flash" in attention:
        edges = torch.tensor([0, *segments], device=device).cumsum(0).to(torch.int32)
        lengths = {"max_length_q": max(segments), "max_length_k": max(segments)}
        return {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, **lengths}
    return {}
