"""Decoded photos in memory: within the limit, the least recently used leave first."""

import numpy as np
import pytest

from qcvl.data.cache import SampleCache
from qcvl.schema.types import Sample

MIB = 2**20


def sample(mib):
    return Sample(images=(np.zeros((mib * 1024, 1024, 1), np.uint8),), annotations=(), task="dense")


def decoded(cache, names):
    """Which of ``names`` had to be decoded when asked for in this order."""
    fresh = []

    def decode(name):
        fresh.append(name)
        return sample(1)

    for name in names:
        cache.get(name, "dense", lambda name=name: decode(name))
    return fresh


@pytest.mark.parametrize(("limit", "expected"), [(0, "abab"), (1, "abab"), (2, "ab")])
def test_a_photo_that_fits_is_decoded_once(limit, expected):
    assert "".join(decoded(SampleCache(limit), "abab")) == expected


def test_the_least_recently_used_leaves():
    cache = SampleCache(2)
    assert "".join(decoded(cache, "abacab")) == "abcb"  # c drives out b, which a came after
    assert cache.held == 2 * MIB


def test_a_sample_larger_than_the_limit_is_not_kept_and_drives_out_nothing():
    cache = SampleCache(2)
    decoded(cache, "ab")
    cache.get("large", "dense", lambda: sample(3))
    assert decoded(cache, "ab") == []


def test_a_kept_sample_serves_every_task_and_cannot_be_painted_on():
    cache = SampleCache(2)
    first = cache.get("a", "dense", lambda: sample(1))
    second = cache.get("a", "summary", lambda: sample(1))
    assert (first.task, second.task) == ("dense", "summary") and first.images[0] is second.images[0]
    with pytest.raises(ValueError, match="read-only"):
        second.images[0][0] = 1
