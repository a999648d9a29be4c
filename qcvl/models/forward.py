"""The training path: packed samples in, final hidden states and merged visual tokens out, logits only where asked."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from qcvl.errors import DataError
from qcvl.models.attention import VARLEN
from qcvl.models.spec import Family


class Hidden(NamedTuple):
    """Final hidden states ``[1, L, H]``, and merged visual tokens ``[cells, H]`` in row order or None.

    Without images these have no row, or are None where the batch has no ``pixel_values`` at all. ``router_logits`` are
    ``[L, experts]`` of each layer that has experts, where asked for. With a ``share`` all are of this rank's tokens.
    """

    states: torch.Tensor
    visual: torch.Tensor | None
    router_logits: tuple[torch.Tensor, ...] = ()


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The conditional-generation model inside a PeftModel, or the model itself; adapters stay active in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def normalised(patches: torch.Tensor, family: Family) -> torch.Tensor:
    """Uint8 patch rows ``[N, 3 * values]`` as float32 of the same shape: ``(x / 255 - mean) / std`` of each channel.

    Runs where the rows lie, so that a device gets grey levels, a quarter of the bytes.
    """
    if patches.dtype != torch.uint8:
        raise DataError(f"patches are {patches.dtype}; expected the grey levels of to_patches, uint8")
    mean, std = (torch.tensor(row, device=patches.device)[:, None] for row in (family.image_mean, family.image_std))
    values = patches.to(torch.float32).view(len(patches), 3, patches.shape[1] // 3)
    return values.div_(255).sub_(mean).div_(std).flatten(1)


def hidden_states(model: nn.Module, batch: Mapping[str, Any], *, routing: bool = False) -> Hidden:
    """Run both towers over packed samples.

    Args:
        model: a Qwen vision-language model, plain or wrapped by peft.
        batch: ``input_ids [1, L]``, ``position_ids [4, 1, L]`` (row 0 restarting at 0 per sample), ``segments``
            (lengths of the samples, summing to L), and with images or videos ``pixel_values [N, patch_values]`` (see
            ``normalised``) and ``image_grid_thw [n, 3]``, one grid a run of visual tokens.
        routing: give the logits of the routers as well.

    With a ``share`` (see ``models.sequence``) ``input_ids`` and ``position_ids`` are this rank's part of the row; all
    else is the whole row's. The vision tower then looks at all images on each rank, and only the visual tokens of the
    rank's own part go on: the ranks' gradients add up to those of the row, in every tower.

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
    visual, share = None, batch.get("share")
    if batch.get("pixel_values") is not None:
        seen = _look(core.visual, batch["pixel_values"], batch["image_grid_thw"])
        visual, deepstack = seen.pooler_output, getattr(seen, "deepstack_features", None)
        is_cell = _cells(core, batch["input_ids"])
        own = slice(0, len(visual) if len(batch["pixel_values"]) else 0) if share is None else share.cells
        if own.start == own.stop:
            embeds = embeds + _nothing([visual, *(deepstack or [])]).to(embeds.dtype)
            deepstack = None
        visual, deepstack = visual[own], [part[own] for part in deepstack or []]
        embeds = _place(embeds, is_cell, visual)
        if deepstack:
            extra |= {"visual_pos_masks": is_cell, "deepstack_visual_embeds": deepstack}
    out = core.language_model(
        inputs_embeds=embeds,
        position_ids=batch["position_ids"],
        attention_mask=None,
        use_cache=False,
        **_packing(core.language_model.config._attn_implementation, batch["segments"], embeds.device),
        **({} if share is None else {"share": share}),
        **extra,
    )
    return Hidden(out.last_hidden_state, visual, tuple(out.get("router_logits") or ()))


def label_logits(model: nn.Module, hidden: torch.Tensor, label_index: torch.Tensor) -> torch.Tensor:
    """Logits ``[K, vocabulary]`` at the ``K`` positions ``label_index`` of ``hidden [1, L, H]``.

    A label at position ``p`` is predicted at ``p - 1``; the other positions never reach the head.
    """
    return unwrap(model).get_output_embeddings()(hidden[0, label_index])


def _look(visual: PreTrainedModel, pixel_values: torch.Tensor, grids: torch.Tensor) -> BaseModelOutputWithPooling:
    """The vision tower and aligner, without a graph when none of their parameters is trained.

    Without a patch they look at one blank cell.
    """
    if not pixel_values.is_floating_point():
        raise DataError(f"pixel_values are {pixel_values.dtype}, grey levels; give them to normalised() first")
    trained = any(parameter.requires_grad for parameter in visual.parameters())
    if not len(pixel_values):
        side = visual.spatial_merge_size
        pixel_values = pixel_values.new_zeros(side**2, pixel_values.shape[1])
        grids = torch.tensor([[1, side, side]], dtype=grids.dtype, device=grids.device)
    with nullcontext() if trained else torch.no_grad():
        return visual(pixel_values.to(visual.dtype), grid_thw=grids, return_dict=True)


def _cells(core: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """Bool of the shape of ``input_ids``: where a visual token stands."""
    return (input_ids == core.config.image_token_id) | (input_ids == core.config.video_token_id)


def _nothing(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The scalar 0 that depends on every output of the vision tower."""
    return torch.stack([output.float().sum() for output in outputs]).sum() * 0


def _place(embeds: torch.Tensor, is_cell: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """Token embeddings ``[1, L, H]`` with the visual tokens in the placeholders' places."""
    where = is_cell[0].nonzero()[:, 0]
    if len(where) != len(visual):
        raise DataError(
            f"the batch has {len(where)} visual placeholders for {len(visual)} visual tokens; expand placeholders from "
            "image_grid_thw"
        )
    return embeds.index_copy(1, where, visual[None].to(embeds.dtype))


def _packing(attention: str, segments: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """How an attention implementation is told where samples begin; plain SDPA reads it off the restarting positions."""
    if attention == VARLEN:
        return {"segments": tuple(segments)}
    if "flash" in attention:
        edges = torch.tensor([0, *segments], device=device).cumsum(0).to(torch.int32)
        lengths = {"max_length_q": max(segments), "max_length_k": max(segments)}
        return {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges, **lengths}
    return {}
