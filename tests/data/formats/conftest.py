"""What tests of formats share: photos on disk, and a reader's records and notices by one call."""

import json
from pathlib import Path

import pytest
from PIL import Image

from qcvl.data.reading import find_reader, told_apart
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation


@pytest.fixture
def photo(tmp_path):
    """``photo("images/a.png", 40, 30)``: a grey photo of that name and size below ``tmp_path``; returns its path."""

    def make(name: str, width: int = 100, height: int = 50, **save) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (width, height)).save(path, **save)
        return path

    return make


@pytest.fixture
def write(tmp_path):
    """``write("a.json", value)``: a JSON value, or a text as it is, as a file below ``tmp_path``; returns its path."""

    def make(name: str, value) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def read():
    """``read("coco", path)``: the records of a reader and its notices as ``(reason, where)``."""

    def make(name: str, path: Path, split: str = "train", root: Path | None = None):
        records, notices = told_apart(find_reader(name)(path, split, root))
        return records, [(notice.reason, notice.where) for notice in notices]

    return make


@pytest.fixture(scope="session")
def note():
    """``note("line", [[0, 0], [5, 5]], "x")``: an annotation."""
    return lambda kind, points, desc, image=0: Annotation(Shape(kind, points), desc, image)
