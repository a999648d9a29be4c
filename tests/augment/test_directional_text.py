"""Texts that say left or right: a flip swaps the words, or is refused."""

import numpy as np
import pytest

from tests.augment.ops import compose, op

KEY = (0, 0, 0)
BOX = ("bbox_2d", [20, 10, 40, 30])


def swapping(name="hflip", **changes):
    return op(name, directional_text="swap", **changes)


def test_a_flip_swaps_the_words_of_descs_and_summary_and_counts_the_changed_texts(make_sample):
    sample = make_sample(BOX, BOX, BOX, descs=["左侧螺丝", "Right fan", "bright cable"], summary="left x1, 右 x1")
    out = compose(hflip=swapping())(sample, KEY)
    assert sorted(note.desc for note in out.annotations) == ["Left fan", "bright cable", "右侧螺丝"]
    assert out.summary == "right x1, 左 x1"
    assert (out.telemetry["hflip/applied"], out.telemetry["hflip/changed_texts"]) == (1, 3)
    assert np.array_equal(out.images[0], np.fliplr(sample.images[0]))


def test_two_flips_give_the_texts_again(make_sample):
    sample = make_sample(BOX, descs=["左侧螺丝"], summary="left")
    out = compose(order=["hflip", "hflip"], hflip=swapping())(sample, KEY)
    assert out.annotations == sample.annotations and out.summary == sample.summary
    assert out.telemetry["hflip/changed_texts"] == 4


def test_a_vertical_flip_swaps_its_own_words(make_sample):
    sample = make_sample(BOX, descs=["upper left port, below the fan"])
    out = compose(vflip=swapping("vflip"))(sample, KEY)
    assert out.annotations[0].desc == "lower left port, above the fan"


def test_the_words_are_the_configured_ones(make_sample):
    sample = make_sample(BOX, descs=["left port, A面"])
    out = compose(hflip=swapping(word_pairs=[("A面", "B面")]))(sample, KEY)
    assert out.annotations[0].desc == "left port, B面"


@pytest.mark.parametrize("name", ["hflip", "vflip", "flip_turn"])
def test_refusing_is_for_the_configured_words_alone(make_sample, name):
    sample = make_sample(BOX, descs=["left, 左, above, A面"])
    refused = compose(flip=op(name, word_pairs=[("A面", "B面")]))(sample, KEY)
    assert refused.telemetry["flip/directional_text"] == 1
    assert refused.annotations == sample.annotations and refused.images[0] is sample.images[0]
    assert compose(flip=op(name, word_pairs=[]))(sample, KEY).telemetry["flip/applied"] == 1


def test_a_summary_sample_is_flipped_and_its_summary_with_it(make_sample):
    sample = make_sample(BOX, descs=["fan"], task="summary", summary="一个风扇在左侧")
    out = compose(hflip=swapping())(sample, KEY)
    assert (out.summary, out.telemetry["hflip/changed_texts"]) == ("一个风扇在右侧", 1)


def test_a_summary_of_several_photos_is_rewritten_when_all_are_flipped_and_else_no_photo_is(make_sample):
    sample = make_sample(BOX, BOX, images=[0, 1], photos=2, summary="left fan")
    together = compose(hflip=swapping(), share_draw=True)(sample, KEY)
    assert together.summary == "right fan" and together.telemetry["hflip/applied"] == 1
    apart = compose(hflip=swapping(), share_draw=False)(sample, KEY)
    assert apart.summary == "left fan" and apart.telemetry["hflip/shared_summary"] == 2
    assert all(after is before for after, before in zip(apart.images, sample.images, strict=True))


def test_only_the_descs_of_the_flipped_photo_change(make_sample):
    sample = make_sample(BOX, BOX, images=[0, 1], photos=2, descs=["left", "left"])
    pipeline = compose(hflip=swapping(p=0.5), share_draw=False)
    for index in range(30):
        out = pipeline(sample, (0, 0, index))
        for image, note in enumerate(out.annotations):
            flipped = out.images[image] is not sample.images[image]
            assert note.desc == ("right" if flipped else "left")


def test_a_chat_sample_is_never_rewritten(make_sample):
    out = compose(hflip=swapping())(make_sample(BOX, descs=["left"], task="chat"), KEY)
    assert out.annotations[0].desc == "left" and out.telemetry["hflip/chat_text"] == 1
