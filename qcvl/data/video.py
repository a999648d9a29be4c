"""Frames of a clip at their real times, from a video file or a list of photos; free of torch.

Times are seconds from the clip's first frame, as the container states them: a clip of variable frame rate keeps its
own. Frames are turned as the file's display matrix says and resized at once, so that a long clip never lies in memory
at full size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from qcvl.data.frames import decoded_by_decord, decoded_by_pyav, opened, stamps_of
from qcvl.data.images import image_size, load_image
from qcvl.errors import ConfigError, DataError
from qcvl.models.pixels import smart_resize
from qcvl.schema.settings import settings
from qcvl.schema.types import Clip, ImageValue

Size = tuple[int, int]  # (width, height)
Part = tuple[float, float | None]  # where a part of a clip begins and ends, in seconds; None: with the clip
BUDGETS = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "total_pixels")


@settings
class VideoSampling:
    """Which frames of a clip are seen, and how large.

    A clip of ``d`` seconds gives ``floor(d * fps)`` frames, but ``min_frames`` at least, ``max_frames`` at most and
    never more than it has, at even distances from its first to its last; with ``num_frames`` it gives that many, if it
    has them. A frame has at most ``max_pixels`` pixels and
    all of them together at most ``total_pixels``; one below ``min_pixels`` is enlarged.

    ``backend`` decodes the frames; their times are those that PyAV reads in any case.
    """

    fps: Annotated[float, Field(gt=0)]
    num_frames: Annotated[int, Field(ge=1)] | None
    min_frames: Annotated[int, Field(ge=1)]
    max_frames: Annotated[int, Field(ge=1)]
    min_pixels: Annotated[int, Field(ge=1)]
    max_pixels: Annotated[int, Field(ge=1)]
    total_pixels: Annotated[int, Field(ge=1)]
    backend: Literal["pyav", "decord"]

    def __post_init__(self) -> None:
        for low, high in (("min_frames", "max_frames"), ("min_pixels", "max_pixels")):
            if getattr(self, low) > getattr(self, high):
                found = f"video.{low} {getattr(self, low)} is above video.{high} {getattr(self, high)}"
                raise ConfigError(f"{found}; expected the smaller number in {low}")

    def choose(self, seconds: Sequence[float] | np.ndarray, frame_seconds: float) -> np.ndarray:
        """Int64 ``[n]``: indices of the frames seen, of a clip whose frames show at ``seconds`` ``[N]``, rising.

        ``frame_seconds`` is how long the last frame shows. Of even frame distances these are the indices that
        transformers' Qwen video processors take; of uneven ones, the frames nearest to even times (fewer of them where
        one frame is the nearest to several).
        """
        times = np.asarray(seconds, dtype=np.float64)
        duration = _duration(times, frame_seconds)
        if self.num_frames is None:
            count = min(max(int(duration * self.fps + 1e-6), self.min_frames), self.max_frames, len(times))
        else:
            count = min(self.num_frames, len(times))
        if count == len(times):
            return np.arange(count)
        wanted = np.linspace(times[0], times[-1], count)
        after = np.searchsorted(times, wanted).clip(1, len(times) - 1)
        nearer = wanted - times[after - 1] <= times[after] - wanted
        return np.unique(np.where(nearer, after - 1, after))

    def frame_size(self, size_wh: Size, frames: int, factor: int) -> Size:
        """``(width, height)`` of each of ``frames`` frames: multiples of ``factor`` within the budgets."""
        budget = max(min(self.max_pixels, self.total_pixels // frames), factor**2)
        height, width = smart_resize(size_wh[1], size_wh[0], factor, min(self.min_pixels, budget), budget)
        return width, height

    def overridden(self, options: Mapping[str, float]) -> "VideoSampling":
        """The settings with what a record itself says of its video (see ``schema.videos``) in their place."""
        own: dict[str, Any] = {name: options[name] for name in BUDGETS if name in options}
        if "nframes" in options:
            own["num_frames"] = options["nframes"]
        elif "fps" in options:
            own["num_frames"] = None
        return replace(self, **own)


def read_clip(
    value: str | Path | Sequence[ImageValue],
    sampling: VideoSampling,
    factor: int,
    *,
    start: float = 0.0,
    end: float | None = None,
    list_fps: float | None = None,
    decode: bool = True,
) -> Clip:
    """The frames of a clip that are seen, resized.

    Args:
        value: a video file, or photos in order.
        sampling: which frames, how large.
        factor: sides are multiples of it (patch times merge).
        start: seconds from the first frame where the part begins.
        end: seconds from the first frame where it ends; None: with the clip.
        list_fps: how many of the photos of a list make a second; ``sampling.fps`` if not given.
        decode: whether pixels are wanted; without, frames are blank and in no memory, and one of them is looked at.

    Raises:
        DataError: for a file that is missing, has no video, or is damaged; photos of different sizes; an empty part.
    """
    if isinstance(value, str | Path):
        return _read_file(Path(value), sampling, factor, (start, end), decode)
    return _read_list(value, sampling, factor, (start, end), list_fps or sampling.fps, decode)


def _read_list(
    photos: Sequence[ImageValue], sampling: VideoSampling, factor: int, part: Part, fps: float, decode: bool
) -> Clip:
    if not photos:
        raise DataError("a clip is an empty list; expected photos in order")
    times = np.arange(len(photos)) / fps
    inside = _inside(times, part, "a clip of photos")
    chosen = inside[sampling.choose(times[inside], 1 / fps)]
    rate = len(chosen) / _duration(times[inside], 1 / fps)
    if not decode:
        size = image_size(photos[chosen[0]], f"frame {chosen[0]} of a clip")
        return Clip(_blank(len(chosen), sampling.frame_size(size, len(chosen), factor)), times[chosen], rate)
    frames: list[np.ndarray] = []
    first: Size | None = None
    for index in chosen.tolist():
        image = load_image(photos[index], f"frame {index} of a clip")
        size = (image.shape[1], image.shape[0])
        first = first or size
        if size != first:
            raise DataError(
                f"frame {index} of a clip is {size[0]}x{size[1]} but its first one seen is {first[0]}x{first[1]}; "
                "frames of one clip have one size: crop or resize them"
            )
        frames.append(_resized(image, sampling.frame_size(size, len(chosen), factor)))
    return Clip(np.stack(frames), times[chosen], rate)


def _read_file(path: Path, sampling: VideoSampling, factor: int, part: Part, decode: bool) -> Clip:
    with opened(path) as (container, stream):
        stamps, last = stamps_of(container, stream)
        if not len(stamps):
            raise DataError(f"{path} holds no frame; copy it again or remove the record")
        unit = stream.time_base or Fraction(1)
        times = (stamps - stamps[0]) * unit.numerator / unit.denominator  # rounded once, so that 15 / 30 s is .5
        inside, last_seconds = _inside(times, part, str(path)), last * float(unit)
        chosen = inside[sampling.choose(times[inside], last_seconds)]
        rate = len(chosen) / _duration(times[inside], last_seconds)
        wanted = chosen if decode else chosen[:1]
        if decode and sampling.backend == "decord":
            images = decoded_by_decord(path, wanted, len(stamps))
        else:
            images = decoded_by_pyav(container, stream, stamps[wanted])
        frames = []
        for image in images:  # one at a time: at full size they may not fit into memory
            size = sampling.frame_size((image.shape[1], image.shape[0]), len(chosen), factor)
            frames.append(_resized(image, size))
    if len(frames) < len(wanted):
        raise DataError(
            f"{path} is damaged: its header lists {len(stamps)} frames, of the {len(wanted)} to be seen only "
            f"{len(frames)} can be decoded; copy it again or remove the record"
        )
    if not decode:
        return Clip(_blank(len(chosen), (frames[0].shape[1], frames[0].shape[0])), times[chosen], rate)
    return Clip(np.stack(frames), times[chosen], rate)


def _duration(times: np.ndarray, frame_seconds: float) -> float:
    """Seconds that frames show for, the last one ``frame_seconds``."""
    return float(times[-1] - times[0]) + frame_seconds


def _blank(count: int, size_wh: Size) -> np.ndarray:
    """Black frames uint8 ``[T, H, W, 3]`` that take up no memory."""
    return np.broadcast_to(np.uint8(0), (count, size_wh[1], size_wh[0], 3))


def _inside(times: np.ndarray, part: Part, name: str) -> np.ndarray:
    """Indices of the frames of a part of a clip."""
    start, end = part
    inside = np.flatnonzero((times >= start - 1e-9) & (times <= (np.inf if end is None else end + 1e-9)))
    if not len(inside):
        to = "its end" if end is None else f"{end:g} s"
        raise DataError(f"{name} has no frame from {start:g} s to {to}; its last one shows at {times[-1]:g} s")
    return inside


def _resized(image: np.ndarray, size_wh: Size) -> np.ndarray:
    """Uint8 ``[H, W, 3]`` of another size, resampled as photos are."""
    if (image.shape[1], image.shape[0]) == size_wh:
        return image
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BICUBIC))
