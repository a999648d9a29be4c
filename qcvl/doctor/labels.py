"""The label audit: what the first samples of a run look like to the model, and which of their tokens are trained.

Nothing in it draws a random number: a sample is a pure function of its key, so a run is the same with and without.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE, IMAGE_PAD, VIDEO_PAD
from qcvl.data.dataset import Key, Samples
from qcvl.data.encode import Features
from qcvl.data.health import check_batch
from qcvl.data.label_kinds import LabelKind, answer_kinds
from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.models.text import character_ends, decoded
from qcvl.schema.types import Task

SAMPLES = 16  # enough for shares of tokens and to meet each task, of which one sample is shown
KINDS: dict[LabelKind, str] = {  # and their colours
    "descriptions": "green",
    "coordinates": "cyan",
    "format": "yellow",
    "summary": "magenta",
    "chat": "blue",
}
NOT_TRAINED = "dim"
TRAINED_FROM, TRAINED_TO = "⟦", "⟧"  # in no tokenizer's way: what stands between is trained, also without colours
WIDTH = 120  # of label_audit.txt


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one kind in a row, ``None`` where they are not trained, and what they say."""

    kind: LabelKind | None
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class AuditedSample:
    """One encoded sample: where its record stands, its task, all its tokens, and what the model gets."""

    where: str
    task: Task
    pieces: tuple[Piece, ...]
    image_tokens: int
    features: Features = field(repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(piece.tokens for piece in self.pieces)

    def trained(self, kind: LabelKind) -> int:
        """How many tokens of one kind are trained."""
        return sum(piece.tokens for piece in self.pieces if piece.kind == kind)


@dataclass(frozen=True, slots=True)
class LabelAudit:
    """The first samples of a run in training order, and how many more of them were dropped as overlong."""

    samples: tuple[AuditedSample, ...]
    dropped: int

    def shown(self) -> list[AuditedSample]:
        """The first sample of each task."""
        firsts: dict[Task, AuditedSample] = {}
        for sample in self.samples:
            firsts.setdefault(sample.task, sample)
        return list(firsts.values())

    def numbers(self) -> dict[Task, dict[str, int]]:
        """By task: samples, tokens, image tokens, and trained tokens of each kind."""
        by_task: dict[Task, list[AuditedSample]] = {}
        for sample in self.samples:
            by_task.setdefault(sample.task, []).append(sample)
        return {
            task: {
                "samples": len(samples),
                "tokens": sum(sample.tokens for sample in samples),
                "image": sum(sample.image_tokens for sample in samples),
                **{kind: sum(sample.trained(kind) for sample in samples) for kind in KINDS},
            }
            for task, samples in by_task.items()
        }


def audit_labels(dataset: Samples, count: int = SAMPLES, *, keep_going: bool = False) -> LabelAudit:
    """Encode the first ``count`` samples of a run, in training order, and read them back token by token.

    Raises:
        DataError: for a sample that cannot be encoded or breaks a rule of ``check_batch``; names where it stands. With
            ``keep_going``, as training does then, only where this is so of all of them.
    """
    keys = list(islice(dataset.opening(), count))
    first = dataset.at(0, None)  # as the run's first step sees it
    samples: list[AuditedSample | None] = []
    refused: DataError | None = None
    for key in keys:
        try:
            samples.append(audit_sample(first, key))
        except DataError as error:
            refused = error
            if not keep_going:
                raise
    if refused is not None and not samples:
        raise refused
    kept = tuple(sample for sample in samples if sample is not None)
    return LabelAudit(kept, len(samples) - len(kept))


def audit_sample(dataset: Samples, key: Key) -> AuditedSample | None:
    """One sample as the model gets it; None where it is dropped as overlong."""
    where, processing = dataset.where(key), dataset.encoder.processing
    try:
        sample, prompts, _ = dataset.sample(key)
        features = dataset.encoder_of(dataset.source(key))(sample, prompts.for_task(sample.task), where)
        if features is None:
            return None
        check_batch(collate([features]), processing.family.merge_size)
    except DataError as error:
        raise error if where in str(error) else DataError(f"{where}: {error}") from error
    except Exception as error:
        error.add_note(f"in the sample made of {where}")
        raise
    pieces = tuple(_pieces(processing, features.input_ids, features.labels != IGNORE, sample.task))
    return AuditedSample(where, sample.task, pieces, int((features.token_types > 0).sum()), features)


def audit_report(audit: LabelAudit) -> Group:
    """The audit for a terminal: shares by task, then one whole sample of each."""
    return Group(_shares_table(audit), *(_sample_text(sample) for sample in audit.shown()))


def save_audit(audit: LabelAudit, folder: Path) -> None:
    """Write ``label_audit.txt`` (as it is printed) and ``label_audit.json`` (numbers and pieces) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "tasks": audit.numbers(),
        "dropped": audit.dropped,
        "samples": [_content(sample) for sample in audit.shown()],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (folder / "label_audit.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "label_audit.txt").open("w", encoding="utf-8") as file:
        console = Console(file=file, width=WIDTH, color_system=None, force_terminal=False)
        console.print(audit_report(audit), soft_wrap=True)


def _content(sample: AuditedSample) -> dict[str, Any]:
    """A sample in ``label_audit.json``."""
    pieces = [asdict(piece) for piece in sample.pieces]
    told = {"tokens": sample.tokens, "where": sample.where, "task": sample.task, "pieces": pieces}
    return told | {"image_tokens": sample.image_tokens}


def _pieces(processing: Processing, ids: np.ndarray, trained: np.ndarray, task: Task) -> Iterator[Piece]:
    """All tokens of a sample in order, those of one kind together."""
    for is_trained, run in groupby(zip(trained.tolist(), ids.tolist(), strict=True), key=lambda pair: pair[0]):
        tokens = [token for _, token in run]
        yield from _answer(processing, tokens, task) if is_trained else _context(processing, tokens)


def _context(processing: Processing, ids: list[int]) -> Iterator[Piece]:
    """What is not trained; an image, or a pair of video frames, is its placeholder and how often it stands there."""
    pads = {processing.image_pad: IMAGE_PAD, processing.video_pad: VIDEO_PAD}
    for pad, run in groupby(ids, key=pads.get):
        tokens = list(run)
        text = decoded(processing, tokens) if pad is None else f"{pad} x{len(tokens)}"
        yield Piece(None, len(tokens), text)


def _answer(processing: Processing, ids: list[int], task: Task) -> Iterator[Piece]:
    """An answer, kind by kind; the last is its end-of-turn token."""
    *written, end = ids
    text, ends = decoded(processing, written), character_ends(processing, written)
    words = [*(text[start:stop] for start, stop in pairwise([0, *ends])), decoded(processing, [end])]
    kinds = answer_kinds(processing, ids, task)
    for kind, run in groupby(zip(kinds, words, strict=True), key=lambda token: token[0]):
        told = [word for _, word in run]
        yield Piece(kind, len(told), "".join(told))


def _shares_table(audit: LabelAudit) -> Table:
    """One row a task: samples, tokens, how many of them are trained, and what those are."""
    dropped = f", {audit.dropped} more dropped as overlong" if audit.dropped else ""
    title = f"Labels of the first {len(audit.samples)} samples{dropped}"
    table = Table("task", title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("samples", "tokens", "image", "trained"):
        table.add_column(name, justify="right")
    for kind, color in KINDS.items():
        table.add_column(Text(kind, style=color), justify="right")
    for task, row in audit.numbers().items():
        trained = sum(row[kind] for kind in KINDS)
        counts = (f"{value:,}" for value in (row["samples"], row["tokens"], row["image"], trained))
        table.add_row(task, *counts, *(f"{row[kind] / trained:.1%}" for kind in KINDS))
    return table


def _sample_text(sample: AuditedSample) -> Text:
    """The whole sequence: trained tokens in the colour of their kind between ``⟦`` and ``⟧``, the rest dim."""
    trained = sum(sample.trained(kind) for kind in KINDS)
    counts = f"{sample.tokens:,} tokens, {sample.image_tokens:,} image, {trained:,} trained {TRAINED_FROM}…{TRAINED_TO}"
    text = Text(f"{_visible(sample.where)} ({sample.task}): {counts}\n", style="bold")
    for is_trained, run in groupby(sample.pieces, key=lambda piece: piece.kind is not None):
        text.append(TRAINED_FROM if is_trained else "", style="bold")
        for piece in run:
            text.append(_visible(piece.text), style=KINDS[piece.kind] if piece.kind else NOT_TRAINED)
        text.append(TRAINED_TO if is_trained else "", style="bold")
    text.rstrip()
    text.append("\n")
    return text


def _visible(text: str) -> str:
    """The text with what a terminal would act on, or not show, escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
