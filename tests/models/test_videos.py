"""Videos beside images in one row: the same numbers as plain transformers, which has them apart, in every family."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from qcvl.models.forward import hidden_states, label_logits, normalised
from qcvl.models.pixels import clip_grid, clip_patches, to_patches
from qcvl.models.positions import media_types, rope_positions
from qcvl.models.spec import Family
from qcvl.models.speed import speed_up
from tests.models.conftest import ARCHITECTURE, SPECIAL

ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
TEXT = ARCHITECTURE["text_config"] | {"hidden_size": 64, "rope_parameters": ROPE, "num_key_value_heads": 2}
OLDER = {"depth": 2, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
VISION = {
    "qwen3_vl": ARCHITECTURE["vision_config"],
    "qwen2_5_vl": OLDER
    | {"hidden_size": 32, "intermediate_size": 40, "num_heads": 2, "window_size": 56, "fullatt_block_indexes": [1]}
    | {"out_hidden_size": 64, "tokens_per_second": 2},
    "qwen2_vl": OLDER | {"embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
}
FAMILIES = sorted(VISION)


def config_of(model_type: str, processing) -> dict:
    """``config.json`` of a tiny model over the tests' tokenizer."""
    text = ARCHITECTURE["text_config"] if model_type == "qwen3_vl" else TEXT
    vision = VISION[model_type] | ({"out_hidden_size": 32} if model_type == "qwen3_vl" else {})
    ids = {
        "image_token_id": processing.image_pad,
        "video_token_id": processing.video_pad,
        "vision_start_token_id": processing.vision_start,
        "vision_end_token_id": processing.vision_end,
    }
    return {"model_type": model_type, "text_config": text | {"vocab_size": 300}, "vision_config": vision, **ids}


@pytest.fixture(scope="module")
def family(processing):
    """``family(model_type)``: the processing of a tiny model, its untouched form, and the one training runs."""

    def make(model_type: str):
        config = config_of(model_type, processing)
        own = replace(processing, family=Family.from_config(config, {}, "here"))
        torch.manual_seed(0)
        keys = {key: value for key, value in config.items() if key != "model_type"}
        plain = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(model_type, **keys), attn_implementation="sdpa"
        ).eval()
        fast = AutoModelForImageTextToText.from_config(plain.config).eval()
        fast.load_state_dict(plain.state_dict())
        return own, plain, speed_up(fast, "varlen")

    return make


def sample(processing, media: list[tuple[int, ...]], seed: int, step: float = 1.0) -> dict:
    """Random words around media: ``(height, width)`` in cells of an image, ``(frames, height, width)`` of a video."""
    random, own = np.random.default_rng(seed), processing.family
    side = own.factor
    ids, rows, grids, steps, apart = [processing.turn_start], [], [], [], {"image": [], "video": []}
    for shape in media:
        height, width = shape[-2] * side, shape[-1] * side
        ids += random.integers(len(SPECIAL), 290, 3).tolist()
        if len(shape) == 2:
            patches, grid = to_patches(random.integers(0, 256, (height, width, 3), dtype=np.uint8), processing)
            runs, pad, kind = [grid], processing.image_pad, "image"
        else:
            frames = random.integers(0, 256, (shape[0], height, width, 3), dtype=np.uint8)
            patches, grid, pad, kind = clip_patches(frames, own), clip_grid(*frames.shape[:3], own), None, "video"
            pad = processing.video_pad
            runs = [(1, *grid[1:])] * grid[0] if own.times_in_text else [grid]
        for time, high, wide in runs:
            cells = time * high * wide // own.merge_size**2
            ids += [21, processing.vision_start, *[pad] * cells, processing.vision_end]
            grids.append((time, high, wide))
            steps.append(step if kind == "video" else 1.0)
        values = normalised(torch.from_numpy(patches), own)
        rows.append(values)
        apart[kind].append((values, grid))
    ids += random.integers(len(SPECIAL), 290, 5).tolist()
    return {
        "ids": np.array(ids),
        "rows": rows,
        "grids": grids,
        "apart": apart,
        "step": step,
        "positions": rope_positions(np.array(ids), grids, processing, steps),
    }


def row(samples: list[dict]) -> dict:
    """The one-row batch of some samples."""
    return {
        "input_ids": torch.from_numpy(np.concatenate([one["ids"] for one in samples]))[None],
        "position_ids": torch.from_numpy(np.concatenate([one["positions"] for one in samples], axis=1))[:, None],
        "segments": tuple(len(one["ids"]) for one in samples),
        "pixel_values": torch.cat([values for one in samples for values in one["rows"]]),
        "image_grid_thw": torch.tensor([grid for one in samples for grid in one["grids"]]),
    }


def as_transformers_has_it(one: dict, processing) -> dict:
    """The inputs of a sample for the untouched model, images and videos apart."""
    ids = torch.from_numpy(one["ids"])[None]
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.from_numpy(media_types(one["ids"], processing))[None].int()}
    for kind, (values, grids) in {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw"),
    }.items():
        if one["apart"][kind]:
            inputs[values] = torch.cat([patches for patches, _ in one["apart"][kind]])
            inputs[grids] = torch.tensor([grid for _, grid in one["apart"][kind]])
    return inputs


MEDIA = {"video": [(5, 2, 3)], "both": [(2, 2), (4, 1, 2), (1, 3)], "videos": [(2, 2, 2), (7, 2, 1)]}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_logits_of_packed_videos_and_images_are_those_of_each_sample_in_plain_transformers(family, model_type):
    processing, plain, fast = family(model_type)
    step = processing.family.tokens_per_second or 1.0
    samples = [sample(processing, media, seed, step) for seed, media in enumerate(MEDIA.values())]
    with torch.no_grad():
        states = hidden_states(fast, row(samples)).states
        found = label_logits(fast, states, torch.arange(states.shape[1]))
        expected = []
        for one in samples:
            inputs = as_transformers_has_it(one, processing)
            if processing.family.tokens_per_second:
                inputs["second_per_grid_ts"] = torch.ones(len(one["apart"]["video"]))
            expected.append(plain(**inputs, use_cache=False).logits[0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("seconds", [0.5, 1.0, 1.3, 2.5])
def test_positions_are_those_of_the_model(family, model_type, seconds):
    processing, plain, _ = family(model_type)
    rate = processing.family.tokens_per_second
    one = sample(processing, [(1, 2), (9, 2, 3), (3, 2, 1)], 0, seconds * rate if rate else 1.0)
    inputs = {key: value for key, value in as_transformers_has_it(one, processing).items() if "pixel" not in key}
    times = {"second_per_grid_ts": [seconds] * 2} if rate else {}
    expected, _ = plain.model.get_rope_index(**inputs, **times)
    assert (one["positions"][1:] == expected[:, 0].numpy()).all()
    pads = one["ids"] == processing.video_pad
    assert rate is None or len(set(one["positions"][1][pads].tolist())) > 1  # time does move


def test_only_qwen3_writes_times_and_only_qwen2_5_spaces_time_positions(processing):
    by_type = {name: Family.from_config(config_of(name, processing), {}, "here") for name in FAMILIES}
    assert {name: own.times_in_text for name, own in by_type.items()} == {
        "qwen3_vl": True,
        "qwen2_5_vl": False,
        "qwen2_vl": False,
    }
    assert [by_type[name].tokens_per_second for name in FAMILIES] == [2, None, None]
    silent = Family.from_config({"model_type": "qwen2_5_vl", "vision_config": {}}, {}, "here")
    assert silent.tokens_per_second == AutoConfig.for_model("qwen2_5_vl").vision_config.tokens_per_second


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_patches_of_a_clip_are_laid_out_as_transformers_video_processors_do(processing, frames):
    own = processing.family
    clip = np.random.default_rng(0).integers(0, 256, (frames, 64, 96, 3), dtype=np.uint8)
    time, rows, columns = grid = clip_grid(*clip.shape[:3], own)
    assert grid == ((frames + 1) // 2, 4, 6)
    found = clip_patches(clip, own)
    # Qwen2VLVideoProcessor.patchify, which needs torchvision to be imported, word for word.
    videos = torch.from_numpy(clip).permute(0, 3, 1, 2)[None]
    if pad := -frames % 2:
        videos = torch.cat((videos, videos[:, -1:].expand(-1, pad, -1, -1, -1)), dim=1)
    patches = videos.reshape(1, time, 2, 3, rows // 2, 2, 16, columns // 2, 2, 16)
    patches = patches.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    assert np.array_equal(found, patches.reshape(time * rows * columns, 3 * 2 * 16 * 16).numpy())


def test_a_clip_of_one_frame_has_the_patches_of_the_photo(processing):
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    rows, grid = to_patches(photo, processing)
    assert np.array_equal(clip_patches(photo[None], processing.family), rows)
    assert clip_grid(1, 64, 96, processing.family) == grid
