"""DeepPCB (github.com/tangsanli5201/DeepPCB): photos of printed circuit boards, each with a defect-free template.

Its layout as found: ``PCBData/trainval.txt`` and ``test.txt`` have lines ``G/S/ID.jpg G/S_not/ID.txt`` (the README says
commas), but the photos are ``G/S/ID_test.jpg`` and ``G/S/ID_temp.jpg``; a label file has lines ``x1 y1 x2 y2 class``
in pixels from the photo's top left edge. Most JPEGs are grey, some RGB, and a pair may mix them. The data are for
research use.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcvl.data.formats import jsonl
from qcvl.data.images import image_size
from qcvl.data.prepared import prepare_folder
from qcvl.data.reading import Split
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

LISTS: dict[Split, str] = {"train": "trainval.txt", "val": "test.txt"}
CLASSES = {"1": "open", "2": "short", "3": "mousebite", "4": "spur", "5": "copper", "6": "pin-hole"}  # of its README
NO_DEFECTS = "no defects"

VERSION = 1  # raise it when the lists change: folders of another version are made anew
HOLD_BACK_SEED = 11


@dataclass(frozen=True, slots=True)
class Pair:
    """A photo, its aligned defect-free template, its defects in pixels of the photo, and the board it was cut from."""

    photo: Path
    template: Path
    defects: tuple[Annotation, ...]
    board: str

    @property
    def name(self) -> str:
        """The number of the pair, as ``20085000``."""
        return self.photo.stem.removesuffix("_test")


def read_pairs(path: Path, split: Split, root: Path | None = None) -> Iterator[Pair]:
    """The pairs of the official list of one split, in its order; ``path`` is the folder that holds ``PCBData``.

    The photos lie in the like folder below ``root`` where one is given.

    Raises:
        DataError: for a missing list, photo or label file, or a line that cannot be read (named).
    """
    listing = path / "PCBData" / LISTS[split]
    if not listing.is_file():
        raise DataError(f"{listing} not found; expected the DeepPCB repository's folder, which holds PCBData/")
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        files = _fields(line)
        if not files:
            continue
        if len(files) != 2:
            raise RecordError(f"has {len(files)} fields; expected a photo and a label file", path=listing, line=number)
        image, labels = (root or path) / "PCBData" / files[0], path / "PCBData" / files[1]
        photo, template = (image.with_name(f"{image.stem}_{kind}.jpg") for kind in ("test", "temp"))
        for file in (photo, template, labels):
            if not file.is_file():
                raise RecordError(f"names {file}, which does not exist; copy it again", path=listing, line=number)
        yield Pair(photo, template, tuple(_read_defects(labels)), board=image.parent.name)


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Record]:
    """Pairs as records of two images, photo and template; ``metadata`` names the board."""
    for pair in read_pairs(path, split, root):
        files = (pair.photo, pair.template)
        yield Record(
            images=tuple(os.path.abspath(file) for file in files),
            annotations=pair.defects,
            sizes=tuple(image_size(file) for file in files),
            summary=summarize(pair.defects),
            metadata={"board": pair.board},
        )


def summarize(defects: Sequence[Annotation]) -> str:
    """Counts by class in the order of the data set's README: ``open x1, short x2``, or ``no defects``."""
    counts = Counter(defect.desc for defect in defects)
    return ", ".join(f"{name} x{counts[name]}" for name in CLASSES.values() if counts[name]) or NO_DEFECTS


def write_lists(root: Path, folder: Path, held_back: int) -> Path:
    """Write the official lists as JSONL files of pairs into ``folder``, unless that was done; no photo is copied.

    ``train.jsonl`` has the trainval list but for ``held_back`` pairs, which are in ``dev.jsonl``: a part to choose
    thresholds on that the official test list, in ``test.jsonl``, does not belong to.

    Raises:
        DataError: when ``root`` is not the data set, or ``folder`` holds other files.
    """
    recipe = {"data": "DeepPCB lists", "version": VERSION, "root": str(root.resolve()), "held_back": held_back}
    return prepare_folder(folder, recipe, lambda draft: _write_lists(root, draft, held_back))


def _write_lists(root: Path, folder: Path, held_back: int) -> None:
    official = {split: list(to_records(root, split, None)) for split in LISTS}
    for split, records in official.items():
        listing = root / "PCBData" / LISTS[split]
        if not records:
            raise DataError(f"{listing} lists no pair; copy the data set again")
        if split == "train" and len(records) <= held_back:
            raise DataError(f"{listing} lists {len(records)} pairs, {held_back} are to be held back; lower held_back")
    chosen = set(np.random.default_rng(HOLD_BACK_SEED).permutation(len(official["train"]))[:held_back].tolist())
    parts: dict[str, list[Record]] = {"train": [], "dev": [], "test": official["val"]}
    for index, record in enumerate(official["train"]):
        parts["dev" if index in chosen else "train"].append(record)
    for name, records in parts.items():
        jsonl.write(records, folder / f"{name}.jsonl")


def _read_defects(path: Path) -> Iterator[Annotation]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = _fields(line)
        if not fields:
            continue
        if len(fields) != 5 or fields[4] not in CLASSES or not all(field.isdecimal() for field in fields):
            raise RecordError(f"is {line!r}; expected x1 y1 x2 y2 and a class of 1..6", path=path, line=number)
        x1, y1, x2, y2 = map(int, fields[:4])
        if x1 >= x2 or y1 >= y2:
            raise RecordError(f"is {line!r}; expected x1 < x2 and y1 < y2", path=path, line=number)
        yield Annotation(Shape("bbox_2d", np.array([[x1, y1], [x2, y2]])), CLASSES[fields[4]])


def _fields(line: str) -> list[str]:
    """The entries of a line, separated by blanks or commas."""
    return [field for field in re.split(r"[,\s]+", line) if field]
