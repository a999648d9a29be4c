"""A photo and its template: fused, both, or the photo alone, and pairs that are none."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.data.pairs import pair_images
from qcvl.data.samples import build_sample
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import read_records
from tests.conftest import photo


def grey(width, height, seed):
    return np.repeat(photo(width, height, seed)[:, :, :1], 3, axis=2)


@pytest.fixture
def pair_file(tmp_path):
    """``pair_file(template_size=…, objects=…)``: a JSONL file of one pair, 40x30, and its two images."""

    def write(template_size=(40, 30), count=2, image=0):
        images = [grey(40, 30, 1), grey(*template_size, 2)][:count]
        for name, pixels in zip("ab", images, strict=False):
            Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        row = {"images": ["a.png", "b.png"][:count], "objects": [{"bbox_2d": [1, 2, 9, 8], "desc": "x"}]}
        if count > 1:
            row["objects"][0]["image"] = image
        (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
        (record,) = read_records(tmp_path / "pairs.jsonl")
        return record, images

    return write


def test_a_fused_pair_has_photo_template_and_their_difference_as_channels(pair_file):
    record, (image, template) = pair_file()
    (fused,) = build_sample(record, "dense", "fused").images
    assert fused.dtype == np.uint8 and fused.shape == (30, 40, 3)
    assert np.array_equal(fused[..., 0], image[..., 0]) and np.array_equal(fused[..., 1], template[..., 0])
    assert np.array_equal(fused[..., 2], np.abs(image[..., 0].astype(int) - template[..., 0].astype(int)))


def test_coloured_pairs_are_fused_by_their_grey_levels():
    red, green = (np.zeros((2, 2, 3), np.uint8) for _ in range(2))
    red[..., 0], green[..., 1] = 255, 255
    (fused,) = pair_images([red, green], "fused")
    assert fused[0, 0].tolist() == [76, 150, 74]  # .299 and .587 of 255, the weights of ITU-R BT.601


def test_without_a_pairing_both_are_images_and_the_photo_alone_needs_no_template(pair_file, tmp_path):
    record, images = pair_file()
    both = build_sample(record, "dense").images
    assert len(both) == 2 and all(np.array_equal(a, b) for a, b in zip(both, images, strict=True))
    (tmp_path / "b.png").unlink()
    (alone,) = build_sample(record, "dense", "photo").images
    assert np.array_equal(alone, images[0])


def test_a_missing_template_and_one_of_another_size_are_named_with_file_and_line(pair_file, tmp_path):
    record, _ = pair_file(count=1)
    with pytest.raises(RecordError, match=r"pairs\.jsonl:1: images\[0\] has 1 image; a fused pair needs two"):
        build_sample(record, "dense", "fused")
    record, _ = pair_file(template_size=(40, 31))
    with pytest.raises(RecordError, match=r"pairs\.jsonl:1: images\[0\] is 40x30 but its template .* is 40x31"):
        build_sample(record, "dense", "fused")
    record, _ = pair_file()
    (tmp_path / "b.png").unlink()
    with pytest.raises(RecordError, match=r"pairs\.jsonl:1: images\[1\] .*b\.png\) not found"):
        build_sample(record, "dense", "fused")
    with pytest.raises(DataError, match="has 3 images"):
        pair_images([photo(2, 2)] * 3, "fused")


def test_an_object_in_the_template_is_refused_where_the_template_is_no_image_of_its_own(pair_file):
    record, _ = pair_file(image=1)
    assert build_sample(record, "dense").annotations[0].image == 1
    for pairing in ("fused", "photo"):
        with pytest.raises(RecordError, match=r"pairs\.jsonl:1: objects\[0\]\.image lies in image 1; of a pair"):
            build_sample(record, "dense", pairing)
