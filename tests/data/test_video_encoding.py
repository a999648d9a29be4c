"""Videos in samples: the text that transformers' own processors write, patches, positions, and rows with photos."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.data.encode import Encoder
from qcvl.data.health import check_batch
from qcvl.data.media import group_seconds, media_of, patches_of
from qcvl.errors import DataError
from qcvl.models.spec import Family
from qcvl.models.text import render
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.messages import write_messages
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.types import IMAGE, VIDEO, Clip, Message, Sample
from tests.conftest import photo

PROMPT = TaskPrompt(system="", user="")


def clip(frames: int, cells: tuple[int, int], rate: float = 30.0, every: int = 15, factor: int = 32) -> Clip:
    """A clip of noise: frames ``0, every, 2 * every, …`` of a video of ``rate`` frames a second."""
    height, width = (side * factor for side in cells)
    pixels = np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return Clip(pixels, np.arange(frames) * every / rate, rate / every)


def talk(*said) -> Sample:
    """A chat sample of one question made of texts, photos and clips, and its answer."""
    parts = tuple(one if isinstance(one, str) else VIDEO if isinstance(one, Clip) else IMAGE for one in said)
    return Sample(
        images=tuple(one for one in said if isinstance(one, np.ndarray)),
        videos=tuple(one for one in said if isinstance(one, Clip)),
        annotations=(),
        task="chat",
        messages=(Message("user", parts), Message("assistant", ("It falls.",))),
    )


def encoder(processing, **changes) -> Encoder:
    values = {"answer_format": DEFAULT_FORMAT, "max_length": 4096, "overlong": "error", "classes": {}}
    return Encoder(**{"processing": processing} | values | changes)


def of_family(processing, model_type: str):
    """The processing as a model of another family has it, patches of 16 pixels kept."""
    config = {"model_type": model_type, "vision_config": {"patch_size": 16, "tokens_per_second": 2}}
    return replace(processing, family=Family.from_config(config, {}, "here"))


def processor(cls, tokenizer):
    """A processor of transformers as far as it goes without torchvision: all but its two pixel processors."""
    own = cls.__new__(cls)
    own.tokenizer = tokenizer
    own.image_token, own.video_token = "<|image_pad|>", "<|video_pad|>"
    own.vision_start_token, own.vision_end_token = "<|vision_start|>", "<|vision_end|>"
    own.image_processor = own.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    return own


def transformers_ids(cls, processing, sample: Sample) -> list[int]:
    """Ids of a sample as a processor of transformers has them, its grids and metadata given."""
    own = processor(cls, processing.tokenizer)
    sides = [(image.shape[0] // 16, image.shape[1] // 16) for image in sample.images]
    images = {"image_grid_thw": torch.tensor([(1, *side) for side in sides])}
    videos: dict = {"video_grid_thw": [], "video_metadata": []}
    for one in sample.videos:
        count, height, width = one.frames.shape[:3]
        indices = (one.seconds * 30).round().astype(int)
        videos["video_grid_thw"].append(((count + 1) // 2, height // 16, width // 16))
        videos["video_metadata"].append(VideoMetadata(1000, fps=30, frames_indices=indices))
    videos["video_grid_thw"] = torch.tensor(videos["video_grid_thw"])
    text = render(processing, write_messages(sample.messages), add_generation_prompt=False)
    (text,), _ = own.get_text_with_replacements(
        [text],
        [own.replace_image_token(images, index) for index in range(len(sample.images))],
        [own.replace_video_token(videos, index) for index in range(len(sample.videos))],
    )
    return processing.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("model_type", "cls"), [("qwen3_vl", Qwen3VLProcessor), ("qwen2_5_vl", Qwen2_5_VLProcessor)])
@pytest.mark.parametrize("tokenizer", ["processing", "qwen3"])
def test_ids_are_those_of_transformers_processor(request, tokenizer, model_type, cls):
    processing = of_family(request.getfixturevalue(tokenizer), model_type)
    for said in (
        [clip(5, (2, 3)), "What happens?"],
        [photo(64, 96), "this, then ", clip(2, (1, 2), every=7), "\nand ", clip(7, (2, 2), every=29), photo(32, 64)],
    ):
        sample = talk(*said)
        features = encoder(processing)(sample, PROMPT, "r:1")
        assert features.input_ids.tolist() == transformers_ids(cls, processing, sample)


def test_a_clip_of_qwen3_is_its_groups_of_frames_each_after_its_time(processing):
    features = encoder(processing)(talk(clip(5, (1, 2)), "What?"), PROMPT, "r:1")
    text = processing.tokenizer.decode(features.input_ids)
    group = "<|vision_start|><|video_pad|><|video_pad|><|vision_end|>"
    groups = "".join(f"<{seconds} seconds>{group}" for seconds in ("0.2", "1.2", "2.0"))  # 0, .5 | 1, 1.5 | 2, 2
    assert f"user\n<|vision_start|>{groups}<|vision_end|>What?" in text
    assert features.grids.tolist() == [[1, 2, 4]] * 3
    assert (features.token_types == 2).sum() == 6 and not (features.token_types == 1).any()
    assert processing.tokenizer.decode(features.labels[features.labels != IGNORE]) == "It falls.<|im_end|>"


def test_time_positions_of_qwen2_5_follow_the_rate_of_the_frames_seen(processing):
    own = of_family(processing, "qwen2_5_vl")
    for every, expected in ((15, [0, 2, 4]), (30, [0, 4, 8]), (8, [0, 1, 2])):  # 2 a second, 1 a second, 3.75 a second
        features = encoder(own)(talk(clip(6, (1, 1), every=every), "What?"), PROMPT, "r:1")
        assert features.grids.tolist() == [[3, 2, 2]]
        times = features.positions[1][features.token_types == 2]
        assert (times - times[0]).tolist() == expected
    still = encoder(of_family(processing, "qwen2_vl"))(talk(clip(6, (1, 1)), "What?"), PROMPT, "r:1")
    times = still.positions[1][still.token_types == 2]
    assert (times - times[0]).tolist() == [0, 1, 2]


@given(seconds=st.lists(st.floats(0, 1000), min_size=1, max_size=9).map(sorted))
def test_group_times_lie_midway_between_the_first_and_last_frame(seconds):
    family = Family.from_config({"model_type": "qwen3_vl"}, {}, "here")
    own = SimpleNamespace()
    expected = Qwen3VLProcessor._calculate_timestamps(own, list(seconds), 1, 2)
    assert list(group_seconds(seconds, family)) == expected


def test_media_lie_in_the_order_of_the_conversation_and_a_row_mixes_all_kinds(processing):
    first, second = photo(64, 64, 1), photo(32, 64, 2)
    film = clip(3, (2, 1))
    mixed = talk("a", first, film, "b", second)
    media = media_of(mixed, processing)
    assert media.grids.tolist() == [[1, 4, 4], [1, 4, 2], [1, 4, 2], [1, 4, 2]]
    rows = patches_of(mixed, processing, still=True)
    assert rows.shape == (16 + 2 * 8 + 8, 3 * 2 * 256)
    assert np.array_equal(rows[:16], patches_of(talk(first), processing, still=False))
    assert np.array_equal(rows[16:32], patches_of(talk(film), processing, still=True))
    features = [encoder(processing)(one, PROMPT, "r") for one in (mixed, talk(second, "c"), talk("text alone"))]
    assert [item.patches.shape[1] for item in features] == [1536, 768, 768]
    batch = collate(features)
    check_batch(batch, 2)
    assert torch.equal(batch["pixel_values"][-8:], batch["pixel_values"][32:40])  # one photo, still and not
    alone = collate(features[1:])
    assert alone["pixel_values"].shape[1] == 768  # a row without video is as it was


def test_a_sample_without_video_is_encoded_as_before(processing):
    images = talk(photo(64, 96), "this ", photo(32, 32))
    features = encoder(processing)(images, PROMPT, "r:1")
    assert features.token_types.dtype == np.int64 and features.token_types.max() == 1
    assert np.array_equal(features.token_types, (features.input_ids == processing.image_pad).astype(np.int64))
    assert features.grids.dtype == np.int64 and features.patches.dtype == np.uint8


def test_length_needs_no_pixel(processing):
    film = clip(5, (2, 3))
    blank = replace(film, frames=np.broadcast_to(np.uint8(0), film.frames.shape))
    expected = len(encoder(processing)(talk(film, "Q", photo(64, 64)), PROMPT, "r").input_ids)
    assert encoder(processing).length(talk(blank, "Q", photo(64, 64)), PROMPT, "r") == expected


def test_an_overlong_sample_says_how_much_of_it_is_video_and_shrinks_photos_alone(processing):
    sample = talk(clip(6, (2, 2)), photo(128, 128), "Q")
    length = len(encoder(processing)(sample, PROMPT, "r").input_ids)
    match = rf"r:1 has {length} tokens \(16 of them image, 12 video\); .* lower data.video.max_frames or max_pixels"
    with pytest.raises(DataError, match=match):
        encoder(processing, max_length=length - 1)(sample, PROMPT, "r:1")
    smaller = encoder(processing, max_length=length - 6, overlong="shrink_image")(sample, PROMPT, "r:1")
    assert len(smaller.input_ids) <= length - 6 and (smaller.token_types == 2).sum() == 12
    with pytest.raises(DataError, match="has .* tokens"):
        encoder(processing, max_length=length - 17, overlong="shrink_image")(sample, PROMPT, "r:1")


def test_a_template_that_drops_videos_is_refused(processing):
    silent = replace(processing, chat_template=processing.chat_template.replace("<|video_pad|>", ""))
    with pytest.raises(DataError, match="r:1: the chat template has 0 image places for 2 images"):
        encoder(silent)(talk(clip(3, (1, 1)), "Q"), PROMPT, "r:1")
