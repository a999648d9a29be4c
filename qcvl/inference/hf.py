"""Answers by a transformers model in this process, in left-padded batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from qcvl.data.chat import ask, encode_question
from qcvl.inference.confidence import object_scores
from qcvl.inference.generate import Sampler, Written, generate
from qcvl.inference.predictor import Reply, Request
from qcvl.inference.settings import Generation
from qcvl.models.forward import normalised
from qcvl.models.pixels import patch_grid, seen_size, to_patches
from qcvl.models.positions import rope_positions
from qcvl.models.spec import Processing
from qcvl.models.speed import takes_still_patches
from qcvl.models.text import character_ends
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Task

READ_AT_ONCE = 64  # requests; what these need while read still fits near a CPU core, and keeps a GPU busy


class HFPredictor:
    """Answer requests in batches of ``generation.batch_size``; greedy answers equal those one by one."""

    def __init__(self, model: torch.nn.Module, processing: Processing, generation: Generation) -> None:
        self.model, self.processing, self.generation = model, processing, generation

    def seen_size(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """``(width, height)`` of the resized image the model sees of a photo of that size."""
        height, width = seen_size(size_wh[1], size_wh[0], self.processing)
        return width, height

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order; the model is put in eval mode and back."""
        replies: list[Reply] = []
        device = next(self.model.parameters()).device
        sampler = Sampler(self.generation.temperature, self.generation.top_p, device)
        with evaluating(self.model), torch.inference_mode():
            for start in range(0, len(requests), self.generation.batch_size):
                batch = requests[start : start + self.generation.batch_size]
                limits = [min(request.max_new_tokens, self.generation.max_new_tokens) for request in batch]
                parts = self._parts(batch, READ_AT_ONCE)
                written = generate(self.model, parts, limits, self.processing.turn_end, sampler)
                replies += [self._reply(row, request.task) for row, request in zip(written, batch, strict=True)]
        return replies

    def _reply(self, row: Written, task: Task) -> Reply:
        ids, probabilities = row
        finished = bool(ids) and ids[-1] == self.processing.turn_end
        ids = ids[:-1] if finished else ids
        text = self.processing.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if task != "dense":
            return Reply(text, len(ids), finished)
        scores = object_scores(text, character_ends(self.processing, ids), probabilities[: len(ids)])
        return Reply(text, len(ids), finished, scores, "token_probability")

    def _parts(self, requests: Sequence[Request], count: int) -> Iterator[dict[str, torch.Tensor]]:
        """Inputs on the model's device for ``count`` requests after another, padded on the left to one length."""
        rows = [_encoded(self.processing, request.prompt, self._grids(request)) for request in requests]
        longest = max(len(row.ids) for row in rows)
        for start in range(0, len(requests), count):
            part = slice(start, start + count)
            yield self._inputs(requests[part], rows[part], longest)

    def _grids(self, request: Request) -> tuple[tuple[int, int, int], ...]:
        return tuple(patch_grid(image.shape[0], image.shape[1], self.processing) for image in request.images)

    def _inputs(
        self, requests: Sequence[Request], rows: Sequence["_Question"], longest: int
    ) -> dict[str, torch.Tensor]:
        processing, still = self.processing, takes_still_patches(self.model)
        images = [to_patches(image, processing, still=still) for request in requests for image in request.images]
        ids = np.full((len(rows), longest), processing.pad, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        positions = np.zeros((4, len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            start = longest - len(row.ids)
            ids[index, start:] = row.ids
            mask[index, start:] = 1
            positions[:, index, start:] = row.positions
        arrays = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "mm_token_type_ids": (ids == processing.image_pad).astype(np.int64),
            "pixel_values": np.concatenate([patches for patches, _ in images]),
            "image_grid_thw": np.array([grid for _, grid in images], dtype=np.int64),
        }
        device = next(self.model.parameters()).device
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return {**inputs, "pixel_values": normalised(inputs["pixel_values"], processing.family)}


class _Question(NamedTuple):
    """Token ids ``[L]`` of a question and their rope positions ``[4, L]``."""

    ids: np.ndarray
    positions: np.ndarray


@lru_cache(maxsize=1024)  # the windows of a photo are all asked alike
def _encoded(processing: Processing, prompt: TaskPrompt, grids: tuple[tuple[int, int, int], ...]) -> _Question:
    ids = encode_question(processing, ask(prompt, len(grids)), np.array(grids, dtype=np.int64).reshape(-1, 3))
    return _Question(ids, rope_positions(ids, grids, processing))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
