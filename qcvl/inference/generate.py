"""A generation loop in which finished rows leave the batch; greedy answers equal ``model.generate``'s."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    Cache,
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

LEAVE_SHARE = 1 / 8  # of the rows must have finished before the cache is copied without them


class Sampler:
    """Next token ids ``[B]`` from logits ``[B, V]``: the best at temperature 0, else a draw from the nucleus.

    Draws come from a generator of its own, so that answering never moves training's random state. Ids in ``never`` are
    not written.
    """

    def __init__(
        self, temperature: float, top_p: float, device: torch.device, seed: int = 0, never: Sequence[int] = ()
    ) -> None:
        self.greedy = temperature == 0
        self.generator = torch.Generator(device).manual_seed(seed)
        self.warp = LogitsProcessorList([] if self.greedy else [TemperatureLogitsWarper(temperature)])
        if not self.greedy and top_p < 1:
            self.warp.append(TopPLogitsWarper(top_p))
        self.suppress = SuppressTokensLogitsProcessor(list(never), str(device)) if never else None

    def choose(self, logits: Tensor) -> Tensor:
        """Ids ``[B]`` for logits ``[B, V]``."""
        if self.suppress is not None:
            logits = self.suppress(None, logits)
        if self.greedy:
            return logits.argmax(-1)
        with _in_any_order():
            shares = self.warp(None, logits.float()).softmax(-1)
        return torch.multinomial(shares, 1, generator=self.generator)[:, 0]


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Let a GPU add up shares though ``trainer.deterministic`` is set: for running sums it knows no other way."""
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)


class Written(NamedTuple):
    """The ids one row wrote, and how probable the model held each of them (before temperature and nucleus)."""

    ids: list[int]
    probabilities: list[float]


def generate(
    model: Callable[..., Any],
    parts: Iterable[Mapping[str, Any]],
    limits: Sequence[int],
    end_id: int,
    sampler: Sampler,
) -> list[Written]:
    """Continue left-padded prompts until ``end_id`` or each row's limit.

    Prompts are read part by part and continued all together: reading is heavy and soon fills a processor, while a step
    costs nearly the same for few rows and for many.

    Args:
        model: a Qwen vision-language model, plain or wrapped by peft, in eval mode, or what is called as one.
        parts: for some of the B rows after another ``input_ids`` and ``attention_mask`` ``[b, L]``, ``position_ids``
            ``[4, b, L]``, and what else the model is called with (``mm_token_type_ids`` ``[b, L]``, ``pixel_values``,
            ``image_grid_thw``); L is the same in all.
        limits: the most tokens to write, one a row.
        end_id: the end-of-turn token.
        sampler: chooses the next tokens.

    Returns:
        What each row wrote, with ``end_id`` last where the row finished by itself.
    """
    written = [Written([], []) for _ in limits]
    rows = list(range(len(limits)))
    cache, logits, mask, positions = _read(model, parts)
    while True:
        tokens = sampler.choose(logits)
        for row, token, probability in zip(rows, tokens.tolist(), _probabilities(logits, tokens), strict=True):
            if not _finished(written[row].ids, limits[row], end_id):
                written[row].ids.append(token)
                written[row].probabilities.append(probability)
        alive = [place for place, row in enumerate(rows) if not _finished(written[row].ids, limits[row], end_id)]
        if not alive:
            return written
        if len(rows) - len(alive) >= LEAVE_SHARE * len(rows):
            keep = torch.tensor(alive, device=tokens.device)
            cache.batch_select_indices(keep)
            tokens, positions = tokens[keep], positions[:, keep]
            mask = None if mask is None else mask[keep]
            rows = [rows[place] for place in alive]
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions + 1
        step = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": positions}
        out = model(**step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = out.past_key_values, out.logits[:, -1]


def _read(model: Callable[..., Any], parts: Iterable[Mapping[str, Any]]) -> tuple[Cache, Tensor, Tensor | None, Tensor]:
    """The cache of all prompts; the logits ``[B, V]``, mask ``[B, L]`` and positions ``[4, B, 1]`` at their ends.

    Rows of one length need no mask (None), for which attention would pay.
    """
    caches, logits, masks, positions = [], [], [], []
    for part in parts:
        mask = part["attention_mask"]
        is_padded = not bool(mask.all())
        out = model(**{**part, "attention_mask": mask if is_padded else None}, use_cache=True, logits_to_keep=1)
        caches.append(out.past_key_values)
        logits.append(out.logits[:, -1])
        masks.append(mask)
        positions.append(part["position_ids"][..., -1:])  # of the prompts' last tokens, which are text
    cache, mask = caches[0], torch.cat(masks)
    for index, layer in enumerate(cache.layers if len(caches) > 1 else ()):
        layer.keys = torch.cat([other.layers[index].keys for other in caches])
        layer.values = torch.cat([other.layers[index].values for other in caches])
    return cache, torch.cat(logits), None if bool(mask.all()) else mask, torch.cat(positions, dim=1)


def _probabilities(logits: Tensor, tokens: Tensor) -> list[float]:
    """The softmax of logits ``[B, V]`` at one token a row."""
    logits = logits.float()
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return (chosen - logits.logsumexp(-1)).exp().tolist()


def _finished(ids: Sequence[int], limit: int, end_id: int) -> bool:
    return len(ids) >= limit or (len(ids) > 0 and ids[-1] == end_id)
