"""Label Studio's JSON export (its JSON-MIN lacks what is needed).

Coordinates are percent of the photo's width and height, 0 to 100 from edge to edge; times ``original_width`` and
``original_height`` (the photo's header where they are missing) they are a record's pixels. A rectangle is turned by
``rotation`` degrees clockwise about its top left corner: a quad then, else a box; polygons are quads or polygons. A
description is the region's labels, then its own choices and text; choices and text about the whole photo are the
summary, further keys of the task's data its metadata. The first annotation that was not cancelled counts.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from qcvl.data.entries import Entry
from qcvl.data.reading import (
    Item,
    Notice,
    Photos,
    Size,
    Split,
    annotation,
    each,
    one_line,
    photo_record,
    photo_size,
    polygon,
)
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

_WORDS = ("choices", "textarea", "taxonomy", "rating", "number")


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The tasks of an export in its order; photos are looked for below ``root``, else below the file's folder."""
    photos = Photos(root or path.parent)
    yield from each(enumerate(Entry.of_json(path), 1), lambda numbered: _task(*numbered, photos))


def _task(number: int, task: Entry, photos: Photos) -> Iterator[Record | Notice]:
    name = _photo_entry(task["data"])
    photo = name.value if name.text().startswith("data:") else photos.find(_local_name(name), name)
    done = [entry for entry in task["annotations"] if not entry.marked("was_cancelled")]
    for other in done[1:]:
        yield Notice("annotation of another annotator", other.where)
    if task.marked("predictions"):
        yield Notice("predictions of a model", task.where)
    regions = _regions(done[0]["result"]) if done else {}
    size = _size(regions)
    words, found = [], []
    for region in regions.values():
        if any(_shape_name(result) for result in region):
            found += list(_object(region, size or photo_size(photo, region[0])))
        else:
            words += list(_words(region))
            found += [Notice(f"result of type {kind}", entry.where) for entry, kind in _unread(region)]
    summary = one_line(", ".join(words)) if words else None
    metadata = {key: value for key, value in task["data"].mapping().items() if key != name.key}
    yield from photo_record(
        photo, found, task, size=size, number=number, summary=summary, metadata=metadata, annotated=bool(done)
    )


def _photo_entry(data: Entry) -> Entry:
    """The value of ``data`` that names the photo: ``image``, or the only text there is."""
    texts = [key for key, value in data.mapping().items() if isinstance(value, str)]
    if "image" in texts:
        return data["image"]
    if len(texts) != 1:
        raise data.error(f"has the texts {', '.join(texts) or 'none'}; expected image, the name of the photo")
    return data[texts[0]]


def _local_name(url: Entry) -> str:
    """The path within a URL of uploads, local files or a store: ``/data/local-files/?d=a/b.jpg`` is ``a/b.jpg``."""
    try:
        parts = urlsplit(url.text())
    except ValueError as error:
        raise url.error(f"is {url.value[:60]!r}, no path and no URL ({error})") from None
    served = parse_qs(parts.query).get("d")
    return served[0] if served else unquote(parts.path)


def _regions(results: Entry) -> dict[str, list[Entry]]:
    """Results by region: those of one id belong to one shape; a result without id stands alone."""
    regions: dict[str, list[Entry]] = defaultdict(list)
    for number, result in enumerate(results):
        region = result.get("id")
        regions[f"#{number}" if region is None else str(region.value)].append(result)
    return regions


def _size(regions: dict[str, list[Entry]]) -> Size | None:
    for result in (result for region in regions.values() for result in region):
        width, height = result.get("original_width"), result.get("original_height")
        if width is not None and height is not None:
            return width.whole(), height.whole()
    return None


def _shape_name(result: Entry) -> str | None:
    """``rectangle`` or ``polygon`` for a result with such a value."""
    value = result.get("value")
    if value is None:  # a relation between regions
        return None
    if value.mapping().keys() >= {"x", "y", "width", "height"}:
        return "rectangle"
    return "polygon" if "points" in value.mapping() else None


def _object(region: list[Entry], size: Size) -> Iterator[Annotation | Notice]:
    shaped = next(result for result in region if _shape_name(result))
    if shaped.marked("image_rotation"):
        yield Notice("shape on a photo that was turned in Label Studio", shaped.where)
        return
    labels = _labels(region)
    if not labels:
        yield Notice("shape without a label", shaped.where)
        return
    desc = one_line(", ".join([*labels, *_words(region)]))
    value = shaped["value"]
    if _shape_name(shaped) == "polygon":
        yield polygon(_pixels(value["points"].pairs(), size), desc, shaped, size)
        return
    x, y, width, height = (value[key].number() for key in ("x", "y", "width", "height"))
    turn = value.get("rotation")
    if turn is None or turn.number() % 360 == 0:
        yield annotation("bbox_2d", _pixels([[x, y], [x + width, y + height]], size), desc, shaped, size)
        return
    ((x, y), (x2, y2)), angle = _pixels([[x, y], [x + width, y + height]], size), math.radians(turn.number())
    cos, sin, width, height = math.cos(angle), math.sin(angle), x2 - x, y2 - y
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    yield annotation("quad", [[x + cos * a - sin * b, y + sin * a + cos * b] for a, b in corners], desc, shaped, size)


def _pixels(pairs: Iterable[list[float]], size: Size) -> list[list[float]]:
    return [[round(share * side / 100, 9) for share, side in zip(pair, size, strict=True)] for pair in pairs]


def _labels(region: list[Entry]) -> list[str]:
    """The labels of a region, each once: those under ``rectanglelabels``, ``polygonlabels`` or ``labels``."""
    found: dict[str, None] = {}
    for result in region:
        for key, value in result["value"].mapping().items():
            if key.endswith("labels") and isinstance(value, list):
                found |= dict.fromkeys(label.text() for label in result["value"][key])
    return list(found)


def _words(region: list[Entry]) -> Iterator[str]:
    """What was chosen or typed about a region or a photo."""
    for result in region:
        kind = result["type"].text()
        if kind in _WORDS:
            value = result["value"].get("text" if kind == "textarea" else kind)
            given = value.value if value is not None else []
            for part in given if isinstance(given, list) else [given]:
                yield "/".join(map(str, part)) if isinstance(part, list) else str(part)


def _unread(region: list[Entry]) -> Iterator[tuple[Entry, str]]:
    for result in region:
        kind = result["type"].text()
        if kind not in _WORDS:
            yield result, kind
