"""The new task: scenes as another camera shows them, in negative. What they say stays in the words of the old task."""

from dataclasses import replace
from pathlib import Path

import cv2

from qcvl.data.scenes.records import SceneRecords


def write_negatives(path: Path, count: int, seed: int) -> None:
    """Draw ``count`` English scenes in negative beside a JSONL file of them, unless it is there."""
    if path.exists():
        return
    photos = path.with_suffix("")
    photos.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, record in enumerate(SceneRecords(count, seed, "base", "en")):
        name = f"{photos.name}/{index:04d}.png"
        cv2.imwrite(str(path.parent / name), 255 - record.images[0][..., ::-1])
        lines.append(replace(record, images=(name,)).to_json() + "\n")
    path.write_text("".join(lines), encoding="utf-8")
