"""Patches equal those of transformers' PIL image processor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

from qcvl.errors import DataError
from qcvl.models.forward import normalised
from qcvl.models.pixels import patch_grid, seen_size, smart_resize, to_patches
from qcvl.models.spec import Family, Processing

SIZES = [(128, 128), (100, 333), (480, 640), (1080, 1920), (31, 33), (1, 150), (700, 20), (640, 640), (333, 2)]


def processing_of(model_type: str, min_cells: int = 16, max_cells: int = 576) -> Processing:
    family = Family.from_config({"model_type": model_type}, {}, "here")
    cell = family.factor**2
    return Processing(
        tokenizer=None, chat_template="", family=family, min_pixels=min_cells * cell, max_pixels=max_cells * cell
    )


@pytest.mark.parametrize("model_type", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_normalised_patches_are_those_of_transformers(model_type, height, width):
    processing = processing_of(model_type)
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, grid = to_patches(image, processing)
    settings = processing.image_settings()
    settings.pop("image_processor_type")
    expected = Qwen2VLImageProcessorPil(**settings)(
        images=[image], input_data_format="channels_last", return_tensors="np"
    )
    assert [list(grid)] == expected["image_grid_thw"].tolist() and patch_grid(height, width, processing) == grid
    assert rows.dtype == np.uint8 and rows.shape == (grid[1] * grid[2], processing.family.patch_values)
    found = normalised(torch.from_numpy(rows), processing.family).numpy()
    # Both resize to the same grey levels, so that only float rounding is left.
    np.testing.assert_allclose(found, expected["pixel_values"], rtol=0, atol=1e-5)


def test_grey_levels_are_normalised_by_the_mean_and_deviation_of_their_channel():
    family = processing_of("qwen2_5_vl").family
    rows = np.random.default_rng(0).integers(0, 256, (5, family.patch_values), dtype=np.uint8)
    found = normalised(torch.from_numpy(rows), family)
    channels = rows.reshape(5, 3, -1) / 255
    expected = [(channels[:, i] - family.image_mean[i]) / family.image_std[i] for i in range(3)]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy().reshape(5, 3, -1), np.stack(expected, axis=1), rtol=0, atol=1e-6)


def test_rows_that_are_no_grey_levels_are_not_normalised_a_second_time():
    family = processing_of("qwen3_vl").family
    with pytest.raises(DataError, match="expected the grey levels of to_patches, uint8"):
        normalised(torch.zeros(4, family.patch_values), family)


def test_a_row_is_one_patch_twice_in_time_and_four_rows_make_a_cell():
    processing = processing_of("qwen3_vl", min_cells=4, max_cells=4)
    image = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3).astype(np.uint8)
    rows, grid = to_patches(image, processing)
    assert grid == (1, 4, 4)
    patches = rows.reshape(16, 3, 2, 16, 16)
    corners = [(0, 0), (0, 16), (16, 0), (16, 16), (0, 32)]  # the first cell block by block, then the next cell's first
    for row, (y, x) in enumerate(corners):
        expected = image[y : y + 16, x : x + 16].transpose(2, 0, 1)
        assert (patches[row, :, 0] == expected).all() and (patches[row, :, 1] == expected).all()


sides = st.integers(1, 4000)


@given(height=sides, width=sides, factor=st.sampled_from([28, 32]), least=st.integers(1, 64), more=st.integers(0, 600))
def test_smart_resize_is_transformers_own(height, width, factor, least, more):
    budget = (least * factor**2, (least + more) * factor**2)
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(DataError, match="ratio at most 200"):
            smart_resize(height, width, factor, *budget)
    else:
        found = smart_resize(height, width, factor, *budget)
        assert found == theirs(height, width, factor, *budget)
        assert found[0] % factor == found[1] % factor == 0


def test_a_photo_inside_the_budget_on_the_grid_is_not_resampled():
    assert seen_size(640, 640, processing_of("qwen3_vl")) == (640, 640)
    assert seen_size(4000, 4000, processing_of("qwen3_vl")) == (768, 768)


def test_a_strip_of_aspect_ratio_over_200_is_an_error_with_its_size():
    with pytest.raises(DataError, match="4020x20 pixels"):
        to_patches(np.zeros((20, 4020, 3), np.uint8), processing_of("qwen3_vl"))


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_only_uint8_rgb_is_taken(image):
    with pytest.raises(DataError, match="expected a uint8 RGB image"):
        to_patches(image, processing_of("qwen3_vl"))
