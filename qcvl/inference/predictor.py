"""What answers questions about photos: a predictor takes requests and gives replies, however it runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcvl.schema.prompts import TaskPrompt


@dataclass(frozen=True, slots=True)
class Request:
    """Photos (uint8 RGB ``[H, W, 3]``), the system and user text to ask with, and a limit for this answer alone."""

    images: tuple[np.ndarray, ...]
    prompt: TaskPrompt
    max_new_tokens: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Reply:
    """The text a model wrote, its length in tokens, and whether it ended by itself (not at the token limit)."""

    text: str
    tokens: int
    finished: bool


class Predictor(Protocol):
    """Answers requests in order; a tile predictor wraps another one."""

    def seen_size(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """``(width, height)`` of the resized image the model sees of a photo of that size."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in the same order."""
        ...
