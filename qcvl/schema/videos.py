"""A video of a record: a file or photos in order, and how it is to be read where the record says so itself.

    "videos": ["a.mp4", ["f0.jpg", "f1.jpg"], {"video": "b.mp4", "video_start": 2.0, "video_end": 8.0, "fps": 4}]

The options are those of qwen-vl-utils by its names and win over the run's settings (``data.video``). Times are seconds
from the first frame; ``sample_fps`` is how many of the photos of a list make a second; ``fps`` and ``nframes`` exclude
each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite

from qcvl.errors import RecordError
from qcvl.schema.objects import describe, unknown_key
from qcvl.schema.types import URLS

RATES = ("fps", "sample_fps")
TIMES = ("video_start", "video_end")
COUNTS = ("nframes", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels")
OPTIONS = (*TIMES, *RATES, *COUNTS)
ORDERED = (TIMES, ("min_frames", "max_frames"), ("min_pixels", "max_pixels"))  # the first below the second


@dataclass(frozen=True, slots=True)
class Video:
    """Where a video lies, a file's path or those of its frames, and its ``OPTIONS``."""

    source: str | tuple[str, ...]
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files it is made of."""
        return (self.source,) if isinstance(self.source, str) else self.source


def read_video(raw: object, where: str) -> Video:
    """The video in a JSON value, named ``where`` in errors.

    Raises:
        RecordError: for a source that is neither a path nor a list of paths, or an option that is unknown or wrong.
    """
    if not isinstance(raw, dict):
        return Video(read_source(raw, where))
    for key in raw:
        if key not in ("video", *OPTIONS):
            raise unknown_key(key, ("video", *OPTIONS), where)
    source = read_source(raw.get("video"), f"{where}.video")
    return Video(source, read_options(raw, where, listed=isinstance(source, tuple)))


def read_options(raw: Mapping[str, object], where: str, *, listed: bool) -> dict[str, float]:
    """The options among the keys of an object; ``listed`` says that the video is a list of photos.

    Raises:
        RecordError: for one of another type or size, or two that exclude each other.
    """
    options = {key: _option(raw[key], key, f"{where}.{key}") for key in OPTIONS if raw.get(key) is not None}
    if "fps" in options and "nframes" in options:
        raise RecordError("is given beside fps; expected one of them", field=f"{where}.nframes")
    if "sample_fps" in options and not listed:
        message = "says how fast a list of photos shows, and this is a file, which knows that; leave it out"
        raise RecordError(message, field=f"{where}.sample_fps")
    for low, high in ORDERED:
        least, most = options.get(low), options.get(high)
        if least is not None and most is not None and (least > most or (least == most and low == "video_start")):
            raise RecordError(f"is {most:g} and {low} is {least:g}; expected a larger number", field=f"{where}.{high}")
    return options


def write_video(video: Video) -> str | list[str] | dict[str, object]:
    """The JSON value that ``read_video`` reads: the source alone where there is nothing else to say."""
    source = video.source if isinstance(video.source, str) else list(video.source)
    return {"video": source, **video.options} if video.options else source


def read_source(value: object, where: str) -> str | tuple[str, ...]:
    """A video's path, or those of its frames; raises RecordError for anything else, URLs among it."""
    if isinstance(value, str) and value.strip():
        return _path(value, where)
    if not isinstance(value, list) or not value:
        found = "is missing" if value is None else "is empty" if value in ("", []) else f"is {describe(value)}"
        raise RecordError(f"{found}; expected the path of a video, or a list of paths of its frames", field=where)
    for index, path in enumerate(value):
        if not isinstance(path, str) or not path.strip():
            raise RecordError(f"is {describe(path)}; expected the path of a frame", field=f"{where}[{index}]")
    return tuple(_path(path, f"{where}[{index}]") for index, path in enumerate(value))


def _path(value: str, where: str) -> str:
    if value.startswith(URLS):
        found = value if len(value) < 200 else value[:40] + "…"
        raise RecordError(f"is a URL ({found}); download the video first and give its path", field=where)
    return value


def _option(value: object, key: str, where: str) -> float:
    number = _number(value)
    if number is None:
        raise RecordError(f"is {describe(value)}; expected a number", field=where)
    if key in COUNTS:
        if number != int(number) or number < 1:
            raise RecordError(f"is {describe(value)}; expected a whole number from 1 on", field=where)
        return int(number)
    if number < 0 or (number == 0 and key in RATES):
        expected = "a number above 0" if key in RATES else "seconds from 0 on"
        raise RecordError(f"is {describe(value)}; expected {expected}", field=where)
    return number


def _number(value: object) -> float | None:
    """A finite number, also one written as text, as qwen-vl-utils takes them; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return value
