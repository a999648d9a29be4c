"""What becomes of objects: cut, counted, dropped, split, renumbered and re-sorted."""

from dataclasses import dataclass

import numpy as np
import pytest

from qcvl.augment.actions import Move, Reframe
from qcvl.geometry.affine import rotation_matrix, translation_matrix
from qcvl.geometry.overlap import iou
from qcvl.geometry.shapes import Shape
from tests.augment.ops import op, plain_crop

KEY = (0, 0, 0)


@dataclass(frozen=True)
class Crop:
    """A crop to a fixed window."""

    window: tuple[int, int, int, int]
    min_coverage: float | None = None

    def draw(self, view, rng):
        x1, y1, x2, y2 = self.window
        return Reframe(window=self.window, width=x2 - x1, height=y2 - y1, min_coverage=self.min_coverage)


@dataclass(frozen=True)
class Shift:
    """A move to the right."""

    dx: float

    def draw(self, view, rng):
        return Move(translation_matrix(self.dx, 0))


@dataclass(frozen=True)
class Turn:
    """A rotation about the centre."""

    degrees: float

    def draw(self, view, rng):
        return Move(rotation_matrix(self.degrees, view.center))


def shapes(sample):
    return [annotation.shape for annotation in sample.annotations]


def test_hflip_maps_x_to_width_minus_x(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [10, 20, 30, 40]), size=(100, 50))
    out = make_pipeline(hflip=op("hflip"))(sample, KEY)
    assert shapes(out) == [Shape("bbox_2d", [70, 20, 90, 40])]
    assert (out.kept_indices, out.coverages) == ((0,), (1.0,))


def test_a_pipeline_without_ops_returns_the_same_pixels_and_coordinates(make_pipeline, make_sample):
    odd = ("quad", [50.3, 30.1, 10.7, 5.2, 30, 3, 20, 39])  # not canonical, crossing itself
    sample = make_sample(odd, ("bbox_2d", [0, 0, 60, 40]), ("line", [70, 10, 5, 5]))
    out = make_pipeline()(sample, KEY)
    assert out.images[0] is sample.images[0]
    assert out.annotations == sample.annotations
    assert out.kept_indices == (0, 1, 2)


def test_objects_are_sorted_anew_after_a_flip_and_keep_their_index(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [5, 5, 10, 10]), ("bbox_2d", [30, 5, 40, 10]), ("bbox_2d", [0, 20, 9, 30]))
    out = make_pipeline(hflip=op("hflip"))(sample, KEY)
    assert out.kept_indices == (1, 0, 2)
    assert [annotation.desc for annotation in out.annotations] == ["part 1", "part 0", "part 2"]


def test_moved_polygons_and_lines_are_canonical_again(make_pipeline, make_sample):
    sample = make_sample(("poly", [10, 10, 30, 10, 30, 20]), ("line", [5, 30, 50, 35]))
    polygon, line = shapes(make_pipeline(hflip=op("hflip"))(sample, KEY))
    assert polygon.points.tolist() == [[30, 10], [50, 10], [30, 20]]  # clockwise, from the smallest x + y
    assert line.points.tolist() == [[10, 35], [55, 30]]  # from the left end


def test_an_object_that_left_the_frame_is_gone_and_counted(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [50, 10, 58, 20]), ("bbox_2d", [5, 20, 15, 30]))
    out = make_pipeline(shift=Shift(20))(sample, KEY)
    assert out.kept_indices == (1,)
    assert out.telemetry["objects/dropped"] == 1


@pytest.mark.parametrize(("min_coverage", "kept"), [(0.24, (0,)), (0.26, ())])
def test_an_object_cut_below_min_coverage_is_gone(make_pipeline, make_sample, min_coverage, kept):
    sample = make_sample(("bbox_2d", [20, 10, 40, 20]))
    out = make_pipeline(crop=Crop((0, 0, 25, 40)), min_coverage=min_coverage)(sample, KEY)
    assert out.kept_indices == kept  # 5 of 20 columns are left
    assert out.coverages == ((0.25,) if kept else ())


def test_an_op_may_set_its_own_min_coverage_and_later_ops_respect_it(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [20, 10, 40, 20]))
    out = make_pipeline(crop=Crop((0, 0, 25, 40), min_coverage=0.1), hflip=op("hflip"), min_coverage=0.9)(sample, KEY)
    assert shapes(out) == [Shape("bbox_2d", [0, 10, 5, 20])]


def test_coverage_is_composed_over_barriers_and_judged_against_the_original(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 40, 40]))
    halves = {"left": Crop((0, 0, 20, 40)), "top": Crop((0, 0, 20, 20))}
    assert make_pipeline(**halves, min_coverage=0.2)(sample, KEY).coverages == (0.25,)
    assert make_pipeline(**halves, min_coverage=0.3)(sample, KEY).coverages == ()


def test_coverage_of_an_earlier_pipeline_is_continued(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [50, 0, 60, 10]), ("bbox_2d", [0, 0, 40, 40]))
    first = make_pipeline(crop=Crop((0, 0, 20, 40)))(sample, KEY)
    second = make_pipeline(crop=Crop((0, 0, 20, 20)))(first, KEY)
    assert (second.kept_indices, second.coverages) == ((1,), (0.25,))
    assert second.telemetry["crop/applied"] == 2


def test_a_line_that_leaves_and_reenters_becomes_its_two_visible_parts(make_pipeline, make_sample):
    sample = make_sample(("line", [10, 10, 150, 10, 150, 50, 10, 50]), size=(200, 100))
    out = make_pipeline(crop=Crop((0, 0, 100, 100)))(sample, KEY)
    assert shapes(out) == [Shape("line", [10, 10, 100, 10]), Shape("line", [10, 50, 100, 50])]
    assert out.kept_indices == (0, 0)
    assert out.coverages == pytest.approx((180 / 320, 180 / 320))
    assert out.telemetry["objects/dropped"] == 0


def test_the_parts_of_a_line_are_judged_together_at_a_second_cut(make_pipeline, make_sample):
    sample = make_sample(("line", [10, 10, 150, 10, 150, 50, 50, 50]), size=(200, 100))  # 90 and 50 of 280 show
    cuts = {"crop": Crop((0, 0, 100, 100)), "again": Crop((0, 0, 100, 30))}  # the lower part leaves
    assert make_pipeline(**cuts, min_coverage=0.25)(sample, KEY).coverages == pytest.approx((90 / 280,))
    assert make_pipeline(**cuts, min_coverage=0.35)(sample, KEY).annotations == ()


def test_a_quad_cut_to_five_corners_is_its_min_area_quad(make_pipeline, make_sample):
    diamond = ("quad", [30, 0, 60, 20, 30, 40, 0, 20])
    out = make_pipeline(crop=Crop((10, 0, 60, 40)))(make_sample(diamond), KEY)
    (shape,) = shapes(out)
    assert shape.kind == "quad"
    x1, y1, x2, y2 = shape.bounds
    assert min(x1, y1, 50 - x2, 40 - y2) >= 0
    visible = [0, 20 - 20 / 3, 20, 0, 50, 20, 20, 40, 0, 20 + 20 / 3]  # cut at x = 10, a third along two sides
    assert iou(shape, np.array(visible).reshape(-1, 2)) > 0.7


def test_two_cuts_of_a_quad_fit_one_quad_around_what_is_truly_visible(make_pipeline, make_sample):
    diamond = ("quad", [30, 0, 60, 20, 30, 40, 0, 20])
    once = make_pipeline(crop=Crop((10, 5, 50, 40)))(make_sample(diamond), KEY)
    twice = make_pipeline(first=Crop((10, 0, 60, 40)), second=Crop((0, 5, 40, 40)))(make_sample(diamond), KEY)
    assert shapes(once)[0].points == pytest.approx(shapes(twice)[0].points)


def test_moves_act_in_the_order_they_are_named(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [10, 10, 20, 14]), size=(40, 40))
    ops = {"shift": Shift(5), "turn": Turn(90)}  # the turn maps (x, y) to (40 - y, x)
    assert shapes(make_pipeline(**ops)(sample, KEY)) == [Shape("bbox_2d", [26, 15, 30, 25])]
    assert shapes(make_pipeline(**ops, order=["turn", "shift"])(sample, KEY)) == [Shape("bbox_2d", [31, 10, 35, 20])]


def test_a_box_becomes_a_quad_when_turned_and_stays_a_box_when_not(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [25, 15, 35, 25]))
    assert shapes(make_pipeline(turn=Turn(10))(sample, KEY))[0].kind == "quad"
    assert shapes(make_pipeline(turn=Turn(180))(sample, KEY)) == [Shape("bbox_2d", [25, 15, 35, 25])]


def test_a_full_frame_box_stays_full_frame_through_flips_and_half_turns(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 61, 41]), size=(61, 41))
    out = make_pipeline(flip=op("hflip"), turn=Turn(180), tilt=Turn(360 / 7), back=Turn(-360 / 7))(sample, KEY)
    assert out.annotations[0].shape.bounds == pytest.approx((0, 0, 61, 41))
    assert out.coverages == (1.0,)


def test_a_shape_beyond_the_photo_is_cut_to_the_photo_before_it_moves(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [-10, 0, 10, 10]), size=(60, 40))
    out = make_pipeline(shift=Shift(20))(sample, KEY)
    assert shapes(out) == [Shape("bbox_2d", [20, 0, 30, 10])]  # columns 10..20 are fill, not photo
    assert out.coverages == (0.5,)


def test_a_point_sized_object_survives_inside_and_goes_outside(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [5, 5, 5, 5]), ("bbox_2d", [50, 5, 50, 5]))
    out = make_pipeline(crop=Crop((0, 0, 20, 20)))(sample, KEY)
    assert (out.kept_indices, out.coverages) == ((0,), (1.0,))


def test_objects_stay_with_their_photo(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 9, 10, 10]), ("bbox_2d", [0, 0, 10, 5]), images=[0, 1], photos=2)
    out = make_pipeline(crop=Crop((0, 0, 30, 8)))(sample, KEY)
    assert [(annotation.image, annotation.desc) for annotation in out.annotations] == [(1, "part 1")]
    assert [out.size(0), out.size(1)] == [(30, 8), (30, 8)]


def test_reading_order_is_photo_by_photo(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 20, 10, 30]), ("bbox_2d", [0, 0, 10, 5]), images=[0, 1], photos=2)
    out = make_pipeline(pad=op("pad_to_multiple", multiple=32))(sample, KEY)
    assert out.kept_indices == (0, 1)


def test_a_crop_holds_the_wanted_number_of_objects(make_pipeline, make_sample):
    corners = [("bbox_2d", [0, 0, 6, 6]), ("bbox_2d", [54, 0, 60, 6]), ("bbox_2d", [0, 34, 6, 40])]
    crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.5, min_objects=1)
    pipeline = make_pipeline(crop=crop)
    outs = [pipeline(make_sample(*corners), (seed, 0, 0)) for seed in range(60)]
    cropped = [out for out in outs if out.telemetry.get("crop/applied")]
    assert cropped
    assert all(out.annotations and min(out.coverages) >= 0.5 for out in cropped)


def test_a_crop_that_cannot_hold_the_objects_is_skipped_with_the_reason(make_pipeline, make_sample):
    sample = make_sample(("bbox_2d", [0, 0, 6, 6]), ("bbox_2d", [54, 34, 60, 40]))
    crop = plain_crop(min_scale=0.5, max_scale=0.5, min_coverage=0.5, min_objects=2)
    out = make_pipeline(crop=crop)(sample, KEY)
    assert out.images[0] is sample.images[0]
    assert (out.telemetry["crop/skipped"], out.telemetry["crop/min_objects"]) == (1, 1)
