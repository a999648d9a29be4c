"""The curriculum: values between two points by their definition; phases that cannot be meant are refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qcvl.augment.actions import NOT_DRAWN, Probability, Skip
from qcvl.augment.color import ColorJitter
from qcvl.augment.schedule import Phase
from qcvl.errors import ConfigError
from qcvl.schema.settings import settings
from tests.augment.ops import op, plain_crop

STEPS = 200
JITTER = ColorJitter(p=0.5, brightness=(0.9, 1.1), contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=(0.0, 0.0))
KEY = (0, 0, 0)


def phase(start, end, **ramps):
    """``phase("0%", "50%", rotate__p=[0, 1])``: a phase; a double underscore stands for the dot."""
    return Phase(start=start, end=end, ramps={name.replace("__", "."): values for name, values in ramps.items()})


@pytest.fixture
def at(make_pipeline):
    """``at(step, phase, …)``: rotation, colours and padding as the phases make them at one of 200 steps."""

    def make(step, *phases, steps=STEPS):
        ops = {
            "rotate": op("rotate", p=0.5, max_rotation_degrees=15.0),
            "jitter": JITTER,
            "pad": op("pad_to_multiple", multiple=4),
        }
        return make_pipeline(phases=phases, **ops).at(step, steps)

    return make


@given(step=st.integers(0, STEPS - 1))
def test_between_its_points_a_parameter_is_on_the_line_through_both_values(step):
    ramp = phase("10%", "60%", rotate__p=[0.2, 0.8])
    x = step / STEPS
    expected = np.interp(x, [0.1, 0.6], [0.2, 0.8])
    assert ramp.value("rotate.p", x) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("step", "degrees"), [(0, 0.0), (20, 0.0), (70, 15.0), (120, 30.0), (199, 30.0)])
def test_steps_and_percent_of_the_run_are_the_same_points(at, step, degrees):
    for start, end in ((20, 120), ("10%", "60%")):
        pipeline = at(step, phase(start, end, rotate__max_rotation_degrees=[0, 30]))
        assert pipeline.ops["rotate"].max_rotation_degrees == pytest.approx(degrees)
        assert pipeline.ops["rotate"].p == 0.5 and pipeline.ops["jitter"] == JITTER


def test_points_in_steps_do_not_need_to_know_how_long_the_run_is(at):
    assert at(70, phase(20, 120, rotate__p=[0, 1]), steps=None).ops["rotate"].p == 0.5


def test_points_in_percent_of_an_endless_run_are_refused(at):
    ramp = phase("0%", "50%", rotate__p=[0, 1])
    assert at(0, ramp, steps=None).ops["rotate"].p == 0
    with pytest.raises(ConfigError, match=r"in percent of a run without an end; set trainer\.max_steps"):
        at(1, ramp, steps=None)


def test_later_phases_take_over_and_hold_their_last_value(at):
    phases = [phase(100, 150, rotate__p=[0.6, 1.0]), phase(10, 20, rotate__p=[0.0, 0.4])]
    values = {step: at(step, *phases).ops["rotate"].p for step in (0, 15, 20, 99, 100, 125, 150, 199)}
    assert values == pytest.approx({0: 0, 15: 0.2, 20: 0.4, 99: 0.4, 100: 0.6, 125: 0.8, 150: 1.0, 199: 1.0})


def test_equal_points_are_a_jump(at):
    jump = phase(50, 50, rotate__p=[0.1, 0.9])
    assert [at(step, jump).ops["rotate"].p for step in (0, 49, 50, 51)] == [0.1, 0.1, 0.9, 0.9]


def test_ranges_whole_numbers_and_the_pipelines_own_numbers_move_as_well(at):
    ramp = phase(0, 100, jitter__brightness=[[1, 1], [0.6, 1.4]], pad__multiple=[4, 32], bypass_prob=[1, 0])
    half = at(50, ramp)
    assert half.ops["jitter"].brightness == pytest.approx((0.8, 1.2))
    assert half.ops["pad"].multiple == 18 and isinstance(half.ops["pad"].multiple, int)
    assert half.bypass_prob == 0.5 and half.phases == []


def test_without_phases_the_pipeline_is_itself(make_pipeline):
    pipeline = make_pipeline(hflip=op("hflip", p=0.5))
    assert pipeline.at(7, None) is pipeline


def test_a_ramp_takes_effect_in_the_course_of_a_run(make_pipeline, make_sample):
    pipeline = make_pipeline(hflip=op("hflip", p=0.9), phases=[phase("0%", "100%", hflip__p=[0, 1])])
    sample = make_sample(size=(4, 4))

    def share(step):
        applied = [pipeline.at(step, 10)(sample, (0, 0, i)).telemetry.get("hflip/applied", 0) for i in range(300)]
        return sum(applied) / 300

    assert share(0) == 0
    assert abs(share(5) - 0.5) < 4 * (0.25 / 300) ** 0.5
    assert share(9) > 0.8


def test_where_a_value_is_the_same_the_draws_are_too(make_pipeline, make_sample):
    fixed = make_pipeline(rotate=op("rotate", p=0.5, max_rotation_degrees=20.0))
    ramped = make_pipeline(
        rotate=op("rotate", p=0.5, max_rotation_degrees=3.0), phases=[phase(0, 9, rotate__max_rotation_degrees=[0, 20])]
    )
    for index in range(20):
        expected, found = (one(make_sample(), (0, 0, index)) for one in (fixed, ramped.at(9, None)))
        assert np.array_equal(expected.images[0], found.images[0])


@settings
class Foreign:
    """An op from outside the package, with a number and a flag."""

    p: Probability
    loud: bool

    def draw(self, view, rng):
        """Nothing."""
        return Skip(NOT_DRAWN)


def test_an_op_from_outside_the_package_is_ramped_by_its_numbers_alone(make_pipeline):
    ops = {"foreign": Foreign(p=0.5, loud=True)}
    pipeline = make_pipeline(phases=[phase(0, 10, foreign__p=[0, 1])], **ops)
    assert pipeline.at(5, None).ops["foreign"] == Foreign(p=0.5, loud=True)
    with pytest.raises(ConfigError, match=r"phases\[0\]\.ramps\.foreign\.loud: no number of the pipeline"):
        make_pipeline(phases=[phase(0, 10, foreign__loud=[0, 1])], **ops)


WRONG = [
    ([phase(0, 9, rotatee__p=[0, 1])], r"phases\[0\]\.ramps\.rotatee\.p: no number .* did you mean 'rotate\.p'"),
    ([phase(0, 9, rotate__prob=[0, 1])], r"ramps\.rotate\.prob: no number .* did you mean 'rotate\.p'"),
    ([phase(0, 9, bypas_prob=[0, 1])], r"did you mean 'bypass_prob'"),
    ([phase(0, 9, crop__p=[0, 1])], r"ramps\.crop\.p: 'crop' is not enabled.* add it to augment\.order"),
    ([phase(0, 9, rotate__p=[0, 1.5])], r"ramps\.rotate\.p: 1\.5: Input should be less than or equal to 1"),
    ([phase(0, 9, bypass_prob=[-0.5, 1])], r"ramps\.bypass_prob: -0\.5: Input should be greater than or equal to 0"),
    ([phase(0, 9, rotate__p=[[0, 1], [0, 1]])], r"ramps\.rotate\.p: goes from .* each must be a number, like 0\.5"),
    ([phase(0, 9, jitter__brightness=[0, 1])], r"each must be a range of 2 numbers, like \[0\.9, 1\.1\]"),
    (
        [phase(0, 9, rotate__p=[0, 1]), phase(5, 12, rotate__p=[1, 0])],
        r"phases\[1\]\.ramps\.rotate\.p: overlaps augment\.phases\[0\], which ends at 9; start there or later",
    ),
    ([phase(5, 5, rotate__p=[0, 1]), phase(5, 9, rotate__p=[1, 0])], r"overlaps augment\.phases\[0\]"),
    ([phase(0, 9, rotate__p=[0, 1]), phase("5%", "9%", bypass_prob=[1, 0])], "give all in one unit"),
]


@pytest.mark.parametrize(("phases", "message"), WRONG)
def test_phases_that_cannot_be_meant_are_refused_by_name(make_pipeline, phases, message):
    crop = plain_crop(p=0.5, min_scale=0.5, max_scale=1.0, min_coverage=0.3, min_objects=1)
    ops = {"rotate": op("rotate", p=0.5, max_rotation_degrees=15.0), "jitter": JITTER, "crop": crop}
    with pytest.raises(ConfigError, match=message):
        make_pipeline(phases=phases, order=["rotate", "jitter"], **ops)


def test_two_ramps_that_cross_a_rule_of_their_op_are_refused(make_pipeline):
    crop = plain_crop(p=0.5, min_scale=0.5, max_scale=1.0, min_coverage=0.3, min_objects=1)
    with pytest.raises(ConfigError, match=r"min_scale 0\.9 is above max_scale 0\.6"):
        make_pipeline(crop=crop, phases=[phase(0, 9, crop__min_scale=[0.5, 0.9], crop__max_scale=[1.0, 0.6])])


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(0, "50%", "both in steps or both in percent"), (9, 5, "behind its end"), ("60%", "50%", "behind its end")],
)
def test_points_that_are_no_course_are_refused(start, end, message):
    with pytest.raises(ConfigError, match=message):
        phase(start, end, rotate__p=[0, 1])


@pytest.mark.parametrize("point", ["101%", "-3%", "5 %", -1, "half"])
def test_a_point_is_a_step_or_a_share_of_the_run(point):
    with pytest.raises(ValidationError):
        phase(point, point, rotate__p=[0, 1])


def test_a_phase_without_ramps_is_refused():
    with pytest.raises(ValidationError, match="at least 1 item"):
        Phase(start=0, end=1, ramps={})
