"""A conversation's token ids and label mask, from the checkpoint's own chat template.

Two rules keep them exact:

* the template never sees a user's text: it renders private marks in its place, so that only the template's own special
  tokens are special, and a desc holding ``<|im_end|>`` or ``<image>`` is plain text;
* an answer is what the rendering with the answer adds to the rendering without it, and is tokenized by itself, as it
  will be when the model writes it; of several, each is found so, turn by turn.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from qcvl.errors import DataError
from qcvl.models.spec import Processing
from qcvl.models.text import plain_ids, render, special_ids, split_special
from qcvl.schema.prompts import TaskPrompt

IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"  # what every Qwen template writes for a medium, once
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IGNORE = -100  # torch's cross-entropy ignores this label
Times = Sequence[Sequence[float]]  # of each video, the seconds written before its groups of frames
_MARK = re.compile("\ue000(\\d+)\ue001")  # private-use code points: never in a template


def ask(prompt: TaskPrompt, image_count: int) -> list[dict]:
    """The conversation up to the answer: a system text, then the images followed by the user text."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    media = [{"type": "image"} for _ in range(image_count)]
    return [*system, {"role": "user", "content": [*media, {"type": "text", "text": prompt.user}]}]


def encode_question(processing: Processing, question: Sequence[dict], grids: np.ndarray) -> np.ndarray:
    """Token ids int64 ``[L]`` up to where the model starts to write; each image is expanded to its merged cells.

    Raises:
        DataError: when the template has another number of image places than there are grids.
    """
    marked, texts = _mark_texts(question)
    rendered = render(processing, marked, add_generation_prompt=True)
    return _token_ids(processing, rendered, texts, _cells(processing, rendered, grids, "a question"))


def encode_conversation(
    processing: Processing, messages: Sequence[dict], grids: np.ndarray, where: str, times: Times = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels, int64 ``[L]``, of a whole conversation.

    Labels are every turn of the assistant through its end-of-turn token; everything else is -100. ``grids`` has a row
    for each run of visual tokens, ``times`` what is written between those of each video (see ``data.media``).

    Raises:
        DataError: when the template renders a turn differently once others follow, when an answer has no end-of-turn
            token, or when media and grids do not match.
    """
    marked, texts = _mark_texts(messages)
    whole = _timed(render(processing, marked, add_generation_prompt=False), times)
    cells = _cells(processing, whole, grids, where)
    ids, labels, done = [], [], 0
    for start, end in _answers(processing, marked, whole, times, where):
        asked = _token_ids(processing, whole[done:start], texts, cells)
        answer = _token_ids(processing, whole[start:end], texts, cells)
        ends = np.flatnonzero(answer == processing.turn_end)
        if not len(ends):
            raise DataError(f"{where}: the rendered answer has no end-of-turn token")
        trained = np.arange(len(answer)) <= ends[0]
        ids += [asked, answer]
        labels += [np.full(len(asked), IGNORE), np.where(trained, answer, IGNORE)]
        done = end
    rest = _token_ids(processing, whole[done:], texts, cells)
    return np.concatenate([*ids, rest]), np.concatenate([*labels, np.full(len(rest), IGNORE)])


def _answers(
    processing: Processing, marked: Sequence[dict], whole: str, times: Times, where: str
) -> Iterator[tuple[int, int]]:
    """Where each answer stands in the ``whole`` rendering: from the end of what asks for it to the end of its turn."""
    for number, message in enumerate(marked):
        if message["role"] != "assistant":
            continue
        before = _timed(render(processing, marked[:number], add_generation_prompt=True), times)
        after = _timed(render(processing, marked[: number + 1], add_generation_prompt=False), times)
        if not after.startswith(before):
            raise DataError(f"{where}: the chat template renders the question differently once the answer follows")
        if not whole.startswith(after):
            raise DataError(f"{where}: the chat template renders turn {number} differently once another follows")
        yield len(before), len(after)


def _timed(rendered: str, times: Times) -> str:
    """The rendering with each video as its groups of frames, each of them its time and a place of its own.

    As Qwen3VLProcessor does, the place of the template is filled and what stands around it stays.
    """
    groups = iter(times)

    def written(place: re.Match[str]) -> str:
        own = next(groups, None)
        if own is None:
            return place[0]
        return "".join(f"<{seconds:.1f} seconds>{VISION_START}{VIDEO_PAD}{VISION_END}" for seconds in own)

    return re.sub(re.escape(VIDEO_PAD), written, rendered) if times else rendered


def _cells(processing: Processing, rendered: str, grids: np.ndarray, where: str) -> Iterator[int]:
    """Merged cells of each place; marks stand for the users' texts, so every placeholder is the template's."""
    images, videos = rendered.count(IMAGE_PAD), rendered.count(VIDEO_PAD)
    if images + videos != len(grids):
        if videos:
            found = f"{images} image places and {videos} of video frames for {len(grids)} runs of visual tokens"
            raise DataError(f"{where}: the chat template has {found}; it must place each video once")
        raise DataError(f"{where}: the chat template has {images} image places for {len(grids)} images")
    merged = processing.family.merge_size**2
    return iter([int(grid.prod()) // merged for grid in grids])


def _token_ids(processing: Processing, rendered: str, texts: Sequence[str], cells: Iterator[int]) -> np.ndarray:
    """Ids of rendered text with marks: template specials one by one, each run between them as plain text."""
    ids: list[int] = []
    specials = special_ids(processing)
    for piece in split_special(processing, rendered):
        token_id = specials.get(piece)
        if token_id is None:
            ids.extend(plain_ids(processing, _MARK.sub(lambda mark: texts[int(mark[1])], piece)))
        elif piece in (IMAGE_PAD, VIDEO_PAD):
            ids.extend([token_id] * next(cells))
        else:
            ids.append(token_id)
    return np.array(ids, dtype=np.int64)


def _mark_texts(messages: Sequence[dict]) -> tuple[list[dict], list[str]]:
    texts: list[str] = []

    def mark(text: str) -> str:
        texts.append(text)
        return f"\ue000{len(texts) - 1}\ue001"

    marked = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            content = mark(content)
        else:
            content = [{**part, "text": mark(part["text"])} if part["type"] == "text" else part for part in content]
        marked.append({**message, "content": content})
    return marked, texts
