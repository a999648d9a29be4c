"""What infer prints and draws of its answers."""

import pytest

from qcvl.geometry.shapes import Shape
from qcvl.inference.evaluator import Prediction, above
from qcvl.schema.answer import DEFAULT_FORMAT, Answer, parse_answer, render_answer
from qcvl.schema.types import Annotation

NOTES = tuple(Annotation(Shape("bbox_2d", [x, 10, x + 20, 40]), desc) for x, desc in ((0, "a"), (30, "b"), (60, "c")))


@pytest.fixture
def prediction() -> Prediction:
    """Three objects that score 0.2, 0.9 and 0.5 in a photo of 100x50 pixels."""
    size = ((100, 50),)
    text = render_answer(NOTES, size)
    answer = Answer("strict", NOTES, 0, (0, 1, 2))
    scores = {"scores": (0.2, 0.9, 0.5), "score_source": "token_probability"}
    facts = {"source": "input", "index": 0, "task": "dense", "images": ("a.png",), "tokens": 9, "finished": True}
    return Prediction(**facts, sizes=size, text_sizes=size, text=text, answer=answer, **scores)


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, "abc"), (0.2, "abc"), (0.21, "bc"), (0.6, "b"), (1.0, "")])
def test_objects_below_the_threshold_are_neither_in_the_text_nor_among_those_to_draw(prediction, threshold, kept):
    shown = above(prediction, threshold, DEFAULT_FORMAT)
    assert [note.desc for note in shown.answer.annotations] == list(kept)
    assert [score for score in (0.2, 0.9, 0.5) if score >= threshold] == list(shown.scores)
    read = parse_answer(shown.text, (100, 50))
    assert read.annotations == shown.answer.annotations and read.places == shown.answer.places


def test_a_text_of_which_nothing_is_left_out_stays_word_for_word(prediction):
    assert above(prediction, 0.1, DEFAULT_FORMAT) is prediction
