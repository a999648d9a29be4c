"""What the colour ops do to pixels, by a second method where one exists."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from tests.augment.ops import compose, op

KEY = (0, 0, 0)
NAMES = ["color_jitter", "gamma", "hsv", "clahe", "auto_contrast", "sharpness", "blur", "noise", "jpeg"]


def smooth(size=(480, 320), seed=3):
    """A photo with soft shades, ``[H, W, 3]``."""
    coarse = np.random.default_rng(seed).integers(40, 200, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def painted(make_sample):
    """``painted(op, image, key)``: the image after one op."""

    def paint(op, image, key=KEY):
        sample = make_sample(("bbox_2d", [3, 4, 20, 22]), size=(image.shape[1], image.shape[0]))
        out = compose(op=op)(type(sample)(images=(image,), annotations=sample.annotations, task="dense"), key)
        assert out.annotations == sample.annotations
        return out.images[0]

    return paint


@pytest.mark.parametrize("name", NAMES)
def test_every_op_changes_pixels_keeps_their_kind_and_draws_from_the_key_alone(painted, name):
    image = smooth()
    before = image.copy()
    first = painted(op(name), image)
    assert first.shape == image.shape and first.dtype == np.uint8
    assert not np.array_equal(first, image) and np.array_equal(image, before)
    np.random.seed(5)
    assert np.array_equal(painted(op(name), image), first)
    if name != "auto_contrast":  # which draws nothing
        assert any(not np.array_equal(painted(op(name), image, (0, 0, index)), first) for index in range(1, 6))
    assert np.array_equal(painted(op(name, p=0.0), image), image)


@pytest.mark.parametrize(
    ("name", "still"),
    [
        ("hsv", {"max_hue_degrees": 0.0, "max_saturation_levels": 0.0, "max_value_levels": 0.0}),
        ("sharpness", {"strength": (0.0, 0.0)}),
        ("noise", {"sigma_levels": (0.0, 0.0)}),
    ],
)
def test_an_amount_of_nothing_changes_nothing(painted, name, still):
    image = smooth()
    assert np.array_equal(painted(op(name, **still), image), image)


def test_hue_moves_by_degrees_of_the_wheel(painted):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    still = {"max_saturation_levels": 0.0, "max_value_levels": 0.0}
    hues = [
        cv2.cvtColor(painted(op("hsv", max_hue_degrees=60.0, **still), red, (0, 0, i)), cv2.COLOR_RGB2HSV)[0, 0, 0]
        for i in range(40)
    ]
    turned = (np.array(hues, dtype=int) * 2 + 180) % 360 - 180
    assert np.abs(turned).max() <= 60 and turned.max() > 40 and turned.min() < -40


def test_auto_contrast_maps_the_darkest_and_brightest_lightness_to_the_ends_and_keeps_grey_grey(painted):
    image = smooth()
    lightness = image @ np.array([299, 587, 114]) / 1000
    low, high = round(lightness.min()), round(lightness.max())
    expected = np.clip((image - float(low)) * 255 / (high - low), 0, 255)
    assert np.abs(painted(op("auto_contrast", cutoff_percent=0.0), image) - expected).max() <= 3
    grey = np.repeat(image[..., :1], 3, axis=2)
    stretched = painted(op("auto_contrast", cutoff_percent=0.0), grey)
    assert (stretched.min(), stretched.max()) == (0, 255) and np.ptp(stretched, axis=2).max() == 0


def test_the_cutoff_leaves_extreme_pixels_out_of_account(painted):
    grey = np.full((100, 100, 3), 100, np.uint8)
    grey[50:], grey[0, 0], grey[-1, -1] = 150, 0, 255  # one pixel of 10,000 at each end
    whole = painted(op("auto_contrast", cutoff_percent=0.0), grey)
    most = painted(op("auto_contrast", cutoff_percent=1.0), grey)
    assert np.array_equal(whole, grey) and set(np.unique(most)) == {0, 255}


def test_sharpness_mixes_in_the_laplacian_and_keeps_even_areas(painted):
    image = smooth()
    kernel = np.full((3, 3), -1.0)
    kernel[1, 1] = 9.0
    sharp = cv2.filter2D(image.astype(float), -1, kernel)
    expected = np.clip(0.7 * image + 0.3 * sharp, 0, 255)
    found = painted(op("sharpness", strength=(0.3, 0.3)), image)
    assert np.abs(found[1:-1, 1:-1] - expected[1:-1, 1:-1]).max() <= 1
    even = np.full((16, 16, 3), 90, np.uint8)
    assert np.array_equal(painted(op("sharpness", strength=(0.3, 0.3)), even), even)


@pytest.mark.parametrize("motion_share", [0.0, 1.0])
def test_blur_spreads_a_point_evenly_to_both_sides(painted, motion_share):
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    spread = set()
    for index in range(20):
        blur = op("blur", sigma_px=(1.0, 2.0), motion_share=motion_share, motion_px=(5, 9))
        found = painted(blur, point, (0, 0, index))[..., 0].astype(float)
        y, x = np.indices(found.shape)
        center = np.array([(x * found).sum(), (y * found).sum()]) / found.sum()
        assert np.abs(center - 20).max() < 0.25  # nothing is moved from its shape
        spread.add(int((found > 0).sum()))
    assert min(spread) >= 3 if motion_share else min(spread) >= 9


def test_motion_is_the_share_of_the_blurred_that_is_asked_for(painted):
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blur = op("blur", sigma_px=(2.0, 2.0), motion_share=0.3, motion_px=(5, 5))
    found = [(painted(blur, point, (0, 0, index))[..., 0] > 0).sum() for index in range(200)]
    shaken = sum(count <= 9 for count in found)  # a way of five pixels lights few, a Gaussian a disc
    assert abs(shaken - 60) < 4 * (200 * 0.3 * 0.7) ** 0.5


def test_noise_has_the_deviation_that_is_asked_for(painted):
    grey = np.full((128, 128, 3), 128, np.uint8)
    found = painted(op("noise", sigma_levels=(6.0, 6.0)), grey).astype(float) - 128
    assert abs(found.std() - 6) < 0.6 and abs(found.mean()) < 0.6  # values are cut to whole levels
    assert abs(np.corrcoef(found[..., 0].ravel(), found[..., 1].ravel())[0, 1]) < 0.05


def test_jpeg_is_what_opencv_reads_back(painted):
    image = smooth()
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(painted(op("jpeg", quality_percent=(40, 40)), image), expected)


def test_clahe_of_one_tile_equalises_the_lightness(painted):
    image = smooth()
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (4, 4)).apply(lab[..., 0])
    expected = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    found = painted(op("clahe", clip_limit=(2.0, 2.0), tiles=4), image)
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("color_jitter", {"contrast": (1.2, 0.8)}, r"\(low, high\); 1\.2 is above 0\.8"),
        ("gamma", {"gamma": (2.0, 1.0)}, "is above"),
        ("clahe", {"clip_limit": (0.5, 2.0)}, "greater than or equal to 1"),
        ("sharpness", {"strength": (0.5, 1.5)}, "less than or equal to 1"),
        ("blur", {"sigma_px": (0.0, 1.0)}, "greater than 0"),
        ("blur", {"motion_px": (4, 7)}, "should be odd"),
        ("noise", {"sigma_levels": (2.0, 300.0)}, "less than or equal to 255"),
        ("jpeg", {"quality_percent": (0, 90)}, "greater than or equal to 1"),
        ("hsv", {"max_hue_degrees": 200.0}, "less than or equal to 180"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_anything_runs(name, wrong, message):
    with pytest.raises(ValidationError, match=message):
        op(name, **wrong)
