"""What augmentation counts, by hand: padding as area, coverage as shares, and rates over what they were counted on."""

import numpy as np
import pytest
import shapely

from qcvl.augment.actions import Move, Reframe
from qcvl.augment.telemetry import added, padding, rates
from qcvl.augment.view import view_of
from qcvl.geometry.affine import apply_affine, rotation_matrix
from tests.augment.ops import op, plain_crop

KEY = (0, 0, 0)


class Turn:
    """A move by 30 degrees about the centre."""

    def draw(self, view, rng):
        return Move(rotation_matrix(30, view.center))


def frame_area(matrix, width, height, new_width, new_height):
    """Square pixels of a new canvas that a moved frame covers, by shapely."""
    corners = apply_affine([[0, 0], [width, 0], [width, height], [0, height]], matrix)
    return shapely.Polygon(corners).intersection(shapely.box(0, 0, new_width, new_height)).area


@pytest.mark.parametrize(
    ("barrier", "moves"),
    [
        (Reframe(window=(0, 0, 64, 64), width=64, height=64), np.eye(3)),
        (Reframe(window=(-6, -4, 54, 44), width=60, height=48), np.eye(3)),
        (Reframe(window=(10, 10, 40, 30), width=90, height=60), np.eye(3)),
        (Reframe(window=(0, 0, 60, 40), width=60, height=40), rotation_matrix(30, (30, 20))),
        (Reframe(window=(-10, -20, 70, 60), width=80, height=80, reveal=True), rotation_matrix(30, (30, 20))),
        (Reframe(window=(0, 0, 80, 60), width=80, height=60, reveal=True), np.eye(3)),
    ],
)
def test_padding_is_the_share_of_the_canvas_that_the_old_one_does_not_show_on(barrier, moves):
    view = view_of([], (60, 40), "dense").moved(moves)
    area = frame_area(barrier.matrix @ moves, 60, 40, barrier.width, barrier.height)
    if not barrier.reveal:  # what lay beyond the old canvas is cut off before
        corners = apply_affine([[0, 0], [60, 0], [60, 40], [0, 40]], moves)
        left = shapely.Polygon(corners).intersection(shapely.box(0, 0, 60, 40))
        moved = shapely.transform(left, lambda points: apply_affine(points, barrier.matrix))
        area = moved.intersection(shapely.box(0, 0, barrier.width, barrier.height)).area
    assert padding(view, barrier) == pytest.approx(1 - area / (barrier.width * barrier.height), abs=1e-9)


def test_a_crop_counts_what_it_left_of_the_objects(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 60, 40]), ("bbox_2d", [0, 0, 60, 40]))
    size = {"min_scale": 0.5, "max_scale": 0.5}
    out = make_pipeline(crop=plain_crop(**size, min_coverage=0.1, min_objects=1))(sample, KEY)
    assert (out.telemetry["crop/shown"], out.telemetry["crop/coverage"]) == (2, 0.5)
    assert rates(out.telemetry)["augment/crop/coverage"] == 0.25
    gone = make_pipeline(crop=plain_crop(**size, min_coverage=0.3, min_objects=0))(sample, KEY)
    assert (gone.telemetry["crop/coverage"], gone.telemetry["objects/dropped"]) == (0, 2)
    assert rates(gone.telemetry)["augment/objects/dropped"] == 1


def test_moves_that_no_barrier_follows_are_cut_at_the_end(make_pipeline, make_sample):
    out = make_pipeline(turn=Turn())(make_sample(size=(60, 40)), KEY)
    expected = 1 - frame_area(rotation_matrix(30, (30, 20)), 60, 40, 60, 40) / 2400
    assert rates(out.telemetry)["augment/moves/padding"] == pytest.approx(expected)
    fits = make_pipeline(turn=Turn(), expand=op("expand_to_fit_affine"))(make_sample(size=(60, 40)), KEY)
    canvas = np.prod(fits.size())
    assert rates(fits.telemetry)["augment/expand/padding"] == pytest.approx(1 - 2400 / canvas)
    assert not any(key.startswith("moves/") for key in fits.telemetry)


def test_rates_are_shares_of_what_was_asked_shown_and_seen():
    sums = {
        "rotate/applied": 3,
        "rotate/skipped": 5,
        "rotate/not_drawn": 4,
        "rotate/drops_object": 1,
        "pad/applied": 4,
        "pad/cuts": 4,
        "pad/padding": 1,
        "crop/shown": 8,
        "crop/coverage": 6,
        "objects/seen": 20,
        "objects/dropped": 5,
        "bypass/applied": 1,
        "bypass/skipped": 9,
        "hflip/applied": 2,
        "hflip/changed_texts": 6,
        "relabel/changed_descs": 4,
    }
    assert rates(sums) == {
        "augment/rotate/applied": 3 / 8,
        "augment/rotate/not_drawn": 4 / 8,
        "augment/rotate/drops_object": 1 / 8,
        "augment/pad/applied": 1,
        "augment/pad/padding": 1 / 4,
        "augment/crop/coverage": 6 / 8,
        "augment/objects/dropped": 5 / 20,
        "augment/bypass/applied": 1 / 10,
        "augment/hflip/applied": 1,
        "augment/hflip/changed_texts": 3,
        "augment/relabel/changed_descs": 4 / 20,
    }


def test_what_was_never_counted_has_no_rate():
    assert rates({"objects/seen": 0, "objects/dropped": 0, "crop/shown": 0, "crop/coverage": 0}) == {}


def test_sums_are_added_name_by_name():
    assert added([{"a/x": 1, "b/y": 0.5}, {}, {"a/x": 2}]) == {"a/x": 3, "b/y": 0.5}


def test_bypassed_samples_are_counted_against_all(make_pipeline, make_sample):
    pipeline = make_pipeline(hflip=op("hflip"), pad=op("pad_to_multiple", multiple=8), bypass_prob=0.5)
    outs = [pipeline(make_sample(), (0, 0, index)).telemetry for index in range(40)]
    total = added(outs)
    assert total["bypass/applied"] + total["bypass/skipped"] == 40
    assert rates(total)["augment/bypass/applied"] == total["bypass/applied"] / 40
    assert total["hflip/applied"] == total["bypass/skipped"]


def test_a_pipeline_that_never_bypasses_says_nothing_of_it(make_pipeline, make_sample):
    out = make_pipeline(rotate=op("rotate", p=0.0, max_rotation_degrees=0.0))(make_sample(), KEY)
    assert not any(key.startswith("bypass/") for key in out.telemetry)
