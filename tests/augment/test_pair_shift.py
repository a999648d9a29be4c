"""The template of a fused pair moves, the photo and its shapes do not, and the difference is that of the two."""

import numpy as np
import pytest

from qcvl.augment.base import Compose
from qcvl.augment.pair import PairShift
from qcvl.data.pairs import pair_images
from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation, Sample
from tests.conftest import photo


def fused():
    grey = [np.repeat(photo(40, 30, seed)[:, :, :1], 3, axis=2) for seed in (1, 2)]
    note = Annotation(Shape("bbox_2d", [3, 4, 20, 22]), "x")
    return Sample(images=pair_images(grey, "fused"), annotations=(note,), task="dense")


def shifted(index, **changes):
    op = PairShift(**{"p": 1.0, "max_px": 2.0} | changes)
    settings = {"min_coverage": 0.3, "bypass_prob": 0.0, "fill": 128, "share_draw": False, "phases": []}
    compose = Compose(ops={"shift": op}, order=["shift"], **settings)
    return compose(fused(), (0, 0, index))


def test_only_the_template_moves_and_the_difference_is_that_of_the_two():
    before = fused()
    for index in range(10):
        after = shifted(index)
        was, now = before.images[0].astype(int), after.images[0].astype(int)
        assert np.array_equal(now[..., 0], was[..., 0]) and not np.array_equal(now[..., 1], was[..., 1])
        assert np.array_equal(now[..., 2], np.abs(now[..., 0] - now[..., 1]))
        assert after.annotations == before.annotations


def test_a_whole_pixel_moves_the_template_by_just_that():
    pixels = fused().images[0]
    op = PairShift(p=1.0, max_px=2.0)

    class Fixed:
        """Draws that ask for a shift of one pixel to the right and two up."""

        def random(self):
            return 0.0

        def uniform(self, low, high, count):
            assert (low, high, count) == (-2.0, 2.0, 2)
            return np.array([1.0, -2.0])

    moved = op.draw(None, Fixed()).paint(pixels)[..., 1]
    assert np.array_equal(moved[:-2, 1:], pixels[2:, :-1, 1])


@pytest.mark.parametrize(("change", "moves"), [({}, True), ({"p": 0.0}, False), ({"max_px": 0.0}, False)])
def test_without_probability_or_distance_nothing_changes(change, moves):
    assert np.array_equal(shifted(3, **change).images[0], fused().images[0]) != moves
