"""A video file's frames and time stamps: stamps by PyAV, which needs to decode nothing, frames by PyAV or decord.

Both give frames turned as the file's display matrix says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from qcvl.errors import ConfigError, DataError

if TYPE_CHECKING:
    import av


@contextmanager
def opened(path: Path) -> Iterator[tuple["av.container.InputContainer", "av.VideoStream"]]:
    """A file and its stream of pictures; whatever FFmpeg says of it, at once or later, becomes a DataError."""
    av = load_av()
    if not path.is_file():
        raise DataError(f"{path} not found; paths are relative to the JSONL's folder")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video stream; expected a clip with pictures")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise DataError(f"{path} is damaged: {error.strerror}; copy it again or remove the record") from error


def load_av() -> ModuleType:
    """PyAV, which only clips need.

    Raises:
        ConfigError: when it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ConfigError("reading video needs PyAV; run pip install 'qcvl[video]'") from error
    return av


def stamps_of(container: "av.container.InputContainer", stream: "av.VideoStream") -> tuple[np.ndarray, int]:
    """Presentation stamps int64 ``[N]`` of all frames, rising, and for how long the last one shows; decodes nothing."""
    shown = {packet.pts: packet.duration for packet in container.demux(stream) if packet.pts is not None}
    stamps = np.array(sorted(shown), dtype=np.int64)
    last = shown[int(stamps[-1])] if len(stamps) else 0
    typical = int(np.median(np.diff(stamps))) if len(stamps) > 1 else 1
    return stamps, int(last or typical)


def decoded_by_pyav(
    container: "av.container.InputContainer", stream: "av.VideoStream", wanted: np.ndarray
) -> Iterator[np.ndarray]:
    """Frames uint8 RGB ``[H, W, 3]`` with the ``wanted`` stamps, in order, until the last or to the first damage."""
    container.seek(int(wanted[0]), stream=stream, backward=True)
    waiting = set(wanted.tolist())
    for frame in container.decode(stream):
        if frame.pts in waiting:
            waiting.remove(frame.pts)
            image = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
        if not waiting:
            return


def decoded_by_decord(path: Path, wanted: np.ndarray, listed: int) -> Iterator[np.ndarray]:
    """Frames uint8 RGB ``[H, W, 3]`` by their ``wanted`` numbers, of a file of which PyAV lists so many.

    Raises:
        ConfigError: when decord is not installed.
        DataError: where it cannot decode the file, or counts its frames otherwise: numbers would mean other frames.
    """
    try:
        import decord
    except ModuleNotFoundError as error:
        raise ConfigError(
            "data.video.backend=decord needs decord; run pip install 'qcvl[decord]', or choose pyav"
        ) from error
    try:
        reader = decord.VideoReader(str(path))
        if len(reader) != listed:
            raise DataError(
                f"{path}: decord counts {len(reader)} frames and PyAV {listed}; set data.video.backend=pyav"
            )
        for number in wanted.tolist():
            yield reader[number].asnumpy()
    except decord.DECORDError as error:
        raise DataError(f"decord cannot decode {path}: it is damaged, or PyAV can; see data.video.backend") from error


def check_video(path: Path, *, decode: bool) -> None:
    """Pass for a file whose header is that of a video; ``decode`` also decodes all its frames.

    Raises:
        DataError: for a file that is missing, has no video, or is damaged.
    """
    with opened(path) as (container, stream):
        if decode:
            listed = len(stamps_of(container, stream)[0])
            container.seek(0)
            read = sum(1 for _ in container.decode(stream))
            if read < listed or not listed:
                found = f"its header lists {listed} frames, of which {read} can be decoded"
                raise DataError(f"{path} is damaged: {found}; copy it again or remove the record")
