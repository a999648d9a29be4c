"""What each trained token says: part of a coordinate, a description, the answer's format, or running text."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qcvl.data.chat import IGNORE
from qcvl.models.spec import Processing
from qcvl.models.text import character_ends
from qcvl.schema.spans import Kind, token_kinds
from qcvl.schema.types import Task

LabelKind = Literal["format", "coordinates", "descriptions", "summary"]
LABEL_KINDS: tuple[LabelKind, ...] = ("format", "coordinates", "descriptions", "summary")  # number 1, 2, … in a batch
_OF_SPAN: dict[Kind, LabelKind] = {"format": "format", "coordinate": "coordinates", "text": "descriptions"}


def answer_kinds(processing: Processing, ids: Sequence[int], answer: str, task: Task) -> list[LabelKind]:
    """The kind of each token ``ids`` of an answer, of which the last ends the turn and is format.

    All of a summary's words are ``summary``; a dense answer is read by ``schema.spans``.
    """
    written = ids[:-1]
    kinds: list[LabelKind] = ["summary"] * len(written)
    if task == "dense":
        kinds = [_OF_SPAN[kind] for kind, _ in token_kinds(answer, character_ends(processing, written))]
    return [*kinds, "format"]


def label_kinds(processing: Processing, labels: np.ndarray, answer: str, task: Task) -> np.ndarray:
    """Int8 ``[L]``: 0 where ``labels`` ``[L]`` are -100, else 1 + the place of the token's kind in LABEL_KINDS."""
    trained = labels != IGNORE
    numbers = np.zeros(len(labels), dtype=np.int8)
    kinds = answer_kinds(processing, labels[trained].tolist(), answer, task)
    numbers[trained] = [1 + LABEL_KINDS.index(kind) for kind in kinds]
    return numbers
