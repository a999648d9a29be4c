"""Answers that a model draws itself in place of those of a batch, as a row to be read."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutputWithPast

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.data.encode import Features
from qcvl.inference.generate import Sampler, generate
from qcvl.inference.hf import evaluating
from qcvl.models.forward import Seen, place, unwrap
from qcvl.models.spec import Processing

Author = Literal["data", "student", "teacher"]
FIRST_KIND = 1  # of a label; which kind it is does not matter, all count alike
SALT = 0x6B64  # keeps these draws apart from others made of the same seed


def author_of(seed: int, step: int, lmbda: float, *, seq_kd: bool) -> Author:
    """Whose answers a step is about: the student's in a share ``lmbda`` of steps, the same on every rank."""
    if np.random.default_rng([SALT, seed, step]).random() < lmbda:
        return "student"
    return "teacher" if seq_kd else "data"


class Reader:
    """A model whose images were looked at before, called as ``generate`` calls one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)

    def __call__(self, *, input_ids: Tensor, seen: Seen | None = None, logits_to_keep: int, **told: Any) -> Any:
        """Logits and cache; ``seen`` comes with prompts and not with what follows them."""
        core = self.model.model
        embeds = core.get_input_embeddings()(input_ids)
        extra: dict[str, Any] = {}
        if seen is not None:
            embeds, extra = place(core, input_ids, embeds, seen)
        out = core.language_model(inputs_embeds=embeds, **told, **extra)
        logits = self.model.get_output_embeddings()(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)


@torch.no_grad()
def draw_answers(
    model: nn.Module,
    processing: Processing,
    batch: dict[str, Any],
    seen: Seen,
    *,
    limit: int,
    temperature: float,
    seed: int,
) -> dict[str, Any]:
    """The batch's row with the last answer of each sample in the model's words, none of which is a visual placeholder.

    Args:
        model: plain or wrapped by peft; put in eval mode and back.
        processing: its tokenizer.
        batch: as ``data.batch.collate`` makes one, on the model's device, with ``segments`` as numbers.
        seen: what the model sees of the batch's images.
        limit: the most tokens of an answer.
        temperature: 0 always takes the best token, as 1 draws from all of them.
        seed: of the draws.

    Returns:
        ``input_ids``, ``position_ids``, ``label_kinds`` and ``segments`` of the new row, on the same device.
    """
    device = batch["input_ids"].device
    prompts = _prompts(batch)
    parts = [{**_padded(prompts, processing.pad, device), "seen": seen}]
    visual = (processing.image_pad, processing.video_pad)  # would stand for images that the row does not have
    sampler = Sampler(temperature, 1.0, device, seed, never=visual)
    with evaluating(model):
        written = generate(Reader(model), parts, [limit] * len(prompts), processing.turn_end, sampler)
    features = [_answered(prompt, row.ids) for prompt, row in zip(prompts, written, strict=True)]
    row = collate(features)
    tensors = {name: row[name].to(device) for name in ("input_ids", "position_ids", "label_kinds")}
    return {**tensors, "segments": tuple(row["segments"].tolist())}


def _prompts(batch: dict[str, Any]) -> list[Features]:
    """Each sample up to its last answer; pixels stay with the batch."""
    names = ("input_ids", "mm_token_type_ids", "label_kinds")
    ids, types, kinds = (batch[name][0].cpu().numpy() for name in names)
    positions, ends = batch["position_ids"][:, 0].cpu().numpy(), list(accumulate(batch["segments"]))
    prompts = []
    for start, end in zip([0, *ends], ends, strict=False):
        unlabelled = np.flatnonzero(kinds[start:end] == 0)
        length = int(unlabelled[unlabelled < np.flatnonzero(kinds[start:end])[-1]][-1]) + 1
        part = slice(start, start + length)
        prompts.append(_features(ids[part], types[part], positions[:, part], answer=0))
    return prompts


def _padded(prompts: Sequence[Features], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Prompts ``[B, L]`` padded on the left, with mask and positions ``[4, B, L]``."""
    longest = max(len(prompt.input_ids) for prompt in prompts)
    ids = np.full((len(prompts), longest), pad, dtype=np.int64)
    mask, positions = np.zeros_like(ids), np.zeros((4, *ids.shape), dtype=np.int64)
    for index, prompt in enumerate(prompts):
        start = longest - len(prompt.input_ids)
        ids[index, start:], mask[index, start:], positions[:, index, start:] = prompt.input_ids, 1, prompt.positions
    arrays = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def _answered(prompt: Features, answer: Sequence[int]) -> Features:
    count = len(answer)
    ids = np.concatenate([prompt.input_ids, np.array(answer, dtype=np.int64)])
    types = np.concatenate([prompt.token_types, np.zeros(count, dtype=np.int64)])
    after = prompt.positions[:, -1:] + np.arange(1, count + 1)
    return _features(ids, types, np.concatenate([prompt.positions, after], axis=1), answer=count)


def _features(ids: np.ndarray, types: np.ndarray, positions: np.ndarray, *, answer: int) -> Features:
    """A sample whose last ``answer`` tokens are labels."""
    is_answer = np.arange(len(ids)) >= len(ids) - answer
    return Features(
        input_ids=ids,
        labels=np.where(is_answer, ids, IGNORE),
        label_kinds=np.where(is_answer, FIRST_KIND, 0).astype(np.int8),
        token_types=types,
        positions=positions,
        patches=np.zeros((0, 0), dtype=np.uint8),
        grids=np.zeros((0, 3), dtype=np.int64),
        telemetry={},
    )
