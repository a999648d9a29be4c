"""What answers questions about photos: a predictor takes requests and gives replies, however it runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Task

# Where an object's score comes from: every object 1, the model's probabilities of the tokens that say it, or the share
# of the windows that say it where their answers have no scores of their own.
ScoreSource = Literal["constant", "token_probability", "votes"]


@dataclass(frozen=True, slots=True)
class Request:
    """Photos (uint8 RGB ``[H, W, 3]``), the system and user text to ask with, and a limit for this answer alone.

    ``task`` says what the prompt asks for: only a dense answer lists objects, with places and scores.
    """

    images: tuple[np.ndarray, ...]
    prompt: TaskPrompt
    max_new_tokens: int = sys.maxsize
    task: Task = "dense"


@dataclass(frozen=True, slots=True)
class Reply:
    """The text a model wrote, its length in tokens, and whether it ended by itself (not at the token limit).

    ``scores`` has one number 0..1 for each object the text lists, in the order of the text, and ``score_source`` says
    what they are made of; ``None`` where the predictor knows none (``constant``: every object scores 1).
    """

    text: str
    tokens: int
    finished: bool
    scores: tuple[float, ...] | None = None
    score_source: ScoreSource = "constant"


class Predictor(Protocol):
    """Answers requests in order; a tile predictor wraps another one."""

    def seen_size(self, size_wh: tuple[int, int]) -> tuple[int, int]:
        """``(width, height)`` of the resized image the model sees of a photo of that size."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in the same order."""
        ...
