"""Text in photos as quads: ICDAR's ``gt_*.txt``, MMOCR's ``textdet_*.json`` and WildReceipt's lists.

Corners are pixels from the photo's top left edge in the order in which the text is read, and records keep that order
(``data.keep_vertex_order`` keeps it in answers too). The description is the text; MMOCR's detection
files have none and get the category. What is marked not to be read (``###``, ``ignore``) is left out and said.

    gt_img_1.txt       x1,y1,x2,y2,x3,y3,x4,y4,text           for img_1.jpg, all of a folder
    textdet_test.json  {"data_list": [{"img_path": …, "instances": [{"polygon": […], "ignore": false}]}]}
    train.txt          {"file_name": …, "annotations": [{"box": […], "text": …, "label": 1}]} a line, class_list.txt
"""

from collections.abc import Iterator
from pathlib import Path

from qcvl.data.entries import Entry, read_json_lines, read_lines
from qcvl.data.reading import (
    Item,
    Notice,
    Photos,
    Size,
    Split,
    annotation,
    each,
    photo_record,
    photos_by_stem,
    polygon,
    with_attributes,
)
from qcvl.errors import DataError
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

NOT_READ = "###"


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The photos of a folder of ``gt_*.txt`` files, of one of them, or of a list of the other two kinds."""
    if path.is_dir():
        files = sorted(path.glob("gt_*.txt"))
        if not files:
            raise DataError(f"{path} has no gt_*.txt file; give such a folder, textdet_*.json or WildReceipt's list")
        yield from _text_files(files, root or path)
    elif path.suffix == ".json":
        yield from _mmocr(Entry.of_json(path), Photos(root or path.parent))
    elif next(read_lines(path), Entry("", path)).value.startswith("{"):
        yield from _wildreceipt(path, Photos(root or path.parent))
    else:
        yield from _text_files([path], root or path.parent)


def _text_files(files: list[Path], folder: Path) -> Iterator[Item]:
    photos = photos_by_stem(folder)

    def photo(file: Path) -> Iterator[Record | Notice]:
        top, stem = Entry(None, file), file.stem.removeprefix("gt_")
        if stem not in photos:
            raise top.error(f"goes with a photo {stem}.*, which is not in {folder}; root=FOLDER names another folder")
        yield from photo_record(photos[stem], [_text_line(line) for line in read_lines(file)], top)

    yield from each(files, photo)


def _text_line(line: Entry) -> Annotation | Notice:
    """The quad of ``x1,y1,…,x4,y4,text``, where the text may hold commas."""
    parts = line.value.split(",", 8)
    fields = Entry(parts, line.path, line.line)
    if len(parts) < 9:
        raise line.error(f"is {line.value[:60]!r}; expected x1,y1,x2,y2,x3,y3,x4,y4,text")
    numbers = [fields[index].number() for index in range(8)]
    if parts[8].strip() == NOT_READ:
        return Notice(f"text marked {NOT_READ}", line.where)
    return annotation("quad", list(zip(numbers[::2], numbers[1::2], strict=True)), fields[8].text(), line)


def _mmocr(top: Entry, photos: Photos) -> Iterator[Item]:
    names = {entry["id"].whole(least=0): entry["name"].text() for entry in top["metainfo"]["category"]}

    def photo(numbered: tuple[int, Entry]) -> Iterator[Record | Notice]:
        number, item = numbered
        size = (item["width"].whole(), item["height"].whole())
        file = photos.find(item["img_path"].text(), item["img_path"])
        found = [_mmocr_text(entry, names, size) for entry in item["instances"]]
        yield from photo_record(file, found, item, size=size, number=number)

    yield from each(enumerate(top["data_list"], 1), photo)


def _mmocr_text(entry: Entry, names: dict[int, str], size: Size) -> Annotation | Notice:
    points = entry["polygon"].pairs()
    if entry.marked("ignore"):
        return Notice("text marked ignore", entry.where)
    number = entry["bbox_label"].whole(least=0)
    if number not in names:
        raise entry["bbox_label"].error(
            f"is {number}; expected an id of metainfo.category: {', '.join(map(str, names))}"
        )
    text = entry.get("text")
    return polygon(points, text.text() if text is not None else names[number], entry, size)


def _wildreceipt(path: Path, photos: Photos) -> Iterator[Item]:
    names = _classes(path.parent / "class_list.txt")

    def photo(line: Entry) -> Iterator[Record | Notice]:
        size = (line["width"].whole(), line["height"].whole())
        file = photos.find(line["file_name"].text(), line["file_name"])
        yield from photo_record(
            file, [_receipt_text(entry, names, size) for entry in line["annotations"]], line, size=size
        )

    yield from each(read_json_lines(path), photo)


def _classes(file: Path) -> dict[int, str]:
    """Lines ``number name``."""
    fields = [line.fields() for line in read_lines(file)]
    return {line[0].whole(least=0): line[1].text() for line in fields}


def _receipt_text(entry: Entry, names: dict[int, str], size: Size) -> Annotation | Notice:
    """A quad described by its class and its text: ``Tel_value/text:703-777-5833``."""
    number, text = entry["label"].whole(least=0), entry.get("text")
    if number not in names:
        raise entry["label"].error(f"is {number}; expected a number of class_list.txt")
    return polygon(
        entry["box"].pairs(),
        with_attributes(names[number], {"text": "" if text is None else str(text.value)}),
        entry,
        size,
    )
