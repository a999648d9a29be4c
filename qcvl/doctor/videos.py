"""Videos of conversations: whether their files are there and can be opened."""

import os
from functools import lru_cache
from pathlib import Path

from qcvl.data.frames import check_video
from qcvl.data.images import image_header, shorten
from qcvl.doctor.photos import Fault
from qcvl.doctor.reading import Entry
from qcvl.errors import DataError


def look_at_videos(entry: Entry, *, decode: bool) -> list[Fault]:
    """What is wrong with the files of a record's videos, the first of each; ``decode`` also reads all their frames."""
    folder = str(entry.path.parent) if entry.path else ""
    faults = []
    for index, video in enumerate(entry.said.videos):
        is_listed = not isinstance(video.source, str)
        looked = (_look(os.path.join(folder, file), is_listed, decode) for file in video.files)
        wrong = next((found for found in looked if found), None)
        if wrong:
            faults.append((f"videos[{index}]", *wrong))
    return faults


def forget_videos() -> None:
    """Look at every file anew from here on, as ``forget_photos`` does."""
    _look.cache_clear()


@lru_cache(maxsize=2**15)  # many records may be about one video
def _look(file: str, is_frame: bool, decode: bool) -> tuple[str, str] | None:
    """Code and message of what is wrong with a video, or with one of the photos that make one."""
    try:
        if not os.path.isfile(file):
            return "video-missing", f"({shorten(file)}) not found; paths are relative to the JSONL's folder"
        if is_frame:
            image_header(file, "")
        else:
            check_video(Path(file), decode=decode)
    except ValueError:  # a name with a zero byte
        return "video-missing", f"({shorten(file)}) is no name of a file; correct the record"
    except DataError as error:
        return "video-damaged", str(error).strip()
    return None
