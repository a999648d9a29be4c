"""The pipeline's promises: draws from the key alone, explicit order, refusals with reasons, telemetry."""

import numpy as np
import pytest
from pydantic import ValidationError

from qcvl.augment.actions import NOT_DRAWN, Recolor, Skip
from qcvl.augment.color import ColorJitter, Gamma
from qcvl.augment.words import mentions
from qcvl.errors import ConfigError
from tests.augment.ops import op, plain_crop

KEY = (0, 0, 0)
JITTER = ColorJitter(p=1.0, brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(0.0, 0.0))
ROTATE = op("rotate", p=0.5, max_rotation_degrees=15.0)
SCALE = op("scale", p=0.5, min_scale=0.8, max_scale=1.25)
CROP = plain_crop(p=0.5, min_scale=0.6, max_scale=1.0, min_coverage=0.3, min_objects=1)
BOX = ("bbox_2d", [20, 10, 40, 30])


class Probe:
    """An op that only writes down its first draw."""

    def __init__(self):
        self.seen = []

    def draw(self, view, rng):
        self.seen.append(rng.random())
        return Skip("probe")


def same(a, b):
    pixels = all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    return pixels and a.annotations == b.annotations and a.telemetry == b.telemetry


def test_the_same_key_gives_the_same_sample_in_a_new_pipeline(make_pipeline, make_sample):
    ops = {"rotate": ROTATE, "scale": SCALE, "crop": CROP, "jitter": JITTER}
    for index in range(20):
        first = make_pipeline(**ops)(make_sample(BOX), (3, 1, index))
        assert same(first, make_pipeline(**ops)(make_sample(BOX), (3, 1, index)))


@pytest.mark.parametrize("key", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_seed_epoch_and_index_each_change_the_draw(make_pipeline, make_sample, key):
    probe = Probe()
    pipeline = make_pipeline(probe=probe)
    pipeline(make_sample(), KEY)
    pipeline(make_sample(), key)
    assert probe.seen[0] != probe.seen[1]


def test_draws_do_not_depend_on_what_was_drawn_before(make_pipeline, make_sample):
    pipeline = make_pipeline(rotate=ROTATE, jitter=JITTER)
    alone = pipeline(make_sample(BOX), (0, 0, 9))
    for index in range(9):
        pipeline(make_sample(BOX), (0, 0, index))
    np.random.default_rng().random()
    assert same(pipeline(make_sample(BOX), (0, 0, 9)), alone)


def test_an_op_added_at_the_end_leaves_the_draws_of_the_earlier_ones(make_pipeline, make_sample):
    probes = Probe(), Probe()
    make_pipeline(rotate=ROTATE, probe=probes[0])(make_sample(BOX), KEY)
    make_pipeline(rotate=ROTATE, probe=probes[1], scale=SCALE, jitter=JITTER)(make_sample(BOX), KEY)
    assert probes[0].seen == probes[1].seen


def test_two_positions_of_one_op_draw_apart(make_pipeline, make_sample):
    probe = Probe()
    make_pipeline(order=["probe", "probe"], probe=probe)(make_sample(), KEY)
    assert probe.seen[0] != probe.seen[1]


def test_p_is_the_share_of_samples_an_op_is_applied_to(make_pipeline, make_sample):
    pipeline = make_pipeline(hflip=op("hflip", p=0.3))
    sample = make_sample(size=(4, 4))
    applied = sum(pipeline(sample, (0, 0, index)).telemetry.get("hflip/applied", 0) for index in range(1000))
    assert abs(applied - 300) < 4 * (1000 * 0.3 * 0.7) ** 0.5  # four standard deviations


def test_order_matters(make_pipeline, make_sample):
    ops = {"hflip": op("hflip"), "pad": op("pad_to_multiple", multiple=32)}
    flipped_first = make_pipeline(**ops, order=["hflip", "pad"])(make_sample(BOX), KEY)
    padded_first = make_pipeline(**ops, order=["pad", "hflip"])(make_sample(BOX), KEY)
    assert (flipped_first.images[0][:, 60:] == 128).all()  # padding on the right
    assert (padded_first.images[0][:, :4] == 128).all()  # and mirrored to the left
    assert flipped_first.annotations[0].shape.bounds == (20, 10, 40, 30)
    assert padded_first.annotations[0].shape.bounds == (24, 10, 44, 30)


def test_only_ops_named_in_order_run(make_pipeline, make_sample):
    out = make_pipeline(hflip=op("hflip"), vflip=op("vflip"), order=["vflip"])(make_sample(BOX), KEY)
    assert {key.split("/")[0] for key in out.telemetry} == {"vflip", "moves", "objects"}


def test_colours_run_after_the_padding_wherever_they_stand(make_pipeline, make_sample):
    seen = []

    class Watch:
        def draw(self, view, rng):
            return Recolor(lambda image: seen.append(image.shape) or image)

    make_pipeline(watch=Watch(), pad=op("pad_to_multiple", multiple=32))(make_sample(size=(60, 40)), KEY)
    assert seen == [(64, 64, 3)]


def test_colours_change_pixels_and_not_one_coordinate(make_pipeline, make_sample):
    sample = make_sample(BOX, ("line", [55.25, 3.5, 2, 39]))
    out = make_pipeline(jitter=JITTER, gamma=Gamma(p=1.0, gamma=(0.8, 0.9)))(sample, KEY)
    assert out.annotations == sample.annotations
    assert out.images[0].dtype == np.uint8
    assert not np.array_equal(out.images[0], sample.images[0])


def test_gamma_is_the_power_curve(make_pipeline, make_sample):
    sample = make_sample()
    out = make_pipeline(gamma=Gamma(p=1.0, gamma=(2.0, 2.0)))(sample, KEY)
    expected = 255 * (sample.images[0] / 255.0) ** 2
    assert np.abs(out.images[0] - expected).max() <= 1


def test_colour_jitter_with_all_factors_one_changes_nothing(make_pipeline, make_sample):
    still = ColorJitter(p=1.0, brightness=(1.0, 1.0), contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=(0.0, 0.0))
    sample = make_sample()
    assert np.array_equal(make_pipeline(jitter=still)(sample, KEY).images[0], sample.images[0])


def test_the_input_photo_is_never_written_to(make_pipeline, make_sample):
    sample = make_sample(BOX)
    before = sample.images[0].copy()
    make_pipeline(hflip=op("hflip"), pad=op("pad_to_multiple", multiple=32), jitter=JITTER)(sample, KEY)
    assert np.array_equal(sample.images[0], before)


def test_bypass_leaves_that_share_of_samples_untouched(make_pipeline, make_sample):
    pipeline = make_pipeline(hflip=op("hflip"), bypass_prob=0.25)
    sample = make_sample(BOX)
    outs = [pipeline(sample, (0, 0, index)) for index in range(400)]
    bypassed = [out for out in outs if out.telemetry.get("bypass/applied")]
    assert abs(len(bypassed) - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5
    assert all(out.annotations == sample.annotations and out.images[0] is sample.images[0] for out in bypassed)
    assert all(out.kept_indices == (0,) and "hflip/applied" not in out.telemetry for out in bypassed)


def test_telemetry_counts_applied_and_skipped_with_the_reason(make_pipeline, make_sample):
    ops = {"hflip": op("hflip"), "vflip": op("vflip", p=0.0)}
    ops |= {"pad": op("pad_to_multiple", multiple=20), "expand": op("expand_to_fit_affine", multiple=1)}
    out = make_pipeline(**ops)(make_sample(photos=2), KEY)
    assert out.telemetry == {
        "hflip/applied": 2,
        "vflip/skipped": 2,
        f"vflip/{NOT_DRAWN}": 2,
        "pad/skipped": 2,
        "pad/already_multiple": 2,
        "expand/skipped": 2,
        "expand/already_fits": 2,
        "moves/cuts": 2,
        "moves/padding": 0,
        "moves/shown": 0,
        "moves/coverage": 0,
        "objects/seen": 0,
        "objects/dropped": 0,
    }


@pytest.mark.parametrize("text", ["左侧螺丝", "螺丝/位置:右", "Left cable", "cable on the RIGHT", "left_panel"])
@pytest.mark.parametrize("where", ["desc", "summary"])
def test_hflip_is_refused_where_the_text_says_left_or_right(make_pipeline, make_sample, text, where):
    words = {"descs": [text]} if where == "desc" else {"summary": text}
    sample = make_sample(BOX, **words)
    out = make_pipeline(hflip=op("hflip"))(sample, KEY)
    assert out.images[0] is sample.images[0]
    assert (out.telemetry["hflip/skipped"], out.telemetry["hflip/directional_text"]) == (1, 1)


@pytest.mark.parametrize("text", ["bright cable", "copyright label", "leftover solder", "螺丝/状态:完好"])
def test_words_that_only_contain_a_direction_do_not_count(text):
    assert not mentions([text], [("左", "右"), ("left", "right")])


def test_a_turn_does_not_mind_left_and_right(make_pipeline, make_sample):
    rotate = op("rotate", max_rotation_degrees=10.0)
    assert make_pipeline(rotate=rotate)(make_sample(BOX, descs=["左侧"]), KEY).telemetry["rotate/applied"] == 1


def test_vflip_is_refused_where_the_text_says_above_or_below(make_pipeline, make_sample):
    out = make_pipeline(vflip=op("vflip"))(make_sample(BOX, descs=["上方端口"]), KEY)
    assert out.telemetry["vflip/directional_text"] == 1


def test_a_summary_sample_keeps_every_object(make_pipeline, make_sample):
    corners = [("bbox_2d", [0, 0, 8, 8]), ("bbox_2d", [52, 32, 60, 40]), BOX]
    ops = {
        "scale": op("scale", min_scale=0.9, max_scale=2.0),
        "crop": plain_crop(min_scale=0.5, max_scale=1.0, min_coverage=0.3, min_objects=1),
        "hflip": op("hflip"),
    }
    outs = {
        task: [
            make_pipeline(**ops)(make_sample(*corners, task=task, summary="three parts"), (0, 0, index))
            for index in range(40)
        ]
        for task in ("dense", "summary")
    }
    assert any(len(out.annotations) < 3 for out in outs["dense"])  # the ops do drop objects where they may
    assert all(sorted(out.kept_indices) == [0, 1, 2] for out in outs["summary"])
    assert all(out.telemetry["hflip/applied"] == 1 for out in outs["summary"])
    assert any(out.telemetry.get("crop/drops_object") for out in outs["summary"])
    assert any(out.telemetry.get("crop/applied") for out in outs["summary"])


def test_a_summary_sample_without_objects_keeps_the_whole_photo(make_pipeline, make_sample):
    ops = {
        "scale": op("scale", min_scale=1.1, max_scale=1.2),
        "hflip": op("hflip"),
        "pad": op("pad_to_multiple", multiple=32),
    }
    out = make_pipeline(**ops, min_coverage=0.0)(make_sample(task="summary", summary="two parts"), KEY)
    assert out.telemetry["scale/drops_object"] == 1
    assert out.telemetry["hflip/applied"] == out.telemetry["pad/applied"] == 1
    assert (out.annotations, out.telemetry["objects/dropped"]) == ((), 0)


def test_a_chat_sample_only_gets_colours(make_pipeline, make_sample):
    sample = make_sample(task="chat", size=(61, 41))
    pipeline = make_pipeline(hflip=op("hflip"), pad=op("pad_to_multiple", multiple=32), jitter=JITTER)
    out = pipeline(sample, KEY)
    assert out.size() == (61, 41)
    assert out.telemetry["hflip/chat_text"] == out.telemetry["pad/chat_text"] == 1
    assert out.telemetry["jitter/applied"] == 1


def angle_of(sample, image):
    """Degrees by which the quad of one photo was turned."""
    (annotation,) = [annotation for annotation in sample.annotations if annotation.image == image]
    edges = np.diff(annotation.shape.outline, axis=0)
    longest = edges[np.hypot(*edges.T).argmax()]
    return np.degrees(np.arctan2(longest[1], longest[0])) % 180


@pytest.mark.parametrize("share_draw", [True, False])
def test_photos_of_one_sample_share_draws_only_when_told_to(make_pipeline, make_sample, share_draw):
    wide = ("bbox_2d", [10, 15, 50, 25])
    sample = make_sample(wide, wide, images=[0, 1], photos=2)
    pipeline = make_pipeline(rotate=op("rotate", max_rotation_degrees=15.0), share_draw=share_draw)
    angles = [[angle_of(pipeline(sample, (0, 0, index)), image) for image in (0, 1)] for index in range(5)]
    assert [bool(a == pytest.approx(b)) for a, b in angles] == [share_draw] * 5


def test_shared_photos_are_flipped_together_or_not_at_all(make_pipeline, make_sample):
    sample = make_sample(BOX, BOX, images=[0, 1], photos=2, descs=["screw", "left screw"])
    shared = make_pipeline(hflip=op("hflip"), share_draw=True)(sample, KEY)
    apart = make_pipeline(hflip=op("hflip"), share_draw=False)(sample, KEY)
    assert shared.telemetry["hflip/directional_text"] == 1
    assert [shared.images[i] is sample.images[i] for i in (0, 1)] == [True, True]
    assert [apart.images[i] is sample.images[i] for i in (0, 1)] == [False, True]


def test_shared_photos_of_two_sizes_still_turn_by_the_same_angle(make_pipeline, make_sample):
    wide = ("bbox_2d", [10, 15, 50, 25])
    sample = make_sample(wide, wide, images=[0, 1], photos=2)
    taller = type(sample)(
        images=(sample.images[0], np.zeros((80, 60, 3), np.uint8)), annotations=sample.annotations, task="dense"
    )
    out = make_pipeline(rotate=op("rotate", max_rotation_degrees=15.0), share_draw=True)(taller, KEY)
    assert angle_of(out, 0) == pytest.approx(angle_of(out, 1))


def test_an_unknown_name_in_order_is_refused_with_the_nearest_one(make_pipeline):
    with pytest.raises(ConfigError, match=r"'hflp', which augment.ops does not have \(it has hflip, rotate\).*'hflip'"):
        make_pipeline(hflip=op("hflip"), rotate=ROTATE, order=["hflp"])


def test_an_unknown_name_without_any_ops_says_that_there_are_none(make_pipeline):
    with pytest.raises(ConfigError, match=r"'hflip'.*it has none.*add its settings under augment.ops"):
        make_pipeline(order=["hflip"])


def test_an_op_without_draw_is_refused(make_pipeline):
    with pytest.raises(ValidationError, match="Op"):
        make_pipeline(wrong=object())


def test_an_op_that_answers_nothing_is_named(make_pipeline, make_sample):
    class Silent:
        def draw(self, view, rng):
            return None

    with pytest.raises(ConfigError, match=r"augment.ops.silent: draw\(\) of Silent returned None"):
        make_pipeline(silent=Silent())(make_sample(), KEY)


@pytest.mark.parametrize(
    ("name", "what"),
    [("scale", "scale"), ("resize_by_scale", "scale"), ("random_crop", "scale"), ("random_crop", "aspect")],
)
def test_a_range_the_wrong_way_round_is_refused(name, what):
    with pytest.raises(ConfigError, match=rf"min_{what} 0\.9 is above max_{what} 0\.5; swap them"):
        op(name, **{f"min_{what}": 0.9, f"max_{what}": 0.5})


def test_a_probability_above_one_is_refused():
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        op("hflip", p=1.5)
