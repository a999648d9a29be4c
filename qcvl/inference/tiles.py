"""A predictor that answers about large photos window by window and lets the windows vote."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from qcvl.data.written import Size, written_sizes
from qcvl.errors import DataError
from qcvl.geometry.affine import transform_shape
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.norm import canonical
from qcvl.inference.confidence import NOTHING
from qcvl.inference.evaluator import read_answer
from qcvl.inference.predictor import Predictor, Reply, Request, ScoreSource
from qcvl.inference.settings import Tiles
from qcvl.inference.votes import Seen, merge
from qcvl.inference.windows import Look, looks
from qcvl.schema.answer import AnswerFormat, answer_order, render_answer
from qcvl.schema.types import Annotation


def with_tiles(predictor: Predictor, tiles: Tiles | None, answer_format: AnswerFormat) -> Predictor:
    """The predictor itself without ``tiles``, else one that asks it window by window."""
    return predictor if tiles is None else TilePredictor(predictor, tiles, answer_format)


@dataclass(frozen=True, slots=True)
class _Photo:
    """One request: the size all its photos have, and its looks (none: it is asked as it is)."""

    request: Request
    size: Size
    looks: list[Look]


class TilePredictor:
    """Answers as the predictor it wraps would about whole photos, had it good eyes.

    The windows of all requests are asked in one call, so that the wrapped predictor's batches are full; they are views
    of the photos' own pixels and take no memory. Photos of one request are aligned and cut at the same windows. Only
    dense questions are cut up: a summary is about the whole photo and is asked as it is.

    The reply's text lists the merged objects on the answer format's grid over the whole photo; its scores are their
    confidences, made of the wrapped predictor's where it gives any. ``max_new_tokens`` holds for each window.
    """

    def __init__(self, predictor: Predictor, tiles: Tiles, answer_format: AnswerFormat) -> None:
        self.predictor, self.tiles, self.answer_format = predictor, tiles, answer_format

    def seen_size(self, size_wh: Size) -> Size:
        """The photo's own ``(width, height)``: what the windows say is put together in pixels of the photo."""
        return size_wh

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply a request, in order.

        Raises:
            DataError: when the photos of a request differ in size.
        """
        photos = [self._photo(request) for request in requests]
        asked = [question for photo in photos for question in self._questions(photo)]
        replies = iter(self.predictor.answer(asked))
        return [self._merged(photo, list(islice(replies, max(len(photo.looks), 1)))) for photo in photos]

    def _photo(self, request: Request) -> _Photo:
        sizes = [(image.shape[1], image.shape[0]) for image in request.images]
        if request.task != "dense":
            return _Photo(request, sizes[0], [])
        if len(set(sizes)) > 1:
            found = ", ".join(f"{width}x{height}" for width, height in sizes)
            raise DataError(
                f"the photos of one record measure {found} pixels; tiles cut aligned photos at the same "
                "places, so they must be of one size: resize them, or answer without tiles (tiles=null)"
            )
        tiles = self.tiles
        return _Photo(request, sizes[0], looks(*sizes[0], tiles.size, tiles.overlap, tiles.views))

    def _questions(self, photo: _Photo) -> list[Request]:
        request = photo.request
        if not photo.looks:
            return [request]
        return [replace(request, images=look.pixels(request.images, self.tiles.size)) for look in photo.looks]

    def _merged(self, photo: _Photo, replies: Sequence[Reply]) -> Reply:
        """The reply about a whole photo from those about its windows."""
        if not photo.looks:
            return replies[0]
        seen = [item for number in range(len(replies)) for item in self._seen(photo, number, replies[number])]
        corners = [look.corner for look in photo.looks]
        notes, scores = merge(seen, corners, photo.size, self.tiles)
        order = answer_order(notes, self.answer_format.order)
        images = len(photo.request.images)
        fine = replace(self.answer_format, step=1)  # a step that suits a window's few pixels is coarse over the photo
        text = render_answer(notes, [photo.size] * images, answer_format=fine, image_count=images)
        sources = {reply.score_source for reply in replies if reply.scores is not None}
        source: ScoreSource = "token_probability" if "token_probability" in sources else "votes"
        return Reply(
            text,
            sum(reply.tokens for reply in replies),
            all(reply.finished for reply in replies),
            tuple(scores[place] for place in order),
            source,
        )

    def _seen(self, photo: _Photo, number: int, reply: Reply) -> list[Seen]:
        """The objects of one window's answer in pixels of the photo, clipped to it."""
        if reply.text in NOTHING:
            return []
        side, images = self.tiles.size, len(photo.request.images)
        sizes = [(side, side)] * images
        text_sizes = written_sizes(sizes, [self.predictor.seen_size((side, side))] * images, self.answer_format)
        answer = read_answer(reply.text, "dense", sizes, text_sizes, self.answer_format)
        matrix = photo.looks[number].matrix
        found = []
        for note, place in zip(answer.annotations, answer.places, strict=True):
            score = 1.0 if reply.scores is None else reply.scores[place]
            for shape in clip_shape(transform_shape(note.shape, matrix), *photo.size):
                found.append(Seen(Annotation(canonical(shape), note.desc, note.image), score, number))
        return found
