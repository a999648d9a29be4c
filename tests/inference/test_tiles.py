"""Photos answered window by window: a second implementation reads each window's pixels, the merged answer is exact."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qcvl.data.chat import ask, encode_question
from qcvl.data.media import patchify
from qcvl.data.written import rescale
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.inference.evaluator import read_answer
from qcvl.inference.generate import Sampler, generate
from qcvl.inference.predictor import Reply, Request
from qcvl.inference.settings import Tiles
from qcvl.inference.tiles import TilePredictor, with_tiles
from qcvl.models.forward import normalised
from qcvl.models.positions import rope_positions
from qcvl.schema.answer import DEFAULT_FORMAT, render_answer
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import Annotation

PIXELS = replace(DEFAULT_FORMAT, emit_norm="none")
COLOURS = {"plate": (250, 0, 0), "screw": (0, 250, 0), "label": (0, 0, 250)}
PROMPT = TaskPrompt(system="", user="find")


def tiles(**changes) -> Tiles:
    return Tiles(**{"size": 64, "overlap": 20, "views": 1, "border_weight": 0.7, "same_iou": 0.3} | changes)


class Reader:
    """Answers about coloured rectangles from the pixels it is shown; it sees photos ``zoom`` times as large."""

    def __init__(self, answer_format=PIXELS, zoom: int = 1, **reply) -> None:
        self.format, self.zoom, self.reply, self.asked = answer_format, zoom, reply, []

    def seen_size(self, size_wh):
        return size_wh[0] * self.zoom, size_wh[1] * self.zoom

    def answer(self, requests):
        self.asked.append(requests)
        return [self.read(request) for request in requests]

    def read(self, request: Request) -> Reply:
        sizes = [(image.shape[1], image.shape[0]) for image in request.images]
        notes = [note for number, image in enumerate(request.images) for note in self.rectangles(image, number)]
        seen = [self.seen_size(size) for size in sizes] if self.format.grid == "none" else sizes
        text = render_answer(rescale(notes, sizes, seen), seen, answer_format=self.format)
        return Reply(text, 3, **{"finished": True} | self.reply)

    def rectangles(self, image: np.ndarray, number: int) -> list[Annotation]:
        found = []
        for desc, colour in COLOURS.items():
            mask = (image == colour).all(axis=-1).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
            for x, y, width, height, _ in stats[1:].tolist():
                found.append(Annotation(Shape("bbox_2d", [x, y, x + width, y + height]), desc, number))
        return found


def photo_of(size, *boxes) -> np.ndarray:
    """A grey photo ``(width, height)`` with coloured rectangles ``(desc, x1, y1, x2, y2)``."""
    image = np.full((size[1], size[0], 3), 90, dtype=np.uint8)
    for desc, x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = COLOURS[desc]
    return image


def objects(reply: Reply, image: np.ndarray, answer_format=PIXELS, photos: int = 1):
    sizes = [(image.shape[1], image.shape[0])] * photos
    answer = read_answer(reply.text, "dense", sizes, sizes, answer_format)
    assert answer.status == "strict" and answer.places == tuple(range(len(reply.scores)))
    return [(note.desc, *note.shape.points.ravel().tolist()) for note in answer.annotations]


# Windows of 64 px with an overlap of 20 in a 240 x 152 photo start at x = 0, 44, 88, 132, 176 and y = 0, 44, 88.
PLACES = {
    "inside one window": ("plate", 5, 6, 30, 31),
    "in the corners": ("screw", 0, 0, 7, 9),
    "in the last corner": ("screw", 230, 140, 240, 152),
    "smaller than the overlap, on a border": ("label", 57, 20, 72, 33),
    "on four windows": ("plate", 58, 58, 70, 71),
    "ends at a border": ("plate", 48, 10, 64, 30),
    "starts at a border": ("plate", 108, 50, 128, 70),
    "larger than the overlap, whole in one window": ("label", 50, 100, 100, 120),
    "larger than the overlap, whole in none": ("plate", 30, 20, 74, 40),
    "nearly a window wide and high": ("screw", 91, 47, 149, 105),
    "one pixel": ("label", 120, 90, 121, 91),
}


@pytest.mark.parametrize("views", range(1, 9))
@pytest.mark.parametrize("place", PLACES)
def test_a_rectangle_is_found_exactly_where_it_is(place, views):
    image = photo_of((240, 152), PLACES[place])
    (reply,) = TilePredictor(Reader(), tiles(views=views), PIXELS).answer([Request((image,), PROMPT)])
    assert objects(reply, image) == [PLACES[place]]
    assert reply.scores == pytest.approx((1.0,)) and reply.score_source == "votes"


@pytest.mark.parametrize("views", [1, 4, 8])
def test_all_rectangles_of_a_photo_are_found_once_in_reading_order_with_their_scores(views):
    boxes = [PLACES[name] for name in PLACES if "whole in none" not in name and "window" not in name]
    image = photo_of((240, 152), *boxes)
    (reply,) = TilePredictor(Reader(), tiles(views=views), PIXELS).answer([Request((image,), PROMPT)])
    found = objects(reply, image)
    assert sorted(found) == sorted(boxes)
    assert [(y, x) for _, x, y, *_ in found] == sorted((y, x) for _, x, y, *_ in found)
    assert reply.scores == pytest.approx((1.0,) * len(boxes))


@pytest.mark.parametrize("form", ["objects", "list"])
def test_answers_are_read_and_written_in_the_answer_format_over_what_is_seen(form):
    box = ("plate", 50, 12, 90, 40)
    image = photo_of((200, 100), box)
    for grid in ("none", "norm1000"):
        own = replace(DEFAULT_FORMAT, emit_norm=grid, form=form)
        predictor = TilePredictor(Reader(own, zoom=2), tiles(), own)  # pixels of a window twice as large
        (reply,) = predictor.answer([Request((image,), PROMPT)])
        assert predictor.seen_size((200, 100)) == (200, 100)
        ((desc, *numbers),) = objects(reply, image, own)
        assert desc == "plate" and numbers == pytest.approx(box[1:], abs=0.21)  # half a thousandth of 200 px, twice
        assert grid != "none" or numbers == list(box[1:])


@pytest.mark.parametrize("size", [(40, 30), (64, 64), (150, 30), (30, 150)])
def test_a_photo_smaller_than_a_window_is_padded_and_its_objects_stay_in_it(size):
    box = ("label", size[0] - 9, size[1] - 7, *size)
    image = photo_of(size, box)
    reader = Reader()
    (reply,) = TilePredictor(reader, tiles(views=8), PIXELS).answer([Request((image,), PROMPT)])
    assert objects(reply, image) == [box] and reply.scores == (1.0,)
    assert {part.images[0].shape for part in reader.asked[0]} == {(64, 64, 3)}


def test_what_is_said_of_the_padding_is_cut_off_or_gone():
    class Raving(Reader):
        def rectangles(self, image, number):
            boxes = [[30, 20, 50, 40], [45, 45, 60, 60]]
            return [Annotation(Shape("bbox_2d", box), "plate", number) for box in boxes]

    image = photo_of((40, 30))
    (reply,) = TilePredictor(Raving(), tiles(), PIXELS).answer([Request((image,), PROMPT)])
    assert objects(reply, image) == [("plate", 30, 20, 40, 30)]


def test_the_windows_of_all_requests_are_asked_in_one_call_with_their_prompt_and_limit():
    reader = Reader()
    images = [photo_of((240, 152), PLACES["one pixel"]), photo_of((64, 64)), photo_of((100, 64))]
    other = TaskPrompt(system="s", user="u")
    requests = [Request((image,), prompt, 7) for image, prompt in zip(images, (PROMPT, other, PROMPT), strict=True)]
    replies = TilePredictor(reader, tiles(views=2), PIXELS).answer(requests)
    (asked,) = reader.asked
    assert len(asked) == 2 * (5 * 3 + 1 + 2) and {part.max_new_tokens for part in asked} == {7}
    assert [part.prompt for part in asked] == [PROMPT] * 30 + [other] * 2 + [PROMPT] * 4
    assert [reply.tokens for reply in replies] == [3 * 30, 3 * 2, 3 * 4]
    assert [reply.text for reply in replies[1:]] == ["{}", "{}"] and replies[1].scores == ()
    assert TilePredictor(reader, tiles(), PIXELS).answer([]) == []


def test_an_aligned_set_is_cut_at_the_same_windows_and_each_photo_keeps_its_objects():
    boxes = ("plate", 58, 58, 70, 71), ("screw", 30, 20, 74, 40)
    pair = photo_of((240, 152), boxes[0]), photo_of((240, 152), boxes[1])
    (reply,) = TilePredictor(Reader(), tiles(views=3), PIXELS).answer([Request(pair, PROMPT)])
    sizes = [(240, 152)] * 2
    notes = read_answer(reply.text, "dense", sizes, sizes, PIXELS).annotations
    assert [(note.desc, *note.shape.points.ravel().tolist()) for note in notes] == list(boxes)
    assert [note.image for note in notes] == [0, 1]


def test_photos_of_one_record_that_differ_in_size_are_refused_by_their_sizes():
    pair = photo_of((240, 152)), photo_of((240, 150))
    with pytest.raises(DataError, match="240x152, 240x150 pixels.*of one size"):
        TilePredictor(Reader(), tiles(), PIXELS).answer([Request(pair, PROMPT)])


def test_a_summary_is_asked_about_the_whole_photo():
    reader = Reader()
    image, other = photo_of((240, 152)), photo_of((100, 100))
    requests = [Request((image, other), PROMPT, task="summary"), Request((image,), PROMPT)]
    whole, _ = TilePredictor(reader, tiles(), PIXELS).answer(requests)
    assert reader.asked[0][0] is requests[0] and len(reader.asked[0]) == 1 + 15
    assert whole == reader.read(requests[0])


def test_an_answer_is_finished_when_all_its_windows_are():
    image = photo_of((100, 64))
    (reply,) = TilePredictor(Reader(finished=False), tiles(), PIXELS).answer([Request((image,), PROMPT)])
    assert not reply.finished


def test_scores_of_the_wrapped_predictor_become_confidences():
    class Sure(Reader):
        def read(self, request):
            reply = super().read(request)
            count = reply.text.count("bbox_2d")
            return replace(reply, scores=(0.5,) * count, score_source="token_probability")

    boxes = ("plate", 5, 6, 30, 31), ("label", 47, 10, 60, 30)  # the second is whole in two windows
    image = photo_of((108, 64), *boxes)
    (reply,) = TilePredictor(Sure(), tiles(), PIXELS).answer([Request((image,), PROMPT)])
    assert reply.scores == (0.5, 0.5) and reply.score_source == "token_probability"


def test_without_tiles_the_predictor_itself_answers():
    reader = Reader()
    assert with_tiles(reader, None, PIXELS) is reader
    assert with_tiles(reader, tiles(), PIXELS).predictor is reader


@pytest.mark.parametrize("wrong", [{"overlap": 64}, {"views": 9}, {"views": 0}, {"size": 0}, {"border_weight": 1.1}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError):
        tiles(**wrong)


def test_more_overlap_means_more_windows():
    image = photo_of((240, 152))
    counts = []
    for overlap in (0, 20, 40):
        reader = Reader()
        TilePredictor(reader, tiles(overlap=overlap), PIXELS).answer([Request((image,), PROMPT)])
        counts.append(len(reader.asked[0]))
    assert all(less < more for less, more in pairwise(counts))


def test_token_probabilities_are_those_of_a_forward_pass_over_the_whole_answer(make_predictor, model, processing):
    image = np.random.default_rng(3).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    requests = [Request((image,), PROMPT), Request((image[:64, :64],), PROMPT)]
    with torch.inference_mode():
        parts = make_predictor()._parts(requests, 1)
        sampler = Sampler(1.5, 0.9, torch.device("cpu"))  # neither temperature nor nucleus shows in a probability
        written, _ = generate(model, parts, [10, 10], -1, sampler)
        patches, grids = patchify(requests[0].images, processing)
        question = encode_question(processing, ask(PROMPT, 1), grids)
        ids = torch.from_numpy(np.concatenate([question, written.ids]))[None]
        types = torch.zeros_like(ids)
        types[0, : len(question)] = torch.from_numpy((question == processing.image_pad).astype(np.int64))
        start = rope_positions(question, grids, processing)
        rest = start[:, -1:] + np.arange(1, 11)
        out = model(
            input_ids=ids,
            position_ids=torch.from_numpy(np.concatenate([start, rest], axis=1))[:, None],
            mm_token_type_ids=types,
            pixel_values=normalised(torch.from_numpy(patches), processing.family),
            image_grid_thw=torch.from_numpy(grids),
        )
    shares = out.logits[0, len(question) - 1 : -1].softmax(-1)
    expected = shares[torch.arange(10), torch.tensor(written.ids)]
    torch.testing.assert_close(torch.tensor(written.probabilities), expected, rtol=0, atol=1e-5)


def test_the_embedded_model_answers_a_large_photo_by_windows():
    from qcvl import config
    from qcvl.data.scenes.records import SceneRecords
    from qcvl.inference.hf import HFPredictor

    settings = config.build(config.load("infer", ["prompts=zh", "answer=objects", "input=none", "tiles=grid"]))
    assert settings.tiles == Tiles(size=128, overlap=42, views=1, border_weight=0.7, same_iou=0.3)
    model, processing = settings.model.load_model().eval(), settings.model.load_processing()
    answer_format = settings.answer.resolved("norm1000")
    whole = HFPredictor(model, processing, settings.generation)
    (image,) = SceneRecords(length=1, seed=0, domain="demo", language="zh")[0].images
    image = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
    request = Request((image,), settings.prompts.for_task("dense"), 200)
    (plain,), (tiled,) = (
        predictor.answer([request])
        for predictor in (whole, with_tiles(whole, replace(settings.tiles, border_weight=1.0), answer_format))
    )
    assert plain.scores and all(0 < score <= 1 for score in plain.scores)
    # One window is the whole photo: every object votes for itself alone.
    assert sorted(tiled.scores) == pytest.approx(sorted(plain.scores)) and tiled.tokens == plain.tokens
    large = np.concatenate([image, image], axis=1)
    (reply,) = with_tiles(whole, settings.tiles, answer_format).answer([replace(request, images=(large,))])
    assert len(reply.scores) >= len(plain.scores) and reply.score_source == "token_probability"
