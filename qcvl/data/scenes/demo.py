"""The demo data set on disk: photos as JPEG and one JSONL file for each split and language, drawn on first use."""

from collections.abc import Mapping
from pathlib import Path

import cv2

from qcvl.data.prepared import prepare_folder
from qcvl.data.scenes.draw import draw_scene
from qcvl.data.scenes.layout import GROUP
from qcvl.data.scenes.surfaces import SIDE
from qcvl.data.scenes.words import Language
from qcvl.errors import DataError
from qcvl.schema.records import Record

VERSION = 1  # raise it when the drawing or the wording changes: folders of another version are drawn anew
CHINESE_SHARE = 0.7
JPEG_QUALITY = 95


def write_demo(folder: Path, seed: int = 0, train: int = 500, val: int = 100) -> Path:
    """Draw the demo photos into ``folder`` (some seconds) unless it already holds exactly these; return ``folder``.

    It then holds ``images/`` and ``train_zh.jsonl``, ``train_en.jsonl``, ``val_zh.jsonl``, ``val_en.jsonl``: seven
    records in ten speak Chinese. A file has one language since pixels do not tell it: its source names the prompts.
    Each record's metadata has ``group``, ``label`` (``pass`` or ``fail`` of its group of four) and ``language``.
    The folder appears whole or not at all, also when several processes ask for it at once.

    Raises:
        DataError: when ``train`` or ``val`` is no multiple of 4 from 8 on (a group in each language), or ``folder``
            holds something else.
    """
    for name, count in (("train", train), ("val", val)):
        if count < 2 * GROUP or count % GROUP:
            raise DataError(
                f"demo data: {name} is {count}; expected a multiple of {GROUP} (a group), {2 * GROUP} or more"
            )
    recipe = {"data": "demo data", "version": VERSION, "seed": seed, "train": train, "val": val}
    return prepare_folder(folder, recipe, lambda draft: _draw_all(draft, seed, {"train": train, "val": val}))


def _draw_all(folder: Path, seed: int, counts: Mapping[str, int]) -> None:
    (folder / "images").mkdir()
    first = 0
    for split, total in counts.items():
        chinese = GROUP * round(CHINESE_SHARE * total / GROUP)  # a group speaks one language
        languages: dict[Language, int] = {"zh": chinese, "en": total - chinese}
        for language, count in languages.items():
            name = f"{split}_{language}"
            lines = [_draw_one(folder, name, seed, index, language) for index in range(first, first + count)]
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
            first += count


def _draw_one(folder: Path, name: str, seed: int, index: int, language: Language) -> str:
    """Write photo ``index`` as ``images/NAME_INDEX.jpg`` and return its JSONL line."""
    scene = draw_scene(seed, index, "demo", language)
    file = f"images/{name}_{index:04d}.jpg"
    _, encoded = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (folder / file).write_bytes(encoded.tobytes())
    record = Record(
        images=(file,),
        annotations=tuple(scene.annotations),
        sizes=((SIDE, SIDE),),
        summary=scene.summary,
        metadata={"group": f"G{index // GROUP:03d}", "label": scene.label, "language": language},
    )
    return record.to_json() + "\n"
