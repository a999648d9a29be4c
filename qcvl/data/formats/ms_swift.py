"""Data sets as ms-swift takes them: messages, queries, alpaca and ShareGPT rows, with grounding objects.

    {"messages": [{"role": "user", "content": "<image>Find the <ref-object>"},
                  {"role": "assistant", "content": "<bbox>"}], "images": ["a.jpg"],
     "objects": {"ref": ["clip"], "bbox": [[90.9, 160.8, 135, 212.8]]}}
    {"query": "…", "response": "…", "history": [["…", "…"]], "system": "…", "images": ["a.jpg"]}
    {"instruction": "…", "input": "…", "output": "…"}
    {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}

Each ``<image>`` in a user turn shows the next of ``images`` (``<img>path</img>`` names its own), each ``<video>`` the
next of ``videos`` (a path, or a list of frames); without any tag, all media come before the first user text. Paths are
relative to the file.

``<ref-object>`` and ``<bbox>`` in the texts are filled, in order, from ``objects`` as ms-swift does for Qwen with
``QWENVL_BBOX_FORMAT=new``: the name itself, and ``[x1, y1, x2, y2]`` in thousandths of the image, which Qwen3-VL was
trained on (clamped to 0..1000). Pixels (``bbox_type: real``, the default) are divided by the size of the image number
``image_id`` (else the first), which must therefore be there; ``norm1`` are shares already.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from qcvl.data.foreign import Row, gallery_of, image_value, records_of, remaining
from qcvl.data.formats.messages import read_parts
from qcvl.data.images import image_size
from qcvl.data.reading import Item, Split
from qcvl.data.turns import MEDIA_KEYS, Gallery, Turn, as_messages, read_turns, refuse_other_media, split_tags
from qcvl.errors import DataError, RecordError
from qcvl.schema.objects import describe
from qcvl.schema.records import Record
from qcvl.schema.types import Message, Place

TURNS = ("messages", "conversations")
USED = (
    *TURNS,
    "system",
    "query",
    "response",
    "history",
    "instruction",
    "input",
    "output",
    *MEDIA_KEYS,
    "objects",
)
GRID = 1000
_NAMED_IMAGE = re.compile(r"<img>(.+?)</img>")
_PLACEHOLDER = re.compile(r"<ref-object>|<bbox>")


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """Chat records of a file or folder; fields beside those above are kept in ``metadata``.

    A RecordError stands in the place of a sample with audio or tools, a tag in an answer, another number of tags than
    images or videos or of placeholders than objects, a turn that is not to be trained, or turns in another order; it
    names file, entry and field.
    """
    return records_of(path, split, lambda row: _record(row, root or row.file.parent))


def _record(row: Row, base: Path) -> Record:
    fields = row.fields
    refuse_other_media(fields)
    key = next((key for key in TURNS if key in fields), None)
    turns = read_turns(fields, key) if key else _asked(fields)
    gallery = gallery_of(fields, base)
    messages = as_messages(turns, [_parts(turn, gallery, base) for turn in turns])
    placed = gallery.finished(messages, key or "query", in_front=True)
    if "objects" in fields:
        placed = _filled(placed, Objects.read(fields["objects"], gallery.images.shown))
    return gallery.record(placed, remaining(fields, USED))


def _asked(fields: Mapping[str, Any]) -> list[Turn]:
    """The turns of a row with a query and a response, or an instruction and an output, and what was said before."""
    question, answer = ("query", "response") if "query" in fields else ("instruction", "output")
    turns = [Turn("system", fields["system"], "system")] if fields.get("system") else []
    history = fields.get("history", [])
    if not isinstance(history, list):
        raise RecordError(f"is {describe(history)}; expected pairs of a question and its answer", field="history")
    for index, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError("is no pair; expected a question and its answer", field=f"history[{index}]")
        turns += [Turn("user", pair[0], f"history[{index}][0]"), Turn("assistant", pair[1], f"history[{index}][1]")]
    for key in (question, answer):
        if key not in fields:
            kinds = "messages, conversations, query and response, or instruction and output"
            raise RecordError(f"is missing; expected {kinds}", field=key)
    texts = [fields[question], fields.get("input") if question == "instruction" else None]
    asked = [text for text in texts if text]
    said = "\n".join(asked) if all(isinstance(text, str) for text in asked) else fields[question]
    return [*turns, Turn("user", said, question), Turn("assistant", fields[answer], answer)]


def _parts(turn: Turn, gallery: Gallery, base: Path) -> tuple[str | Place, ...]:
    if not isinstance(turn.said, str):
        return read_parts(turn, gallery, base)
    pieces = _NAMED_IMAGE.split(turn.said)  # texts, and between them the images they name
    if len(pieces) > 1 and turn.role != "user":
        raise RecordError(
            f"holds the tag <img>, but images stand in user turns and this is the {turn.role}'s", field=turn.field
        )
    parts: list[str | Place] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append(gallery.images.named(image_value(piece, base, turn.field)))
        else:
            parts += split_tags(Turn(turn.role, piece, turn.field), gallery, own_line=False)
    return tuple(parts)


@dataclass(slots=True)
class Objects:
    """The names and boxes of one sample on their way into the placeholders, as texts."""

    refs: Sequence[str]
    boxes: Sequence[str]
    taken: dict[str, int] = field(default_factory=lambda: {"<ref-object>": 0, "<bbox>": 0})

    @classmethod
    def read(cls, raw: object, images: Sequence[str]) -> "Objects":
        """From the JSON value of ``objects``; ``images`` are the sample's, as they can be opened."""
        if not isinstance(raw, dict):
            raise RecordError(f"is {describe(raw)}; expected an object with ref and bbox", field="objects")
        refs, boxes, numbers = (_listed(raw, key) for key in ("ref", "bbox", "image_id"))
        kind = raw.get("bbox_type") or "real"
        if kind not in ("real", "norm1"):
            raise RecordError(f"is {kind!r}; expected real or norm1", field="objects.bbox_type")
        owners = [*numbers, *[0] * (len(boxes) - len(numbers))]
        texts = []
        for index, (box, owner) in enumerate(zip(boxes, owners, strict=False)):
            where = f"objects.bbox[{index}]"
            size = (1, 1) if kind == "norm1" else _size(images, owner, f"objects.image_id[{index}]")
            texts.append(_box_text(box, size, where))
        for index, ref in enumerate(refs):
            if not isinstance(ref, str):
                raise RecordError(f"is {describe(ref)}; expected the name of an object", field=f"objects.ref[{index}]")
        return cls(refs, texts)

    def fill(self, text: str, where: str) -> str:
        """The text with its placeholders replaced by the next names and boxes."""

        def next_text(found: re.Match[str]) -> str:
            tag = found[0]
            key, values = ("ref", self.refs) if tag == "<ref-object>" else ("bbox", self.boxes)
            if self.taken[tag] == len(values):
                raise RecordError(f"has more {tag} than the {len(values)} of objects.{key}", field=where)
            self.taken[tag] += 1
            return values[self.taken[tag] - 1]

        return _PLACEHOLDER.sub(next_text, text)

    def check_used(self) -> None:
        """Raise a RecordError where names or boxes are left."""
        for tag, key, values in (("<ref-object>", "ref", self.refs), ("<bbox>", "bbox", self.boxes)):
            if self.taken[tag] != len(values):
                raise RecordError(f"has {len(values)} entries for {self.taken[tag]} {tag}", field=f"objects.{key}")


def _listed(raw: Mapping[str, Any], key: str) -> list[Any]:
    values = raw.get(key, [])
    if values is not None and not isinstance(values, list):
        raise RecordError(f"is {describe(values)}; expected a list", field=f"objects.{key}")
    return values or []


def _filled(messages: Sequence[Message], objects: Objects) -> tuple[Message, ...]:
    filled = tuple(
        Message(
            message.role,
            tuple(objects.fill(p, f"messages[{i}]") if isinstance(p, str) else p for p in message.parts),
        )
        for i, message in enumerate(messages)
    )
    objects.check_used()
    return filled


def _box_text(box: object, size: tuple[int, int], where: str) -> str:
    """``[x1, y1, x2, y2]`` (or a point, or a polygon) in thousandths of ``size``, rounded as ms-swift does."""
    numbers = box if isinstance(box, list) else []
    sound = all(type(value) in (int, float) and isfinite(value) for value in numbers)
    if not sound or not numbers or len(numbers) % 2:
        raise RecordError(f"is {box!r}; expected x, y pairs", field=where)
    if len(numbers) == 4 and (numbers[0] > numbers[2] or numbers[1] > numbers[3]):
        raise RecordError(f"is {box!r}; a box needs x1 <= x2 and y1 <= y2", field=where)
    shares = (value / size[place % 2] for place, value in enumerate(numbers))
    return str([min(max(round(share * GRID), 0), GRID) for share in shares])


def _size(images: Sequence[str], owner: object, where: str) -> tuple[int, int]:
    if type(owner) is not int or not 0 <= owner < len(images):
        raise RecordError(f"is {owner!r}; expected the number of one of {len(images)} images", field=where)
    try:
        return image_size(images[owner], "")
    except DataError as problem:
        reason = f"{problem}; its size turns pixels into thousandths: copy it there, or give shares and bbox_type norm1"
        raise RecordError(reason.strip(), field=f"images[{owner}]") from None
