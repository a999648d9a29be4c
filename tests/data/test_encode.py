"""From a sample to ids, labels, positions and patches; what happens to samples that are too long."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qcvl.data.chat import IGNORE
from qcvl.data.encode import Encoder, true_answer
from qcvl.data.label_kinds import LABEL_KINDS
from qcvl.data.media import patchify
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.losses.grounding_targets import grounding_targets
from qcvl.models.text import special_ids
from qcvl.schema.answer import DEFAULT_FORMAT, parse_answer, render_answer
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import IMAGE, Annotation, Message, Sample
from tests.conftest import photo
from tests.data.hostile import HOSTILE

PROMPT = TaskPrompt(system="Inspect.", user="List.")
PLATE = Annotation(Shape("bbox_2d", [16, 32, 96, 64]), "plate")
CABLE = Annotation(Shape("line", [0, 0, 64, 128, 128, 128]), "cable", 1)


def sample(*notes, sizes=((128, 128),), task="dense", summary=None) -> Sample:
    images = tuple(photo(width, height, seed) for seed, (width, height) in enumerate(sizes))
    return Sample(images=images, annotations=notes, task=task, summary=summary)


@pytest.fixture
def make_encoder(processing):
    def make(**changes) -> Encoder:
        values = {"answer_format": DEFAULT_FORMAT, "max_length": 4096, "overlong": "error", "classes": {}}
        return Encoder(**{"processing": processing} | values | changes)

    return make


def label_text(processing, features) -> str:
    ids = features.input_ids[features.labels != IGNORE]
    return processing.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def cells(features) -> int:
    return int((features.token_types == 1).sum())


def test_a_dense_sample_learns_its_rendered_answer(processing, make_encoder):
    features = make_encoder()(sample(PLATE), PROMPT, "a:1")
    answer = render_answer([PLATE], (128, 128))
    assert answer == '{"object_1": {"bbox_2d": [125, 250, 750, 500], "desc": "plate"}}'
    assert label_text(processing, features) == answer + "<|im_end|>"


def test_a_summary_sample_learns_its_summary_and_no_object(processing, make_encoder):
    features = make_encoder()(sample(PLATE, task="summary", summary="一块铭牌"), PROMPT, "a:1")
    assert label_text(processing, features) == "一块铭牌<|im_end|>"


def test_each_label_says_what_its_token_is(processing, make_encoder):
    features = make_encoder()(sample(PLATE), PROMPT, "here")
    decode = processing.tokenizer.decode
    said = dict.fromkeys(LABEL_KINDS, "")
    for token, number in zip(features.labels.tolist(), features.label_kinds.tolist(), strict=True):
        assert (number == 0) == (token == IGNORE)
        if number:
            said[LABEL_KINDS[number - 1]] += decode([token])
    assert said["coordinates"].split() == ["125", "250", "750", "500"] or said["coordinates"] == "125250750500"
    assert said["descriptions"] == "plate" and said["summary"] == ""
    assert said["format"].startswith('{"object_1": {"bbox_2d": [') and said["format"].endswith('"}}<|im_end|>')

    features = make_encoder()(sample(PLATE, task="summary", summary="plate x1"), PROMPT, "here")
    numbers = features.label_kinds[features.labels != IGNORE].tolist()
    assert set(numbers[:-1]) == {1 + LABEL_KINDS.index("summary")} and numbers[-1] == 1 + LABEL_KINDS.index("format")


def test_a_summary_sample_without_a_summary_is_refused():
    with pytest.raises(DataError, match="has no summary"):
        true_answer("summary", [PLATE], None, [(128, 128)], [(128, 128)], DEFAULT_FORMAT)


@pytest.mark.parametrize(("size", "expected"), [((128, 128), 16), ((64, 96), 6), ((32, 32), 1), ((500, 500), 16)])
def test_image_tokens_are_the_merged_cells_of_the_grid(processing, make_encoder, size, expected):
    features = make_encoder()(sample(PLATE, sizes=(size,)), PROMPT, "a:1")
    assert cells(features) == expected == features.grids.prod() // processing.family.merge_size**2
    assert np.array_equal(features.token_types == 1, features.input_ids == processing.image_pad)
    assert features.patches.shape == (features.grids.prod(), 3 * processing.family.patch_size**2)
    assert features.positions.shape == (4, len(features.input_ids)) and not features.positions[:, 0].any()


def test_several_images_come_in_order_and_each_object_names_its_own(processing, make_encoder):
    pair = sample(PLATE, CABLE, sizes=((64, 64), (128, 128)))
    features = make_encoder()(pair, PROMPT, "a:1")
    assert features.grids.tolist() == [[1, 4, 4], [1, 8, 8]] and cells(features) == 4 + 16
    separate = [patchify([image], processing, still=True)[0] for image in pair.images]
    assert np.array_equal(features.patches, np.concatenate(separate))
    objects = json.loads(label_text(processing, features).removesuffix("<|im_end|>"))
    assert [item["image"] for item in objects.values()] == [0, 1]
    assert objects["object_1"]["bbox_2d"] == [250, 500, 1000, 1000]  # shares of the first, small image
    assert objects["object_2"]["line"] == [0, 0, 500, 1000, 1000, 1000]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("place", ["desc", "summary", "system", "user"])
def test_hostile_text_changes_neither_mask_nor_media_and_can_be_read_back(processing, make_encoder, place, text):
    text = text.replace("\n", " ") if place in ("desc", "summary") else text  # records refuse line breaks there
    benign = make_encoder()(sample(PLATE, task="summary" if place == "summary" else "dense", summary="S"), PROMPT, "")
    prompt = replace(PROMPT, **{place: text}) if place in ("system", "user") else PROMPT
    note = replace(PLATE, desc=text) if place == "desc" else PLATE
    task = "summary" if place == "summary" else "dense"
    features = make_encoder()(sample(note, task=task, summary=text if place == "summary" else "S"), prompt, "a:1")
    marks = [
        [i for i in ids if i in special_ids(processing).values()] for ids in (features.input_ids, benign.input_ids)
    ]
    assert marks[0] == marks[1] and cells(features) == cells(benign) == 16
    answer = label_text(processing, features).removesuffix("<|im_end|>")
    if place == "desc":
        assert parse_answer(answer, (128, 128)).annotations[0].desc == text
    else:
        assert answer == (text if place == "summary" else render_answer([PLATE], (128, 128)))


def test_an_answer_in_pixels_is_in_those_of_the_image_the_model_sees(processing, make_encoder):
    encoder = make_encoder(answer_format=replace(DEFAULT_FORMAT, emit_norm="none"))
    whole = Annotation(Shape("bbox_2d", [0, 0, 600, 300]), "frame")
    corner = Annotation(Shape("line", [300, 150, 600, 300]), "cable")
    features = encoder(sample(whole, corner, sizes=((600, 300),)), PROMPT, "a:1")
    assert features.grids[0].tolist() == [1, 4, 10]  # 5 x 2 cells of 32 pixels: what 16 cells leave of 600x300
    objects = json.loads(label_text(processing, features).removesuffix("<|im_end|>"))
    assert objects["object_1"]["bbox_2d"] == [0, 0, 160, 64]
    assert objects["object_2"]["line"] == [80, 32, 160, 64]


def test_a_shrunk_photo_has_its_answer_in_the_pixels_that_are_left(processing, make_encoder):
    pixels = replace(DEFAULT_FORMAT, emit_norm="none")
    frame = sample(Annotation(Shape("bbox_2d", [0, 0, 128, 128]), "frame"))
    length = len(make_encoder(answer_format=pixels)(frame, PROMPT, "a:1").input_ids)
    encoder = make_encoder(answer_format=pixels, overlong="shrink_image", max_length=length - 8)
    features = encoder(frame, PROMPT, "a:1")
    side = int(features.grids[0, 1]) * 16
    assert side < 128 and f"[0, 0, {side}, {side}]" in label_text(processing, features)


def test_a_sample_of_exactly_the_longest_length_passes_and_one_token_more_is_an_error(make_encoder):
    length = len(make_encoder()(sample(PLATE), PROMPT, "a:1").input_ids)
    assert make_encoder(max_length=length)(sample(PLATE), PROMPT, "a:1") is not None
    with pytest.raises(DataError, match=rf"a:1 has {length} tokens \(16 of them image\); global_max_length is"):
        make_encoder(max_length=length - 1)(sample(PLATE), PROMPT, "a:1")


def test_an_overlong_sample_is_dropped_when_asked_and_only_then(make_encoder):
    length = len(make_encoder()(sample(PLATE), PROMPT, "a:1").input_ids)
    encoder = make_encoder(overlong="drop", max_length=length - 1)
    assert encoder(sample(PLATE), PROMPT, "a:1") is None
    assert replace(encoder, max_length=length)(sample(PLATE), PROMPT, "a:1") is not None


@pytest.mark.parametrize("sizes", [((128, 128),), ((128, 128), (128, 96))])
def test_shrinking_cuts_pixels_only_and_fits(processing, make_encoder, sizes):
    whole = make_encoder()(sample(PLATE, sizes=sizes), PROMPT, "a:1")
    for less in (1, 5, 11):
        limit = len(whole.input_ids) - less
        features = make_encoder(overlong="shrink_image", max_length=limit)(sample(PLATE, sizes=sizes), PROMPT, "a:1")
        assert len(features.input_ids) <= limit
        assert label_text(processing, features) == label_text(processing, whole)
        assert 0 < cells(features) == features.grids.prod(1).sum() // 4
        texts = [item.input_ids[item.token_types == 0] for item in (features, whole)]
        assert np.array_equal(*texts)


def test_a_text_that_is_too_long_by_itself_is_an_error_that_shrinking_cannot_mend(make_encoder):
    encoder = make_encoder(overlong="shrink_image", max_length=40)
    with pytest.raises(DataError, match=r"has \d+ tokens \(16 of them image\); global_max_length is 40"):
        encoder(sample(PLATE), PROMPT, "a:1")


def test_a_photo_that_stays_too_long_when_shrunk_is_an_error_in_its_last_size(make_encoder):
    strip = sample(PLATE, sizes=((512, 32),))  # sixteen cells in a row: its height cannot go below one cell
    length = len(make_encoder()(strip, PROMPT, "a:1").input_ids)
    with pytest.raises(DataError, match=r"\((\d+) of them image\)") as caught:
        make_encoder(overlong="shrink_image", max_length=length - 13)(strip, PROMPT, "a:1")
    assert "16 of them" not in str(caught.value)


def test_grounding_targets_are_there_only_when_asked_and_follow_the_table_of_descs(make_encoder):
    pair = sample(PLATE, CABLE, replace(PLATE, desc="rare"), sizes=((128, 128), (64, 64)))
    plain = make_encoder()(pair, PROMPT, "a:1")
    assert plain.cell_classes is None and plain.cell_points is None
    features = make_encoder(classes={"cable": 1, "plate": 2})(pair, PROMPT, "a:1")
    first = grounding_targets([PLATE.shape], [2], (128, 128), (4, 4))
    second = grounding_targets([CABLE.shape], [1], (64, 64), (2, 2))
    assert np.array_equal(features.cell_classes, np.concatenate([first[0], second[0]]))
    assert np.array_equal(features.cell_points, np.concatenate([first[1], second[1]]))
    assert {1, 2} <= set(features.cell_classes) and len(features.cell_classes) == cells(features)


def chat(*messages: Message, sizes=(), notes=()) -> Sample:
    return replace(sample(*notes, sizes=sizes, task="chat"), messages=messages)


ASKED = Message("user", (IMAGE, "What is it?"))
SAID = Message("assistant", ("A clip.",))


def test_a_chat_sample_is_its_own_messages_and_no_prompt(processing, make_encoder):
    more = (Message("user", ("Broken?",)), Message("assistant", ("Yes.",)))
    features = make_encoder()(chat(ASKED, SAID, *more, sizes=((64, 64),), notes=(PLATE,)), PROMPT, "a:1")
    assert label_text(processing, features) == "A clip.<|im_end|>Yes.<|im_end|>"
    assert cells(features) == 4
    whole = processing.tokenizer.decode(features.input_ids, skip_special_tokens=False)
    assert "Inspect." not in whole and "List." not in whole and "plate" not in whole


def test_a_sample_of_text_alone_has_no_patch_and_no_grid(processing, make_encoder):
    features = make_encoder()(chat(Message("user", ("Q",)), SAID), PROMPT, "a:1")
    shown = make_encoder()(chat(ASKED, SAID, sizes=((64, 64),)), PROMPT, "a:1")
    assert features.patches.shape == (0, shown.patches.shape[1]) and features.patches.dtype == shown.patches.dtype
    assert features.grids.shape == (0, 3) and features.grids.dtype == np.int64
    assert not features.token_types.any()
    assert np.array_equal(features.positions, np.tile(np.arange(len(features.input_ids)), (4, 1)))


@pytest.mark.parametrize("overlong", ["error", "shrink_image"])
def test_a_text_alone_that_is_too_long_is_an_error(make_encoder, overlong):
    with pytest.raises(DataError, match=r"a:1 has \d+ tokens \(0 of them image\)"):
        make_encoder(overlong=overlong, max_length=10)(chat(Message("user", ("Q" * 50,)), SAID), PROMPT, "a:1")


def test_nothing_is_known_of_what_lies_over_the_visual_tokens_of_a_chat_sample(make_encoder):
    encoder = make_encoder(classes={"plate": 1})
    features = encoder(chat(ASKED, SAID, sizes=((64, 96),), notes=(PLATE,)), PROMPT, "a:1")
    assert features.cell_classes.tolist() == [IGNORE] * 6 and features.cell_points.shape == (6, 8)
    alone = encoder(chat(Message("user", ("Q",)), SAID), PROMPT, "a:1")
    assert alone.cell_classes.shape == (0,) and alone.cell_points.shape == (0, 8)
