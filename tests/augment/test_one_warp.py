"""One warp takes a moved photo to the size the model sees; one that did not move is left to the model's processor."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcvl.augment.actions import Move, Recolor, Reframe
from qcvl.augment.color import ColorJitter, Gamma
from qcvl.augment.warp import warp
from qcvl.geometry.affine import (
    flip_turn,
    flip_turn_matrix,
    pixel_center_matrix,
    rotation_matrix,
    scale_matrix,
    transform_shape,
    translation_matrix,
)
from qcvl.schema.types import Sample
from tests.augment.ops import compose, op, plain_crop

KEY = (0, 0, 0)
SHAPES = [("bbox_2d", [10, 8, 40, 30]), ("quad", [30, 5, 50, 10, 45, 30, 28, 25]), ("line", [0, 39, 60, 0])]
ROTATE = op("rotate", max_rotation_degrees=15.0)
JITTER = ColorJitter(p=1.0, brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(0.0, 0.0))


def halved(width, height):
    return width // 2, height // 2


def photo_like(width, height):
    """Coarse and fine structure, as in a photo, uint8 ``[height, width, 3]``."""
    random = np.random.default_rng(5)
    layers = [
        np.asarray(Image.fromarray(random.normal(size=(side, side)).astype(np.float32)).resize((width, height), 3))
        / side**0.5
        for side in (4, 16, 64, 300)
    ]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    grey = sum(layers) + 0.3 * ((x // 23 + y // 31) % 2) + 0.1 * random.normal(size=x.shape)  # hard edges and grain
    low, high = grey.min(), grey.max()
    picture = ((grey - low) / (high - low) * 255).astype(np.uint8)
    return np.stack([picture, np.flipud(picture), 255 - picture], axis=2)


def psnr(a, b, margin=4):
    inner = (slice(margin, -margin),) * 2
    error = np.mean((a[inner].astype(float) - b[inner].astype(float)) ** 2)
    return 10 * np.log10(255**2 / error)


def test_a_photo_that_moved_comes_in_the_size_the_model_sees(make_pipeline, make_sample):
    out = make_pipeline(rotate=ROTATE)(make_sample(size=(60, 40)), KEY, halved)
    assert out.size() == (30, 20)


@pytest.mark.parametrize("ops", [{}, {"jitter": JITTER}, {"rotate": op("rotate", p=0.0, max_rotation_degrees=9.0)}])
def test_a_photo_that_did_not_move_keeps_its_own_size_and_coordinates(make_pipeline, make_sample, ops):
    sample = make_sample(*SHAPES, size=(60, 40))
    out = make_pipeline(**ops)(sample, KEY, halved)
    assert out.size() == (60, 40) and out.annotations == sample.annotations
    assert ops.get("jitter") is not None or out.images[0] is sample.images[0]


def test_a_paste_alone_counts_as_a_move_and_the_copy_shrinks_with_its_photo(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [10, 8, 30, 20]), size=(120, 80))
    pipeline = make_pipeline(paste=op("copy_paste", blend_px=0.0))
    whole, small = pipeline(sample, KEY), pipeline(sample, KEY, halved)
    assert whole.telemetry["paste/applied"] == 1 and small.size() == (60, 40)
    means = whole.images[0].reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
    assert np.abs(small.images[0] - means).max() <= 1  # rounding
    for found, own in zip(small.annotations, whole.annotations, strict=True):
        np.testing.assert_allclose(found.shape.points, own.shape.points / 2)


def test_each_photo_of_a_sample_goes_its_own_way(make_pipeline, make_sample):
    sample = make_sample(SHAPES[0], size=(60, 40), photos=2, images=[1], descs=["left screw"])
    out = make_pipeline(hflip=op("hflip"))(sample, KEY, halved)
    assert [out.size(0), out.size(1)] == [(30, 20), (60, 40)]  # text with a direction is not mirrored


def test_a_size_beyond_the_photos_own_is_left_to_the_processor(make_pipeline, make_sample):
    sample = make_sample(size=(60, 40))
    larger = make_pipeline(rotate=ROTATE)(sample, KEY, lambda width, height: (2 * width, 2 * height))
    assert np.array_equal(larger.images[0], make_pipeline(rotate=ROTATE)(sample, KEY).images[0])


@pytest.mark.parametrize("size", [(30, 20), (33, 27)])
def test_shapes_follow_the_pixels_into_the_new_size(make_pipeline, make_sample, size):
    crop = plain_crop(min_scale=0.7, max_scale=0.9, min_coverage=0.3, min_objects=1)
    pipeline = make_pipeline(rotate=ROTATE, crop=crop, pad=op("pad_to_multiple", multiple=32))
    sample = make_sample(*SHAPES, size=(60, 40))
    for index in range(20):
        whole, small = pipeline(sample, (0, 0, index)), pipeline(sample, (0, 0, index), lambda *_: size)
        assert small.size() == size
        matrix = scale_matrix(size[0] / whole.size()[0], size[1] / whole.size()[1])
        assert (small.kept_indices, small.telemetry) == (whole.kept_indices, whole.telemetry)
        assert small.coverages == pytest.approx(whole.coverages)
        for found, own in zip(small.annotations, whole.annotations, strict=True):
            assert found.shape.kind == own.shape.kind
            np.testing.assert_allclose(found.shape.points, transform_shape(own.shape, matrix).points, atol=1e-6)


@pytest.mark.parametrize("recolor", [JITTER, Gamma(p=1.0, gamma=(0.7, 0.8))])
def test_colours_are_painted_on_the_smaller_picture(make_pipeline, make_sample, recolor):
    sample = make_sample(size=(60, 40))
    plain = make_pipeline(rotate=ROTATE)(sample, KEY, halved).images[0]
    out = make_pipeline(rotate=ROTATE, colour=recolor)(sample, KEY, halved)
    painted = make_pipeline(none=op("rotate", p=0.0, max_rotation_degrees=0.0), colour=recolor)(
        Sample(images=(plain,), annotations=(), task="dense"), KEY
    )
    assert np.array_equal(out.images[0], painted.images[0]) and not np.array_equal(out.images[0], plain)


def test_what_looks_at_neighbouring_pixels_is_painted_at_the_photos_own_size(make_pipeline, make_sample):
    seen = []

    class Blur:
        def draw(self, view, rng):
            return Recolor(lambda image: seen.append(image.shape) or cv2.blur(image, (3, 3)))

    out = make_pipeline(rotate=ROTATE, blur=Blur(), jitter=JITTER)(make_sample(size=(60, 40)), KEY, halved)
    assert seen == [(40, 60, 3)] and out.size() == (60, 40)


# 1080p in the budgets of small and large models; a tenth for photos of many megapixels.
@pytest.mark.parametrize("scale", [0.9, 0.53, 0.4, 0.26, 0.1])
@pytest.mark.parametrize("degrees", [0.0, 9.0])
def test_one_warp_looks_like_a_bicubic_turn_and_a_bicubic_resize(scale, degrees):
    image = photo_like(800, 600)
    turn = translation_matrix(-80, -60) @ rotation_matrix(degrees, (400, 300))
    size = (round(640 * scale), round(480 * scale))
    matrix = scale_matrix(size[0] / 640, size[1] / 480) @ turn
    inverse = np.linalg.inv(turn)[:2].ravel().tolist()
    turned = Image.fromarray(image).transform((640, 480), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC)
    expected = np.asarray(turned.resize(size, Image.Resampling.BICUBIC))
    found = warp(image, matrix, size, (0.0, 0.0, *map(float, size)), 128)
    assert psnr(found, expected) > 38
    if scale < 0.5:  # far nearer than samples of single points
        centred = pixel_center_matrix(matrix)[:2]
        assert psnr(found, expected) > psnr(cv2.warpAffine(image, centred, size, flags=cv2.INTER_LINEAR), expected) + 8


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.3, 0.12])
def test_a_pattern_finer_than_a_pixel_becomes_its_mean(scale):
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    image = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    size = (round(400 * scale), round(300 * scale))
    matrix = scale_matrix(scale) @ rotation_matrix(20, (200, 150))
    out = warp(image, matrix, size, (0.0, 0.0, *map(float, size)), 128)
    middle = out[size[1] // 4 : -size[1] // 4, size[0] // 4 : -size[0] // 4].astype(float)
    limit = 40 if scale == 0.9 else 12  # a pixel just larger than a square of the pattern still shows some of it
    assert abs(middle.mean() - 127.5) < 2 and middle.std() < limit


def test_an_edge_that_the_whole_picture_reaches_is_not_mixed_with_the_fill():
    image = np.full((60, 80, 3), 255, dtype=np.uint8)
    for size in ((40, 30), (33, 21), (13, 9)):
        matrix = scale_matrix(size[0] / 80, size[1] / 60)
        assert (warp(image, matrix, size, (0.0, 0.0, *map(float, size)), 0) == 255).all()


def step_by_step(image, steps):
    """The pixels after each barrier on its own, by numpy: what waiting and joining must not change."""
    for kind, value in steps:
        if kind == "flip":
            image = flip_turn(image, value)
        elif kind == "crop":
            x, y, width, height = value
            image = image[y : y + height, x : x + width]
        else:
            grey = np.full((image.shape[0] + value[1], image.shape[1] + value[0], 3), 128, np.uint8)
            grey[: image.shape[0], : image.shape[1]] = image
            image = grey
    return image


class Scripted:
    """An op that does one given step."""

    def __init__(self, kind, value):
        self.kind, self.value = kind, value

    def draw(self, view, rng):
        if self.kind == "flip":
            return Move(flip_turn_matrix(self.value, view.width, view.height))
        if self.kind == "pad":
            width, height = view.width + self.value[0], view.height + self.value[1]
            return Reframe(window=(0.0, 0.0, width, height), width=width, height=height)
        x, y, width, height = self.value
        return Reframe(window=(x, y, x + width, y + height), width=width, height=height)


@st.composite
def chains(draw):
    """Up to six flips, crops and pads, each valid for the canvas it meets."""
    width, height, steps = 24, 18, []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["flip", "crop", "pad"]))
        if kind == "flip":
            steps.append((kind, draw(st.integers(1, 3))))
        elif kind == "crop":
            new = draw(st.integers(1, width)), draw(st.integers(1, height))
            place = draw(st.integers(0, width - new[0])), draw(st.integers(0, height - new[1]))
            steps.append((kind, (*place, *new)))
            width, height = new
        else:
            more = draw(st.integers(0, 9)), draw(st.integers(0, 9))
            steps.append((kind, more))
            width, height = width + more[0], height + more[1]
    return steps


@settings(max_examples=60)
@given(steps=chains())
def test_barriers_that_wait_for_one_warp_give_the_pixels_of_one_warp_each(steps):
    image = np.random.default_rng(1).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    ops = {f"step{number}": Scripted(*step) for number, step in enumerate(steps)}
    out = compose(ops=ops, min_coverage=0.0)(Sample(images=(image,), annotations=(), task="dense"), KEY)
    assert np.array_equal(out.images[0], step_by_step(image, steps))


def test_a_crop_before_a_turn_hides_what_lay_around_it(make_pipeline, make_sample):
    sample = make_sample(size=(60, 40))
    crop = Scripted("crop", (20, 10, 20, 20))
    turn = op("rotate", max_rotation_degrees=90.0)
    out = make_pipeline(crop=crop, turn=turn)(sample, KEY)
    (piece,) = make_pipeline(crop=crop)(sample, KEY).images
    alone = make_pipeline(still=op("rotate", p=0.0, max_rotation_degrees=0.0), turn=turn)(
        Sample(images=(piece,), annotations=(), task="dense"), KEY
    )
    assert np.array_equal(out.images[0], alone.images[0])


def test_the_same_picture_twice_as_small_is_the_mean_of_four(make_pipeline, make_sample):
    sample = make_sample(size=(60, 40))
    out = make_pipeline(flip=op("vflip"))(sample, KEY, halved)
    means = np.flipud(sample.images[0]).reshape(20, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(out.images[0] - means).max() <= 1  # rounding


def test_a_zoom_out_is_filtered_as_well(make_pipeline, make_sample):
    x, y = np.meshgrid(np.arange(60), np.arange(40))
    image = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    zoom = op("scale", min_scale=0.5, max_scale=0.5)
    out = make_pipeline(zoom=zoom)(Sample(images=(image,), annotations=(), task="dense"), KEY)
    assert np.abs(out.images[0][11:29, 16:44].astype(int) - 127).max() <= 1
