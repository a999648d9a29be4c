"""Scores of objects from token probabilities, and the characters each token ends at."""

import numpy as np
import pytest

from qcvl.inference.confidence import object_scores
from qcvl.models.text import character_ends, token_bytes

ONE = '{"object_1": {"bbox_2d": [1, 2, 3, 4], "desc": "ab"}}'


def scores(text: str, values: list[float]) -> list[float]:
    return [pytest.approx(value) for value in object_scores(text, range(1, len(text) + 1), values)]


def test_a_score_is_existence_times_the_mean_of_the_place_times_the_description():
    values = [1.0] * len(ONE)
    for part, value in (("j", 0.9), ("x", 0.5), ("ab", 0.7)):  # two tokens of format, one of the description
        values[ONE.index(part)] = value
    for digit, value in zip("1234", (0.2, 0.4, 0.6, 0.8), strict=True):
        values[ONE.index(digit, ONE.index("["))] = value
    assert scores(ONE, values) == [0.9 * 0.5 * (0.2 + 0.4 + 0.6 + 0.8) / 4 * 0.7]


def test_each_object_has_the_tokens_from_the_end_of_the_one_before():
    text = ONE[:-1] + ', "object_2": {"line": [5, 6, 7, 8], "desc": "c"}}'
    values = [1.0] * len(text)
    values[text.index(', "object_2"')] = 0.5  # that there is a second one
    values[text.index("5")] = 0.2
    assert scores(text, values) == [1.0, 0.5 * (0.2 + 3) / 4]


@pytest.mark.parametrize("text", ["{}", "[]", "nothing here", ""])
def test_a_text_without_objects_has_no_scores(text):
    assert object_scores(text, range(1, len(text) + 1), [0.5] * len(text)) == ()


def test_a_cut_answer_scores_its_whole_objects():
    text = ONE[:-1] + ', "object_2": {"bbox_2d": [5, 6'
    values = [1.0] * len(text)
    values[text.index("ab")] = 0.25
    assert scores(text, values) == [0.25]


def test_objects_that_cannot_be_told_apart_score_the_mean_of_all_tokens():
    text = '{"a": {"bbox_2d": [1, 2, 3, 4], "desc": "x"} {"bbox_2d": [1, 2, 3, 4], "desc": "y}'
    found = object_scores(text, range(1, len(text) + 1), [0.5] * len(text))
    assert all(0 < score <= 1 for score in found)


def test_tokens_end_at_whole_characters(processing):
    text = '{"desc": "BBU设备/品牌:华为é🙂"}<|im_end|>'
    ids = processing.tokenizer.encode(text, add_special_tokens=False)
    ends = character_ends(processing, ids)
    assert ends[-1] == len(text) and ends == sorted(ends)
    for count, end in enumerate(ends, 1):
        assert processing.tokenizer.decode(ids[:count])[:end] == text[:end]


def test_the_bytes_of_any_tokens_are_the_text_they_decode_to(processing):
    parts = token_bytes(processing)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, len(parts), 12).tolist()
        assert b"".join(parts[index] for index in ids).decode("utf-8", "replace") == processing.tokenizer.decode(ids)
        assert character_ends(processing, ids)[-1] <= len(processing.tokenizer.decode(ids))
