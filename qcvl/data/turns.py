"""Conversations of other tools: their turns, the tags that stand for media in a text, and the media behind them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from qcvl.errors import RecordError
from qcvl.schema.messages import PLACES, check_turns, is_blank, joined, with_places
from qcvl.schema.objects import describe
from qcvl.schema.records import Record
from qcvl.schema.types import Message, Place, Role
from qcvl.schema.videos import Video

NO_AUDIO = "audio is not read: the models trained here see images, videos and text"
MEDIA_KEYS = ("images", "image", "videos", "video")  # of a sample, read
SPEAKERS: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot"), "assistant"),
}
UNREAD = ("tool_calls", "function_call", "tool_call_id", "reasoning_content")  # they would change what is trained
WEIGHTS = ("loss", "weight", "train")  # of a turn; every turn of the assistant is trained
TAG = re.compile(r"<(image|video|audio)>")
_TAG_ON_ITS_LINE = re.compile(r"\n?<(image|video|audio)>\n?")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Turn:
    """What someone says; ``field`` names it in errors."""

    role: Role
    said: Any
    field: str


@dataclass(slots=True)
class Shown(Generic[T]):
    """The media of one kind of a sample: those it lists, taken one by one as places come up, and all that are shown."""

    kind: Literal["image", "video"]
    listed: Sequence[T]
    shown: list[T] = field(default_factory=list)
    taken: int = 0

    def next(self, where: str) -> Place:
        """The place of the next listed one."""
        if self.taken == len(self.listed):
            count = f"{len(self.listed)} listed {self.kind}{'s' * (len(self.listed) != 1)}"
            message = f"has a place for one {self.kind} more than the {count}; expected one for each"
            raise RecordError(message, field=where)
        self.taken += 1
        return self.named(self.listed[self.taken - 1])

    def named(self, value: T) -> Place:
        """The place of one that the place itself names."""
        self.shown.append(value)
        return PLACES[self.kind]

    @property
    def left(self) -> Sequence[T]:
        """Those listed that no place has shown."""
        return self.listed[self.taken :]


@dataclass(slots=True)
class Gallery:
    """The images and videos of one sample on their way into its turns."""

    images: Shown[str]
    videos: Shown[Video]

    @classmethod
    def of(cls, images: Sequence[str], videos: Sequence[Video]) -> "Gallery":
        """Those a sample lists, none of them shown yet."""
        return cls(Shown("image", images), Shown("video", videos))

    def next(self, kind: str, where: str) -> Place:
        """The place of the next listed medium of a kind."""
        return (self.images if kind == "image" else self.videos).next(where)

    def finished(self, messages: Sequence[Message], where: str, *, in_front: bool) -> tuple[Message, ...]:
        """The turns once all places are read: listed media that nothing shows all come first, or are refused."""
        anything = bool(self.images.shown or self.videos.shown)
        for media in (self.images, self.videos):
            if media.left and (anything or not in_front):
                all_of_them = len(media.shown) + len(media.left)
                message = f"have places for {len(media.shown)} of {all_of_them} {media.kind}s; expected one for each"
                raise RecordError(message, field=where)
        self.images.shown.extend(self.images.left)
        self.videos.shown.extend(self.videos.left)
        return with_places(messages, len(self.images.shown), where, video_count=len(self.videos.shown))

    def record(self, messages: tuple[Message, ...], metadata: Mapping[str, Any]) -> Record:
        """The chat record of finished turns."""
        images, videos = tuple(self.images.shown), tuple(self.videos.shown)
        return Record(images=images, videos=videos, messages=messages, annotated=False, metadata=metadata)


def read_turns(fields: Mapping[str, Any], where: str) -> list[Turn]:
    """The turns under the key ``where``, spelled ``role``/``content`` or ``from``/``value``, in an order we train.

    Keys of a turn that change nothing in what is trained are passed over.

    Raises:
        RecordError: for no turns, an unknown speaker, a wrong order, or a turn with tool calls or a weight of 0.
    """
    given = fields.get(where)
    if not isinstance(given, list) or not given:
        found = "is missing" if given is None else f"is {describe(given)}" if given else "is an empty list"
        raise RecordError(f"{found}; expected the turns of a conversation", field=where)
    key = "from" if isinstance(given[0], dict) and "from" in given[0] else "role"
    turns = [_turn(item, key, f"{where}[{index}]") for index, item in enumerate(given)]
    check_turns([turn.role for turn in turns], where, key)
    return _with_system(fields, turns)


def refuse_other_media(fields: Mapping[str, Any]) -> None:
    """Raise a RecordError where a sample comes with audio or tools."""
    for key in ("audio", "audios"):
        if fields.get(key):
            raise RecordError(f"is given, but {NO_AUDIO}", field=key)
    if fields.get("tools"):
        raise RecordError("are given, but calls of tools are not trained; leave the sample out", field="tools")


def listed(fields: Mapping[str, Any], kind: Literal["image", "video"]) -> list[tuple[str, Any]]:
    """``(name for errors, value)`` of each medium that ``image`` or ``images`` lists; one value is a list of one."""
    key = f"{kind}s" if f"{kind}s" in fields else kind
    given = fields.get(key, [])
    if isinstance(given, list):
        return [(f"{key}[{index}]", value) for index, value in enumerate(given)]
    return [(key, given)] if given else []


def split_tags(turn: Turn, gallery: Gallery, *, own_line: bool) -> tuple[str | Place, ...]:
    """Texts and places of a turn's text with ``<image>`` and ``<video>`` tags, which stand in user turns alone.

    With ``own_line``, one line break on each side of a tag belongs to the tag.
    """
    if not isinstance(turn.said, str):
        raise RecordError(f"is {describe(turn.said)}; expected text", field=turn.field)
    _refuse_tags(turn)
    pieces = (_TAG_ON_ITS_LINE if own_line else TAG).split(turn.said)  # texts, and between them the kinds of tags
    return joined(piece if number % 2 == 0 else gallery.next(piece, turn.field) for number, piece in enumerate(pieces))


def join_tags(parts: Iterable[str | Place], where: str) -> str:
    """A turn as one text with each tag of a medium on its own line; ``split_tags(own_line=True)`` reads it back.

    Raises:
        RecordError: for a text that itself holds a tag, which would be read as a place.
    """
    text, after_place = "", False
    for number, part in enumerate(parts):
        if isinstance(part, str) and (tag := TAG.search(part)):
            message = f"holds the text {tag[0]}, which would be read as a place; reword it or write another format"
            raise RecordError(message, field=where)
        is_place = isinstance(part, Place)
        text += "\n" * (number > 0 and (is_place or after_place)) + (
            f"<{part.kind}>" if isinstance(part, Place) else part
        )
        after_place = is_place
    return text


def as_messages(turns: Sequence[Turn], parts: Sequence[Sequence[str | Place]]) -> list[Message]:
    """The turns with what they say; one that says nothing is refused."""
    for turn, said in zip(turns, parts, strict=True):
        if is_blank(said):
            raise RecordError(f"is empty; expected what the {turn.role} says", field=turn.field)
    return [Message(turn.role, joined(said)) for turn, said in zip(turns, parts, strict=True)]


def _refuse_tags(turn: Turn) -> None:
    """Raise a RecordError for a tag that is none of an image or a video in a user turn."""
    reasons = {"audio": NO_AUDIO}
    if turn.role != "user":
        reasons |= {kind: f"{kind}s stand in user turns and this is the {turn.role}'s" for kind in PLACES}
    for kind in TAG.findall(turn.said):
        if kind in reasons:
            raise RecordError(f"holds the tag <{kind}>, but {reasons[kind]}", field=turn.field)


def _turn(item: object, key: str, where: str) -> Turn:
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected an object with {key} and what is said", field=where)
    speaker = item.get(key)
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        found = f'is "{speaker}"' if isinstance(speaker, str) else f"is {describe(speaker)}"
        expected = "human, gpt or system" if key == "from" else "system, user or assistant"
        raise RecordError(f"{found}; expected {expected}", field=f"{where}.{key}")
    for name in UNREAD:
        if item.get(name):
            raise RecordError("is given, but it is not trained; leave the sample out", field=f"{where}.{name}")
    for name in WEIGHTS:
        if item.get(name) is not None and not item[name]:
            found = f"is {describe(item[name])}, but every turn of the assistant is trained; leave the sample out"
            raise RecordError(found, field=f"{where}.{name}")
    said = "value" if "value" in item else "content"
    return Turn(SPEAKERS[speaker], item.get(said), f"{where}.{said}")


def _with_system(fields: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """The turns after the system text that stands beside them, if there is one."""
    if not fields.get("system"):
        return turns
    if turns[0].role == "system":
        raise RecordError("is given, but the first turn is the system's too; leave one of them out", field="system")
    return [Turn("system", fields["system"], "system"), *turns]
