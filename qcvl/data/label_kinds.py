"""What each trained token says: part of a coordinate, a description, an answer's format, or running text."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from qcvl.data.chat import IGNORE
from qcvl.models.spec import Processing
from qcvl.models.text import character_ends, decoded
from qcvl.schema.spans import Kind, token_kinds
from qcvl.schema.types import Task

LabelKind = Literal["format", "coordinates", "descriptions", "summary", "chat"]
LABEL_KINDS: tuple[LabelKind, ...] = ("format", "coordinates", "descriptions", "summary", "chat")  # 1, 2, … in batches
_OF_SPAN: dict[Kind, LabelKind] = {"format": "format", "coordinate": "coordinates", "text": "descriptions"}


def answer_kinds(processing: Processing, ids: Sequence[int], task: Task) -> list[LabelKind]:
    """The kind of each trained token of a sample; those that end a turn are format.

    All words of a summary or a chat are of its own kind; a dense answer, which is one turn, is read by
    ``schema.spans``.
    """
    if task == "dense":
        written = ids[:-1]
        kinds = token_kinds(decoded(processing, written), character_ends(processing, written))
        return [*(_OF_SPAN[kind] for kind, _ in kinds), "format"]
    return ["format" if token == processing.turn_end else task for token in ids]


def label_kinds(processing: Processing, labels: np.ndarray, task: Task) -> np.ndarray:
    """Int8 ``[L]``: 0 where ``labels`` ``[L]`` are -100, else 1 + the place of the token's kind in LABEL_KINDS."""
    trained = labels != IGNORE
    numbers = np.zeros(len(labels), dtype=np.int8)
    kinds = answer_kinds(processing, labels[trained].tolist(), task)
    numbers[trained] = [1 + LABEL_KINDS.index(kind) for kind in kinds]
    return numbers
