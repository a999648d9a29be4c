"""The text a model learns to write about a photo, and what its own text says: both ways, in every format."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.geometry.grid import EmitNorm, from_grid, settle_on_grid
from qcvl.geometry.norm import canonical
from qcvl.geometry.order import Order, reading_order
from qcvl.geometry.shapes import KINDS, Shape
from qcvl.schema.objects import COUNT_KEYS, read_image_index, read_shape, write_shape
from qcvl.schema.records import Record
from qcvl.schema.salvage import AnswerStatus, Pairs, find_objects
from qcvl.schema.settings import settings
from qcvl.schema.types import Annotation

Size = tuple[int, int]
_DESC_KEYS = ("desc", "label")
_ANSWER_KEYS = {*KINDS, *COUNT_KEYS.values(), *_DESC_KEYS, "image"}


@settings
class AnswerFormat:
    """How a dense answer is written; parsing reads every form, so only the grid must be known to read it back.

    Attributes:
        emit_norm: The coordinate grid: 0..1000, 0..100, whole pixels (``none``), or the model family's own (``auto``).
        order: Objects are sorted by (y, x) of their reference point or of their centre.
        key_order: Geometry or description first within an object.
        step: Coordinates are rounded to multiples of this many grid cells: 10 of 1000 cells suit a photo of some 100
            pixels, where finer digits would be noise to learn.
        points: Coordinates flat ``[x1, y1, …]`` or as pairs ``[[x1, y1], …]``.
        form: ``{"object_1": {…, "desc": …}, …}`` or the cookbooks' list ``[{…, "label": …}, …]``.
    """

    emit_norm: EmitNorm | Literal["auto"]
    step: Annotated[int, Field(ge=1)]
    order: Order
    key_order: Literal["geometry_first", "desc_first"]
    points: Literal["flat", "pairs"]
    form: Literal["objects", "list"]

    def __post_init__(self) -> None:
        cells = {"norm1000": 1000, "norm100": 100}.get(self.emit_norm, 1)  # auto may become pixels, which stay whole
        if cells % self.step:
            raise ConfigError(
                f"answer.step: {self.step} does not divide the grid of emit_norm={self.emit_norm} ({cells} cells); "
                "use a divisor, such as 1 or 10"
            )

    def resolved(self, family_norm: EmitNorm) -> "AnswerFormat":
        """This format with ``emit_norm=auto`` replaced by the grid of the model's family."""
        return replace(self, emit_norm=family_norm) if self.emit_norm == "auto" else self

    @property
    def grid(self) -> EmitNorm:
        """The coordinate grid, which must be known by now."""
        if self.emit_norm == "auto":
            raise ConfigError("answer.emit_norm=auto is not resolved; call AnswerFormat.resolved(family_norm) first")
        return self.emit_norm


DEFAULT_FORMAT = AnswerFormat(
    emit_norm="norm1000", step=1, order="reference", key_order="geometry_first", points="flat", form="objects"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model's text says: annotations in pixels, in the order of the text, and how well the text obeyed.

    ``dropped`` counts objects that were written but cannot be used, such as a line of seven numbers; ``places[k]`` is
    the number, from 0, of ``annotations[k]`` among all objects with a geometry that the text lists.
    """

    status: AnswerStatus
    annotations: tuple[Annotation, ...] = ()
    dropped: int = 0
    places: tuple[int, ...] = ()


def sort_annotations(
    annotations: Sequence[Annotation], order: Order = "reference", *, keep_vertex_order: bool = False
) -> list[Annotation]:
    """Annotations as answers list them: image by image in reading order, each shape in canonical form.

    ``keep_vertex_order`` leaves the points of quads, polygons and lines as they are (text quads carry meaning in
    theirs); boxes always run from top left to bottom right.
    """
    shaped = [replace(item, shape=written_shape(item.shape, keep_vertex_order)) for item in annotations]
    return [shaped[index] for index in answer_order(shaped, order)]


def written_shape(shape: Shape, keep_vertex_order: bool) -> Shape:
    """The shape with its points in the order answers list them."""
    return shape if keep_vertex_order and shape.kind != "bbox_2d" else canonical(shape)


def answer_order(annotations: Sequence[Annotation], order: Order = "reference") -> list[int]:
    """Indices of annotations, whose points are in the order of answers, in the order answers list them."""
    ranks = {index: rank for rank, index in enumerate(reading_order([item.shape for item in annotations], order))}
    return sorted(range(len(annotations)), key=lambda index: (annotations[index].image, ranks[index]))


def render_answer(
    annotations: Sequence[Annotation],
    size_wh: Size | Sequence[Size],
    *,
    answer_format: AnswerFormat = DEFAULT_FORMAT,
    image_count: int = 1,
    keep_vertex_order: bool = False,
    by_image: bool = False,
) -> str:
    """The dense answer in one line: sorted, canonical, on the grid; ``{}`` (or ``[]``) when there is nothing.

    ``size_wh`` is ``(width, height)`` of the image, or one per image; with several images each object starts with
    ``"image": i`` and its coordinates are on the grid of that image. With ``by_image``, as photos of several records
    are spoken of, each image has an answer of its own instead: ``{"image_1": {"object_1": …}, "image_2": {}}``.
    """
    sizes = _sizes(size_wh, image_count)
    ordered = sort_annotations(annotations, answer_format.order, keep_vertex_order=keep_vertex_order)
    objects = [_object(annotation, sizes, answer_format) for annotation in ordered]
    if not by_image:
        named = [({"image": note.image} if len(sizes) > 1 else {}) for note in ordered]
        whole = [{**image, **item} for image, item in zip(named, objects, strict=True)]
        return json.dumps(_listed(whole, answer_format), ensure_ascii=False)
    images: list[list[dict[str, Any]]] = [[] for _ in sizes]
    for note, item in zip(ordered, objects, strict=True):
        images[note.image].append(item)
    keyed = {f"image_{number}": _listed(items, answer_format) for number, items in enumerate(images, 1)}
    return json.dumps(keyed, ensure_ascii=False)


def parse_answer(
    text: str,
    size_wh: Size | Sequence[Size],
    *,
    answer_format: AnswerFormat = DEFAULT_FORMAT,
    image_count: int = 1,
) -> Answer:
    """The annotations in a model's text, in the order it wrote them, in pixels of ``size_wh``; it never raises.

    Both forms, by image or not, both point styles and both description keys are read. Objects with a bad geometry are
    dropped and make the status ``repaired``, as do missing descriptions (kept as ``""``), foreign keys, fences, and
    keys of other images than the given ones. A truncated text keeps its complete objects only. Coordinates outside the
    frame stay as written: they are measured, not hidden.
    """
    sizes = _sizes(size_wh, image_count)
    found = find_objects(text)
    annotations, places, dropped, exact = [], [], found.dropped, found.named in (0, len(sizes))
    for place, pairs in enumerate(found.objects):
        try:
            image = found.images[place] if found.images else None
            annotation, as_agreed = _annotation(pairs, sizes, answer_format.grid, image)
        except RecordError:
            dropped += 1
            continue
        annotations.append(annotation)
        places.append(place)
        exact = exact and as_agreed
    faulty = found.status == "strict" and (dropped > 0 or not exact)
    return Answer("repaired" if faulty else found.status, tuple(annotations), dropped, tuple(places))


def render_summary(record: Record) -> str:
    """The record's summary exactly.

    Raises:
        RecordError: the record has none.
    """
    if record.summary is None:
        message = "is missing; summary sampling needs one in every record (or use data.sampling=dense)"
        raise RecordError(message, path=record.path, line=record.line, field="summary")
    return record.summary


def parse_summary(text: str) -> str:
    """The summary a model wrote: its text without surrounding white space."""
    return text.strip()


def render_summaries(summaries: Sequence[str]) -> str:
    """The summaries of several photos as one answer: ``{"image_1": "…", "image_2": "…"}``, each exactly."""
    return json.dumps({f"image_{number}": text for number, text in enumerate(summaries, 1)}, ensure_ascii=False)


def parse_summaries(text: str, image_count: int) -> tuple[str | None, ...]:
    """The summary that an answer keyed by image gives each of ``image_count`` photos; None for those it has none of."""
    try:
        found = json.loads(parse_summary(text))
    except (ValueError, RecursionError):
        found = None
    given = found if isinstance(found, dict) else {}
    texts = [given.get(f"image_{number}") for number in range(1, image_count + 1)]
    return tuple(value if isinstance(value, str) else None for value in texts)


def _sizes(size_wh: Size | Sequence[Size], image_count: int) -> list[Size]:
    """``(width, height)`` of every image."""
    if isinstance(size_wh[0], Real):
        return [cast(Size, size_wh)] * image_count
    return list(cast(Sequence[Size], size_wh))


def _object(annotation: Annotation, sizes: Sequence[Size], answer_format: AnswerFormat) -> dict[str, Any]:
    if annotation.image >= len(sizes):
        raise DataError(f"an annotation lies in image {annotation.image} but {len(sizes)} image sizes are given")
    points, _ = settle_on_grid(annotation.shape, sizes[annotation.image], answer_format.grid, answer_format.step)
    geometry = write_shape(annotation.shape.kind, points.tolist(), nested=answer_format.points == "pairs")
    desc = {"label" if answer_format.form == "list" else "desc": annotation.desc}
    return {**desc, **geometry} if answer_format.key_order == "desc_first" else {**geometry, **desc}


def _listed(objects: Sequence[dict[str, Any]], answer_format: AnswerFormat) -> Sequence[dict[str, Any]] | dict:
    """Objects as one answer lists them: numbered from 1, or as they are."""
    numbered = {f"object_{number}": item for number, item in enumerate(objects, 1)}
    return objects if answer_format.form == "list" else numbered


def _annotation(pairs: Pairs, sizes: Sequence[Size], grid: EmitNorm, image: int | None) -> tuple[Annotation, bool]:
    """One object of an answer and whether it is written as agreed; ``image`` where its place in the answer says it."""
    raw = dict(pairs)
    if len(raw) != len(pairs):
        raise RecordError("gives a key twice; expected each key once")
    shape = read_shape(raw, "object")
    is_keyed = image is not None
    image = read_image_index({"image": image} if is_keyed else raw, "object", len(sizes))
    descs = [raw[key] for key in _DESC_KEYS if key in raw]
    desc = descs[0] if descs and isinstance(descs[0], str) else ""
    as_agreed = len(descs) == 1 and bool(desc) and raw.keys() <= _ANSWER_KEYS - ({"image"} if is_keyed else set())
    return Annotation(Shape(shape.kind, from_grid(shape.points, sizes[image], grid)), desc, image), as_agreed
