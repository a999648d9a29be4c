"""Photos by their header, their pixels and their fingerprints."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qcvl.data.images import image_header, image_size, load_image, load_thumbnail
from qcvl.doctor.photos import FLAT, fingerprint
from qcvl.errors import DataError

TURNED = 6  # EXIF: shown a quarter turn further


@pytest.fixture
def picture():
    """A photo with large shapes, uint8 ``[200, 300, 3]``."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((300, 200), Image.Resampling.BICUBIC))


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.bmp"])
def test_a_header_tells_the_size_that_decoding_gives(tmp_path, picture, name):
    plain, turned = tmp_path / f"plain-{name}", tmp_path / name
    Image.fromarray(picture).save(plain)
    assert image_header(plain) == ((300, 200), False)
    if not name.endswith("bmp"):
        Image.fromarray(picture).save(turned, exif=exif(TURNED))
        assert image_header(turned) == ((200, 300), True)
        assert load_image(turned).shape[:2] == (300, 200)


def test_the_orientation_of_a_png_is_found_behind_its_pixels_too(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif(TURNED))
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    last = content.rindex(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(content[:start] + content[end:last] + content[start:end] + content[last:])
    assert image_size(tmp_path / "a.png") == image_size(tmp_path / "late.png") == (200, 300)
    text = PngInfo()
    text.add_text("Comment", "x" * 10)
    Image.fromarray(picture).save(tmp_path / "text.png", pnginfo=text)
    assert image_size(tmp_path / "text.png") == (300, 200)


def test_the_header_of_a_png_is_read_without_its_pixels(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    assert image_size(tmp_path / "cut.png") == (300, 200)
    with pytest.raises(DataError, match="damaged"):
        load_thumbnail(tmp_path / "cut.png", 9)


def test_a_thumbnail_is_the_mean_of_each_part_after_orientation(tmp_path, picture):
    grey = np.asarray(Image.fromarray(picture).convert("L"), dtype=float)
    wanted = grey[:198, :297].reshape(9, 22, 9, 33).mean(axis=(1, 3))
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(picture).save(tmp_path / "turned.jpg", quality=95, exif=exif(TURNED))
    for value in (picture, tmp_path / "a.png", tmp_path / "a.jpg"):
        assert np.abs(load_thumbnail(value, 9) - wanted).max() < 12  # its parts are 22.2 x 33.3 px, ours 22 x 33
    assert np.abs(load_thumbnail(tmp_path / "turned.jpg", 9) - np.rot90(wanted, -1)).max() < 12


def test_damage_behind_the_header_of_a_jpeg_is_found_at_an_eighth_too(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) * 3 // 4])
    assert image_size(tmp_path / "cut.jpg") == (300, 200)
    for load in (load_image, lambda path: load_thumbnail(path, 9)):
        with pytest.raises(DataError, match="damaged"):
            load(tmp_path / "cut.jpg")


def bits(a, b):
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def test_a_fingerprint_survives_what_leaves_a_photo_alike_and_tells_others_apart(picture):
    image = Image.fromarray(picture)
    mark = fingerprint(load_thumbnail(picture, 9))
    alike = {
        "smaller": image.resize((150, 100)),
        "darker": image.point(lambda level: level * 0.8),
    }
    for name, other in alike.items():
        assert bits(mark, fingerprint(load_thumbnail(np.asarray(other), 9))) <= 6, name
    others = {"mirrored": np.fliplr(picture), "turned": np.rot90(picture, 2), "negative": 255 - picture}
    for name, other in others.items():
        assert bits(mark, fingerprint(load_thumbnail(np.ascontiguousarray(other), 9))) > 30, name


def test_a_fingerprint_says_where_it_gets_brighter():
    ramp = np.tile(np.arange(9, dtype=np.uint8) * 20, (9, 1))
    assert fingerprint(ramp) == (2**64 - 1, 0) and fingerprint(ramp.T) == (0, 2**64 - 1)
    assert fingerprint(ramp[:, ::-1]) == (0, 0)


def test_a_photo_of_one_colour_has_none():
    assert fingerprint(np.full((9, 9), 77, np.uint8)) is None
    noise = np.random.default_rng(0).integers(76, 78, (9, 9)).astype(np.uint8)
    assert noise.std() < FLAT and fingerprint(noise) is None
