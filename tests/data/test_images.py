"""Photos as a person sees them: every odd file loads as its manifest says, or gives one error that names it."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.images import MAX_PIXELS, image_size, load_image
from qcvl.errors import DataError
from tests.conftest import SHARED, photo

MANIFEST = SHARED / "data/nasty/manifest.json"
NASTY = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else []
LOADABLE = [entry for entry in NASTY if entry.get("load") == "ok"]
BROKEN = [entry for entry in NASTY if entry.get("load") != "ok"]
needs_nasty = pytest.mark.skipif(not NASTY, reason=f"{MANIFEST} is not there")


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def named(entry: dict) -> str:
    return entry["file"]


@needs_nasty
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("entry", LOADABLE, ids=named)
def test_an_odd_file_loads_upright_as_8_bit_rgb_of_the_size_in_the_manifest(entry):
    image = load_image(MANIFEST.parent / entry["file"])
    width, height = entry["exif_transposed_size"]
    assert image.dtype == np.uint8 and image.shape == (height, width, 3)
    assert image_size(MANIFEST.parent / entry["file"]) == (width, height)
    if entry["file"] != "extreme_tall.webp":  # whose first frame is one colour
        assert image.std() > 5  # a picture, not an empty canvas


@needs_nasty
@pytest.mark.parametrize("entry", BROKEN, ids=named)
def test_a_broken_file_gives_one_error_that_names_record_and_file(entry):
    with pytest.raises(DataError, match=rf"^train.jsonl:7: images\[0\] \(.*{entry['file']}\) (is|claims)"):
        load_image(MANIFEST.parent / entry["file"], "train.jsonl:7: images[0]")


def test_the_manifest_lists_files_of_both_kinds(shared_data):
    shared_data("nasty")
    assert len(LOADABLE) >= 20 and len(BROKEN) >= 7


def test_the_eight_exif_orientations_show_one_picture(shared_data):
    folder = shared_data("nasty")
    upright, *others = (load_image(folder / f"exif_landscape_{number}.jpg").astype(int) for number in range(1, 9))
    assert min(np.abs(upright - turned).mean() for turned in (upright[::-1], upright[:, ::-1])) > 50
    for other in others:
        assert np.abs(upright - other).mean() < 5  # each was compressed anew


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_the_size_without_decoding_is_that_of_the_decoded_photo(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(photo(40, 24)), "JPEG", exif=exif)
    assert image_size(data) == ((24, 40) if orientation in (5, 6, 7, 8) else (40, 24))
    assert load_image(data).shape[:2] == image_size(data)[::-1]


def test_16_bit_grey_keeps_its_upper_8_bits():
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    image = load_image(encode(Image.fromarray(values), "PNG"))
    assert image.shape == (1, 5, 3)
    assert image[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (image == image[..., :1]).all()


def test_cmyk_ink_is_subtracted_from_white():
    inks = Image.merge("CMYK", [Image.new("L", (2, 2), value) for value in (255, 0, 0, 0)])
    assert load_image(inks)[0, 0].tolist() == [0, 255, 255]  # full cyan


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white_paper(mode):
    layer = Image.new("RGBA", (4, 2), (200, 200, 200, 0))
    layer.paste((10, 10, 10, 255), (0, 0, 2, 2))
    if mode == "P":
        image = Image.new("P", (4, 2), 0)
        image.putpalette([10, 10, 10, 200, 0, 0])
        image.paste(1, (2, 0, 4, 2))
        data = encode(image, "PNG", transparency=1)
    else:
        data = encode(layer.convert(mode), "PNG")
    loaded = load_image(data)
    assert loaded[0, 0].tolist() == [10, 10, 10] and loaded[0, 3].tolist() == [255, 255, 255]


def test_one_photo_is_the_same_from_a_path_bytes_a_data_url_an_array_and_pillow(tmp_path):
    pixels = photo(17, 9)
    data = encode(Image.fromarray(pixels), "PNG")
    path = tmp_path / "照片 1.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for value in (path, str(path), data, url, pixels, Image.fromarray(pixels)):
        assert np.array_equal(load_image(value), pixels)
        assert image_size(value) == (17, 9)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (3, 3), color) for color in ((255, 0, 0), (0, 255, 0))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no/such/folder/a.jpg", "a.jpg.* not found: its folder does not exist"),
        ("no_such_file.jpg", "no_such_file.jpg.* not found: the folder exists, the file does not"),
        ("https://example.org/a.jpg", "a.jpg.* is a URL; download"),
        ("data:image/png;base64,***", "is a data URL whose base64 part cannot be decoded"),
        ("data:image/png;base64,é", "data:image/png;base64,é.* is damaged"),
        (b"", "is not an image Pillow can read"),
        (b"GIF89a", " is "),
        (np.zeros((4, 4), np.uint8), r"is an array of uint8 \(4, 4\); expected uint8 RGB"),
        (np.zeros((4, 4, 3)), "is an array of float64"),
    ],
)
def test_a_value_that_is_no_photo_is_refused_with_the_reason(value, message):
    with pytest.raises(DataError, match=f"^photo.*{message}"):
        load_image(value, "photo")
    with pytest.raises(DataError, match=f"^photo.*{message}"):
        image_size(value, "photo")


def test_a_long_data_url_does_not_fill_the_screen():
    with pytest.raises(DataError) as caught:
        load_image("data:image/png;base64," + "A" * 10_000)
    assert len(str(caught.value)) < 300


def test_the_limit_is_pillows_own_and_half_of_it_passes_without_a_warning(monkeypatch, recwarn):
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    data = encode(Image.fromarray(photo(30, 10)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # now 300 pixels are the most
    assert load_image(data).shape == (10, 30, 3) and not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 149)
    for read in (load_image, image_size):
        with pytest.raises(DataError, match="is larger than"):
            read(data)


@settings(max_examples=300)
@given(st.data())
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
def test_a_damaged_file_loads_or_gives_a_data_error_and_nothing_else(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"]))
    content = bytearray(
        encode(Image.fromarray(photo(12, 8)), kind, **({} if kind in ("GIF", "BMP") else {"exif": exif}))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    for read in (load_image, image_size):
        try:
            read(bytes(content))
        except DataError as error:
            assert str(error).startswith("image ")
