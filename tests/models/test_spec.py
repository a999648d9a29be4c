"""Families are told by config.json, and a saved Processing gives others the same tokens and patches."""

import json
import lzma
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer

from qcvl.errors import CheckpointError
from qcvl.models.forward import normalised
from qcvl.models.pixels import to_patches
from qcvl.models.settings import ModelSpec
from qcvl.models.spec import Family, load_processing

REAL = Path(__file__).parents[3] / "shared" / "data" / "tokenizer"
TEXTS = ["a red plate", "螺丝/颜色:银色 1234", '{"object_1": {"bbox_2d": [1, 22, 333, 4444]}}', "  two  spaces\n\n🔩"]


@pytest.mark.parametrize(
    ("model_type", "factor", "values", "emit_norm"),
    [("qwen3_vl", 32, 1536, "norm1000"), ("qwen3_vl_moe", 32, 1536, "norm1000"), ("qwen2_5_vl", 28, 1176, "none")],
)
def test_a_family_is_known_by_its_model_type(model_type, factor, values, emit_norm):
    family = Family.from_config({"model_type": model_type}, {}, "here")
    assert (family.factor, family.patch_values, family.emit_norm) == (factor, values, emit_norm)


def test_the_checkpoints_own_numbers_win_over_the_familys():
    config = {"model_type": "qwen3_vl", "vision_config": {"patch_size": 8, "spatial_merge_size": 4}}
    family = Family.from_config(config, {"image_mean": [0.1, 0.2, 0.3], "patch_size": 8, "merge_size": 4}, "here")
    assert family.factor == 32 and family.image_mean == (0.1, 0.2, 0.3) and family.image_std == (0.5, 0.5, 0.5)


def test_two_files_of_different_models_in_one_folder_are_an_error():
    with pytest.raises(CheckpointError, match="says patch_size 14, config.json says 16"):
        Family.from_config({"model_type": "qwen3_vl"}, {"patch_size": 14}, "here")


def test_the_family_comes_from_config_json_and_not_from_the_folders_name(checkpoint):
    misleading = checkpoint.rename(checkpoint.parent / "Qwen2.5-VL-3B")
    common = {
        "dtype": "auto",
        "attn": "auto",
        "min_cells": 2,
        "max_cells": 9,
        "lr_multiplier": 1,
        "context_factor": 1,
        "gradient_checkpointing": False,
        "compile": False,
        "liger": False,
    }
    processing = ModelSpec(path=str(misleading), **common).load_processing()
    assert processing.family.model_type == "qwen3_vl"
    assert (processing.min_pixels, processing.max_pixels) == (2 * 1024, 9 * 1024)


def test_a_saved_processing_loads_in_transformers_with_the_same_tokens_template_and_patches(processing, tmp_path):
    processing.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert tokenizer(text).input_ids == processing.tokenizer(text).input_ids
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.chat_template == processing.chat_template
    images = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    theirs = images(images=[image], return_tensors="np")
    rows, grid = to_patches(image, processing)
    assert theirs["image_grid_thw"].tolist() == [list(grid)]
    found = normalised(torch.from_numpy(rows), processing.family).numpy()
    np.testing.assert_allclose(found, theirs["pixel_values"], rtol=0, atol=1e-5)


def test_a_saved_checkpoint_with_its_config_still_tokenises_the_same(processing, checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)  # config.json now names Qwen's own tokenizer class
    for text in TEXTS:
        assert tokenizer(text).input_ids == processing.tokenizer(text).input_ids


def test_special_ids_are_single_tokens_of_the_tokenizer(processing):
    names = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    ids = [processing.turn_start, processing.turn_end, processing.vision_start, processing.vision_end]
    ids += [processing.image_pad, processing.video_pad]
    assert processing.tokenizer.convert_tokens_to_ids(names) == ids and processing.pad == 0


def test_a_missing_special_token_names_itself(processing):
    with pytest.raises(CheckpointError, match=r"has no token <\|nothing\|>"):
        processing.token_id("<|nothing|>")


def test_workers_can_be_given_a_processing(processing):
    twin = pickle.loads(pickle.dumps(processing))
    assert twin.image_pad == processing.image_pad and twin.family == processing.family
    assert twin.tokenizer(TEXTS[1]).input_ids == processing.tokenizer(TEXTS[1]).input_ids


def test_a_template_in_chat_template_json_is_read(processing, tmp_path):
    processing.save(tmp_path)
    (tmp_path / "chat_template.jinja").rename(tmp_path / "kept")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "{{ '<|image_pad|>' }} old"}))
    assert load_processing(tmp_path, {"model_type": "qwen3_vl"}, 1, 4).chat_template.endswith("old")


def test_the_real_tokenizer_needs_the_vision_template(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"the real Qwen3 tokenizer is not at {REAL}")
    (tmp_path / "tokenizer.json").write_bytes(lzma.decompress((REAL / "tokenizer.json.xz").read_bytes()))
    (tmp_path / "tokenizer_config.json").write_bytes((REAL / "tokenizer_config.json").read_bytes())
    with pytest.raises(CheckpointError, match="text only"):
        load_processing(tmp_path, {"model_type": "qwen3_vl"}, 16, 576)
    (tmp_path / "chat_template.jinja").write_text("<|image_pad|>")
    processing = load_processing(tmp_path, {"model_type": "qwen3_vl"}, 16, 576)
    assert (processing.image_pad, processing.turn_start, processing.turn_end, processing.pad) == (
        151655,
        151644,
        151645,
        151643,
    )
