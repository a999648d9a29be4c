"""What training and validation share: photos, copies, look-alikes and groups."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qcvl.doctor.splits import MAX_DISTANCE, nearest
from qcvl.errors import ConfigError


@pytest.fixture
def photos(folder):
    """Four different photos ``0.jpg`` … ``3.jpg`` with large shapes, and ``black.jpg``."""
    for seed in range(4):
        small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC).save(folder / f"{seed}.jpg")
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(folder / "black.jpg")
    Image.fromarray(np.zeros((64, 90, 3), np.uint8)).save(folder / "black_too.jpg")
    return folder


def row(name, **metadata):
    return {"images": [name], "objects": [{"bbox_2d": [1, 1, 9, 9], "desc": "plate"}], "metadata": metadata}


def test_a_photo_of_both_splits_is_found_also_under_another_spelling(check, codes, photos):
    report = check(row("0.jpg"), row("1.jpg"), val=[row(f"../{photos.name}/0.jpg"), row("2.jpg")], decode=True)
    assert codes(report) == [(1, "image-shared", "images[0]")]
    assert f"is also in {photos}/train.jsonl:1; expected photos" in report.findings[0].message
    assert report.sources["val/val"].warnings == 1 and report.sources["train/train"].warnings == 0


def test_a_copy_under_another_name_is_found_without_decoding(check, codes, photos):
    shutil.copy(photos / "1.jpg", photos / "copy.jpg")
    (photos / "padded.jpg").write_bytes((photos / "2.jpg").read_bytes())
    content = bytearray((photos / "2.jpg").read_bytes())
    content[-3] ^= 1  # as long, and not the same
    (photos / "other.jpg").write_bytes(content)
    report = check(row("0.jpg"), row("1.jpg"), row("2.jpg"), val=[row("copy.jpg"), row("other.jpg"), row("3.jpg")])
    assert codes(report) == [(1, "image-duplicate", "images[0]")]
    assert f"has the same bytes as the photo of {photos}/train.jsonl:2" in report.findings[0].message
    assert check(row("1.jpg"), val=[row("copy.jpg")], copies=False).findings == ()


def test_a_photo_saved_again_is_found_by_decoding_and_black_photos_are_not_alike(check, codes, photos):
    Image.open(photos / "1.jpg").resize((45, 30)).save(photos / "again.jpg", quality=60)
    train = [row("0.jpg"), row("1.jpg"), row("black.jpg")]
    val = [row("again.jpg"), row("2.jpg"), row("black_too.jpg")]
    assert check(*train, val=val).findings == ()
    report = check(*train, val=val, decode=True)
    assert codes(report) == [(1, "image-similar", "images[0]")]
    assert f"looks like the photo of {photos}/train.jsonl:2" in report.findings[0].message


marks = st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=6)


@settings(max_examples=60)
@given(marks, st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 127), max_size=9)), min_size=1, max_size=6))
def test_the_nearest_within_the_limit_is_what_comparing_all_pairs_gives(others, changes):
    mine = [others[index % len(others)] ^ sum(1 << bit for bit in flipped) for index, flipped in changes]
    words = [np.array([[mark >> 64, mark & (2**64 - 1)] for mark in side], dtype=np.uint64) for side in (mine, others)]
    found = nearest(*words)
    for index, mark in enumerate(mine):
        distances = [(mark ^ other).bit_count() for other in others]
        if min(distances) <= MAX_DISTANCE:
            assert found[index][1] == min(distances) == distances[found[index][0]]
        else:
            assert index not in found


def test_groups_of_both_splits_are_named_by_a_key_or_by_a_pattern_on_the_path(check, codes, photos):
    train, val = [row("0.jpg", board="A"), row("1.jpg", board="A"), row("2.jpg", board="B")], [row("3.jpg", board="A")]
    report = check(*train, val=val, group_by="board")
    assert codes(report) == [(1, "group-shared", "board")]
    assert "group A is in 1 record here and in 2 of training" in report.findings[0].message
    assert check(*train, val=val).findings == ()
    for pattern, group in (("path:([0-9])", None), ("path:jpg", "jpg"), (r"path:\.(j)", "j")):
        found = check(*train, val=val, group_by=pattern).findings
        assert [finding.message.split()[1] for finding in found] == ([] if group is None else [group])


def test_metadata_group_is_looked_at_without_being_asked(check, codes, photos):
    report = check(row("0.jpg", group="G1"), val=[row("1.jpg", group="G1"), row("2.jpg", group="G2")])
    assert codes(report) == [(1, "group-shared", "metadata.group")]


def test_a_record_without_the_group_is_a_warning_and_a_broken_pattern_an_error(check, codes, photos):
    report = check(row("0.jpg", board="A"), row("1.jpg"), val=[row("2.jpg", board="B")], group_by="board")
    assert codes(report) == [(2, "group-missing", "metadata.board")]
    report = check(row("0.jpg"), val=[row("2.jpg")], group_by=r"path:x(\d)")
    assert {code for _, code, _ in codes(report)} == {"group-missing"}
    with pytest.raises(ConfigError, match=r"group_by: '\(' is no regular expression"):
        check(row("0.jpg"), val=[row("2.jpg")], group_by="path:(")
