"""DeepPCB (github.com/tangsanli5201/DeepPCB): photos of printed circuit boards, each with a defect-free template.

Its layout as found: ``PCBData/trainval.txt`` and ``test.txt`` have lines ``G/S/ID.jpg G/S_not/ID.txt`` (the README says
commas), but the photos are ``G/S/ID_test.jpg`` and ``G/S/ID_temp.jpg``; a label file has lines ``x1 y1 x2 y2 class``.
Most JPEGs are grey, some RGB, and a pair may mix them. The data are for research use.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from qcvl.data.images import image_size
from qcvl.data.prepared import prepare_folder
from qcvl.errors import DataError, RecordError
from qcvl.geometry.affine import transform_shape, translation_matrix
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.overlap import coverage
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

Split = Literal["train", "val"]
LISTS: dict[Split, str] = {"train": "trainval.txt", "val": "test.txt"}
CLASSES = {"1": "open", "2": "short", "3": "mousebite", "4": "spur", "5": "copper", "6": "pin-hole"}  # of its README
NO_DEFECTS = "no defects"

VERSION = 1  # raise it when the crops change: folders of another version are made anew
SEED = 0
CROPS: dict[Split, int] = {"train": 4000, "val": 400}
EMPTY_SHARE = 0.2  # of the crops are looked for where there is no defect
MIN_VISIBLE = 0.5  # share of a defect's area that a crop must show to list it
TRIES = 30  # windows drawn before one that cuts a defect is taken


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


def read_pairs(root: Path, split: Split) -> Iterator[Pair]:
    """The pairs of the official list of one split, in its order; ``root`` is the folder that holds ``PCBData``.

    Raises:
        DataError: for a missing list, photo or label file, or a line that cannot be read (named).
    """
    listing = root / "PCBData" / LISTS[split]
    if not listing.is_file():
        raise DataError(f"{listing} not found; expected the DeepPCB repository's folder, which holds PCBData/")
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        files = _fields(line)
        if not files:
            continue
        if len(files) != 2:
            raise RecordError(f"has {len(files)} fields; expected a photo and a label file", path=listing, line=number)
        image, labels = (listing.parent / file for file in files)
        photo, template = (image.with_name(f"{image.stem}_{kind}.jpg") for kind in ("test", "temp"))
        for file in (photo, template, labels):
            if not file.is_file():
                raise RecordError(f"names {file}, which does not exist; copy it again", path=listing, line=number)
        yield Pair(photo, template, tuple(_read_defects(labels)), board=image.parent.name)


def to_records(root: Path, split: Split, folder: Path) -> Iterator[Record]:
    """Whole photos as records for a JSONL file in ``folder``: photos below it get relative paths, others absolute ones.

    ``metadata`` names the board and the template's path.
    """
    for pair in read_pairs(root, split):
        yield Record(
            images=(_written(pair.photo, folder),),
            annotations=pair.defects,
            sizes=(image_size(pair.photo),),
            summary=summarize(pair.defects),
            metadata={"board": pair.board, "template": _written(pair.template, folder)},
        )


def summarize(defects: Sequence[Annotation]) -> str:
    """Counts by class in the order of the data set's README: ``open x1, short x2``, or ``no defects``."""
    counts = Counter(defect.desc for defect in defects)
    return ", ".join(f"{name} x{counts[name]}" for name in CLASSES.values() if counts[name]) or NO_DEFECTS


def write_crops(root: Path, folder: Path, crop: int = 128) -> Path:
    """Cut ``crop`` x ``crop`` px windows at native resolution into ``folder`` (some seconds), unless that was done.

    ``folder`` then holds ``images/``, ``train.jsonl`` (from the official trainval list) and ``val.jsonl`` (from test).
    A crop's red, green and blue are the photo, its template and their absolute difference: a small model that sees
    only the photo would have to know every board by heart. Four crops in five are aimed at a defect and the others at
    none; windows that cut a defect are avoided where possible, and a cut defect is listed when half of it shows.

    Raises:
        DataError: when ``root`` is not the data set, a photo is smaller than ``crop``, or ``folder`` holds other files.
    """
    recipe = {
        "data": "DeepPCB crops",
        "version": VERSION,
        "seed": SEED,
        "root": str(root.resolve()),
        "crop": crop,
        "counts": CROPS,
    }
    return prepare_folder(folder, recipe, lambda draft: _write_all(root, draft, crop))


def _write_all(root: Path, folder: Path, crop: int) -> None:
    (folder / "images").mkdir()
    for stream, (split, count) in enumerate(CROPS.items()):
        pairs = list(read_pairs(root, split))
        if not pairs:
            raise DataError(f"{root / 'PCBData' / LISTS[split]} lists no photo; copy the data set again")
        share = np.bincount(np.arange(count) * len(pairs) // count, minlength=len(pairs))  # crops of each photo
        lines: list[str] = []
        for number, (pair, crops) in enumerate(zip(pairs, share.tolist(), strict=True)):
            pixels = fuse(pair) if crops else np.empty(0)
            for index in range(crops):
                random = np.random.default_rng([SEED, stream, number, index])
                name = f"images/{split}_{pair.name}_{index}.png"
                lines.append(_write_crop(folder, name, pair, pixels, crop, random))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _write_crop(folder: Path, name: str, pair: Pair, pixels: np.ndarray, crop: int, random: np.random.Generator) -> str:
    """Write one crop as PNG and return its JSONL line."""
    height, width = pixels.shape[:2]
    if min(height, width) < crop:
        found = f"{pair.photo} is {width}x{height}, smaller than a crop of {crop} pixels"
        raise DataError(f"{found}; set data.crop to {min(height, width)} or less")
    x, y = choose_window([defect.shape for defect in pair.defects], (width, height), crop, random)
    cv2.imwrite(str(folder / name), pixels[y : y + crop, x : x + crop, ::-1])  # OpenCV writes blue first
    seen = visible_defects(pair.defects, (x, y), crop)
    record = Record(
        images=(name,),
        annotations=seen,
        sizes=((crop, crop),),
        summary=summarize(seen),
        metadata={"board": pair.board, "photo": pair.name, "window": [x, y]},
    )
    return record.to_json() + "\n"


def fuse(pair: Pair) -> np.ndarray:
    """Photo, template and their absolute difference as the channels of uint8 ``[H, W, 3]``."""
    photo, template = _read_grey(pair.photo), _read_grey(pair.template)
    if photo.shape != template.shape:
        raise DataError(f"{pair.photo} and {pair.template} differ in size; copy them again")
    return np.stack([photo, template, cv2.absdiff(photo, template)], axis=2)


def choose_window(
    shapes: Sequence[Shape], size_wh: tuple[int, int], crop: int, random: np.random.Generator
) -> tuple[int, int]:
    """``(x, y)`` of the top left pixel of a window: with one defect wholly in it, or (``EMPTY_SHARE``) with none.

    The last one drawn is taken when every one of ``TRIES`` cuts a defect.
    """
    width, height = size_wh
    aim = shapes[int(random.integers(len(shapes)))] if shapes and random.random() >= EMPTY_SHARE else None
    ranges = [(0, width - crop), (0, height - crop)]
    if aim is not None:
        x1, y1, x2, y2 = aim.bounds
        ranges = [_around(x1, x2, crop, width), _around(y1, y2, crop, height)]
    x = y = 0
    for _ in range(TRIES):
        x, y = (int(random.integers(low, high + 1)) for low, high in ranges)
        shares = [coverage(shape, (x, y, x + crop, y + crop)) for shape in shapes]
        if all(share == 0 or (share == 1 and aim is not None) for share in shares):
            break
    return x, y


def visible_defects(defects: Sequence[Annotation], corner_xy: tuple[int, int], crop: int) -> tuple[Annotation, ...]:
    """The defects a window shows to at least ``MIN_VISIBLE``, clipped to it, in its pixels."""
    x, y = corner_xy
    window, move = (x, y, x + crop, y + crop), translation_matrix(-x, -y)
    return tuple(
        Annotation(part, defect.desc)
        for defect in defects
        if coverage(defect.shape, window) >= MIN_VISIBLE
        for part in clip_shape(transform_shape(defect.shape, move), crop, crop)
    )


def _around(start: float, end: float, crop: int, side: int) -> tuple[int, int]:
    """The first and last offset of a window along one side that holds ``start..end`` (its middle, when longer)."""
    if end - start > crop:
        middle = min(max(round((start + end - crop) / 2), 0), side - crop)
        return middle, middle
    return max(int(np.ceil(end)) - crop, 0), min(int(start), side - crop)


def _read_grey(path: Path) -> np.ndarray:
    """uint8 ``[H, W]``; OpenCV decodes straight to grey, several times faster than by way of RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DataError(f"{path} is not a readable image; copy it again")
    return image


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


def _written(path: Path, folder: Path) -> str:
    """``path`` as a JSONL file in ``folder`` names it: relative when it lies below, else absolute."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
