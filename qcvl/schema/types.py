"""The words every other module uses: Annotation, Record, Sample and the task a sample is for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from qcvl.geometry.shapes import Shape

Task = Literal["dense", "summary", "chat"]
Pairing = Literal["fused", "photo"]  # what is seen of a photo and its template; see data.pairs
URLS = ("data:", "http://", "https://")  # how an image that is no file begins
TASKS: tuple[Task, ...] = ("dense", "summary", "chat")
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of a photo: its shape in pixels of image number ``image`` (continuous edges) and its description."""

    shape: Shape
    desc: str
    image: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a medium stands in a turn: the record's media of this kind fill its places in order, one each."""

    kind: Literal["image", "video"]


IMAGE, VIDEO = Place("image"), Place("video")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: texts and places in order. Neighbouring texts are one, none is empty."""

    role: Role
    parts: tuple[str | Place, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames of a video that are seen, uint8 RGB ``[T, H, W, 3]``, and when.

    ``seconds [T]`` are counted from the first frame of the whole video. ``fps`` is how many of the frames seen make a
    second.
    """

    frames: np.ndarray
    seconds: np.ndarray
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Decoded pixels and what the answer should say about them.

    ``images`` are uint8 RGB arrays ``[H, W, 3]`` after EXIF orientation. ``kept_indices[k]`` is the index in the record
    of the object that became ``annotations[k]`` and ``coverages[k]`` the share of it that is still in the frame.
    ``keep_vertex_order`` says that the order of a shape's points carries meaning, as the first corner of a text does.
    ``messages`` are what a chat sample says; it may be without images, and alone may have ``videos``, whose frames are
    resized already. ``summaries`` are those of photos that are spoken of together and judged apart (see
    ``data.samples.joined``), one each; empty for the sample of one record. ``telemetry`` counts what augmentation did
    (``{"rotate/applied": 1, …}``).
    """

    images: tuple[np.ndarray, ...]
    annotations: tuple[Annotation, ...]
    task: Task
    summary: str | None = None
    summaries: tuple[str | None, ...] = ()
    messages: tuple[Message, ...] = ()
    videos: tuple[Clip, ...] = ()
    kept_indices: tuple[int, ...] = ()
    coverages: tuple[float, ...] = ()
    telemetry: Mapping[str, float] = field(default_factory=dict)
    keep_vertex_order: bool = False

    def size(self, image: int = 0) -> tuple[int, int]:
        """``(width, height)`` in pixels of one image."""
        height, width = self.images[image].shape[:2]
        return width, height


ImageValue = str | Path | bytes | np.ndarray | Any  # a path, data URL, encoded bytes, RGB array or PIL image
