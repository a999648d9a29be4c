"""The conversation of a record, both ways: who says what, and where its images and videos stand.

    "messages": [{"role": "system", "content": "…"},
                 {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]},
                 {"role": "assistant", "content": "…"}]

A system turn may come first; then user and assistant take turns and the assistant speaks last. Places of images and of
videos (``{"type": "video"}``) stand in user turns, and the record's ``images`` and ``videos`` fill them in order, one
each; where there is no place at all, all images and then all videos come before the text of the first user turn. Text
is text: ``<image>`` or ``<|im_end|>`` in it stands for nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from qcvl.errors import RecordError
from qcvl.schema.objects import describe, unknown_key
from qcvl.schema.types import IMAGE, VIDEO, Message, Place, Role

ROLES: tuple[Role, ...] = get_args(Role)
MESSAGE_KEYS, TEXT_KEYS, PLACE_KEYS = ("role", "content"), ("type", "text"), ("type",)
PLACES = {place.kind: place for place in (IMAGE, VIDEO)}


def read_messages(raw: object, image_count: int | None, video_count: int | None = 0) -> tuple[Message, ...]:
    """The turns in the JSON value of ``messages``, with a place for each of ``image_count`` images and of the videos.

    None for ``raw`` is a record without a conversation; None for a count leaves the places unchecked.

    Raises:
        RecordError: the first turn, role, part or number of places that breaks the contract, by its field.
    """
    if raw is None:
        return ()
    if not isinstance(raw, list) or not raw:
        found = "is an empty list" if raw == [] else f"is {describe(raw)}"
        raise RecordError(f"{found}; expected a list of turns that ends with the assistant's", field="messages")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(raw))
    check_turns([message.role for message in messages])
    unknown = image_count is None or video_count is None
    return messages if unknown else with_places(messages, image_count or 0, video_count=video_count or 0)


def write_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The turns as JSON values, which is also how chat templates take them; a turn of text alone is one string."""
    return [{"role": message.role, "content": _written(message.parts)} for message in messages]


def without_images(raw: Mapping[str, Any]) -> list[RecordError]:
    """An error for each field of a record without images that only says something about images."""
    fields = (key for key in ("width", "height", "objects", "summary") if raw.get(key) is not None)
    return [RecordError("is given but images is not; expected images, or messages alone", field=f) for f in fields]


def check_turns(roles: Sequence[str], where: str = "messages", key: str = "role") -> None:
    """Refuse turns in another order than: a system turn perhaps, then user and assistant in turn, assistant last.

    ``where`` and ``key`` are how the file calls the list of turns and the speaker of one.
    """
    start = 1 if roles[:1] == ["system"] else 0
    for index, role in enumerate(roles[start:], start):
        expected = ROLES[1 + (index - start) % 2]
        if role != expected:
            rule = "a system turn may come first, then user and assistant take turns"
            raise RecordError(f'is "{role}"; expected "{expected}": {rule}', field=f"{where}[{index}].{key}")
    if roles[-1] != "assistant":
        found = f'is "{roles[-1]}"; expected a last turn of the assistant, the answer that is trained'
        raise RecordError(found, field=f"{where}[{len(roles) - 1}].{key}")


def with_places(
    messages: Sequence[Message], image_count: int, where: str = "messages", *, video_count: int = 0
) -> tuple[Message, ...]:
    """The turns with exactly so many places of images and videos; without any, all come before the first user text.

    Raises:
        RecordError: when there is another number of places.
    """
    places = [part for message in messages for part in message.parts if isinstance(part, Place)]
    for place, count in ((IMAGE, image_count), (VIDEO, video_count)):
        found = places.count(place)
        if places and found != count:
            message = f"has {found} {place.kind} place{'s' * (found != 1)} but {place.kind}s has {count}"
            raise RecordError(f"{message}; expected one place for each", field=where)
    if places or not image_count + video_count:
        return tuple(messages)
    first = next(index for index, message in enumerate(messages) if message.role == "user")
    shown = replace(messages[first], parts=(*[IMAGE] * image_count, *[VIDEO] * video_count, *messages[first].parts))
    return (*messages[:first], shown, *messages[first + 1 :])


def joined(parts: Iterable[str | Place]) -> tuple[str | Place, ...]:
    """Parts with neighbouring texts made one and empty ones left out."""
    kept: list[str | Place] = []
    for part in parts:
        if isinstance(part, str) and kept and isinstance(kept[-1], str):
            kept[-1] += part
        elif part != "":
            kept.append(part)
    return tuple(kept)


def check_speaker(kind: str, role: Role, where: str) -> None:
    """Refuse an image or a video in a turn that is not the user's."""
    if role != "user":
        a = "an" if kind == "image" else "a"
        raise RecordError(f"is {a} {kind} in a turn of the {role}; {kind}s stand in user turns", field=where)


def is_blank(parts: Sequence[str | Place]) -> bool:
    """Whether a turn says nothing: no place, and no text but white space."""
    return not any(isinstance(part, Place) or part.strip() for part in parts)


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected an object with role and content", field=where)
    for key in item:
        if key not in MESSAGE_KEYS:
            raise unknown_key(key, MESSAGE_KEYS, where)
    role = item.get("role")
    if role not in ROLES:
        found = f'is "{role}"' if isinstance(role, str) else "is missing" if role is None else f"is {describe(role)}"
        raise RecordError(f"{found}; expected {', '.join(ROLES[:-1])} or {ROLES[-1]}", field=f"{where}.role")
    return Message(role, _content(item.get("content"), role, f"{where}.content"))


def _content(value: object, role: Role, where: str) -> tuple[str | Place, ...]:
    if not isinstance(value, str | list):
        raise RecordError(f"is {describe(value)}; expected text, or a list of text, image and video parts", field=where)
    texts = [value] if isinstance(value, str) else (_part(p, role, f"{where}[{i}]") for i, p in enumerate(value))
    parts = joined(texts)
    if is_blank(parts):
        raise RecordError(f"is empty; expected what the {role} says", field=where)
    return parts


def _part(item: object, role: Role, where: str) -> str | Place:
    if not isinstance(item, dict):
        raise RecordError(f"is {describe(item)}; expected a part with a type: text, image or video", field=where)
    kind = item.get("type")
    if kind not in ("text", *PLACES):
        found = f'is "{kind}"' if isinstance(kind, str) else "is missing" if kind is None else f"is {describe(kind)}"
        raise RecordError(f"{found}; expected text, image or video", field=f"{where}.type")
    known = TEXT_KEYS if kind == "text" else PLACE_KEYS
    for key in item:
        if key not in known:
            hint = "" if kind == "text" else f"; such a place holds nothing, its file is the next of {kind}s"
            raise RecordError(f"is not a known key of a part of type {kind}{hint}", field=f"{where}.{key}")
    if kind in PLACES:
        check_speaker(kind, role, where)
        return PLACES[kind]
    if not isinstance(item.get("text"), str):
        raise RecordError(f"is {describe(item.get('text'))}; expected text", field=f"{where}.text")
    return item["text"]


def _written(parts: Sequence[str | Place]) -> str | list[dict[str, str]]:
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return [{"type": "text", "text": part} if isinstance(part, str) else {"type": part.kind} for part in parts]
