"""Positions equal the model's own get_rope_index, sample by sample."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.errors import DataError
from qcvl.models.positions import media_types, rope_positions
from tests.models.conftest import scratch


def expand(processing, text, grids, before=2):
    ids = [10] * before
    for _, rows, columns in grids:
        ids += [processing.vision_start, *[processing.image_pad] * (rows * columns // 4), processing.vision_end]
    return np.array([*ids, *[11] * text])


@pytest.fixture(scope="module")
def reference(tokenizer_folder):
    return scratch(tokenizer_folder).load_model()


even = st.integers(1, 5).map(lambda side: 2 * side)
grids_of_images = st.lists(st.tuples(st.just(1), even, even), max_size=4)


@settings(max_examples=40)
@given(grids=grids_of_images, text=st.integers(0, 7), before=st.integers(0, 3))
def test_positions_are_those_of_the_model(reference, processing, grids, text, before):
    ids = expand(processing, text, grids, before)
    if not len(ids):
        return
    types = torch.from_numpy(media_types(ids, processing))[None].int()
    grid_tensor = torch.tensor(grids) if grids else None
    expected, _ = reference.model.get_rope_index(torch.from_numpy(ids)[None], types, image_grid_thw=grid_tensor)
    found = rope_positions(ids, grids, processing)
    assert found.dtype == np.int64 and (found[0] == np.arange(len(ids))).all()
    assert (found[1:] == expected[:, 0].numpy()).all()


def test_an_image_of_two_by_three_cells_between_words(processing):
    ids = expand(processing, 2, [(1, 4, 6)], before=1)  # word, start, 6 cells, end, word, word
    found = rope_positions(ids, [(1, 4, 6)], processing)
    assert found[1].tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7]
    assert found[2].tolist() == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7]
    assert found[3].tolist() == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7]


def test_video_frame_pairs_count_like_images_one_grid_each(reference, processing):
    ids = expand(processing, 3, [(1, 4, 4), (1, 4, 4)])
    ids[ids == processing.image_pad] = processing.video_pad
    types = torch.from_numpy(media_types(ids, processing))[None].int()
    expected, _ = reference.model.get_rope_index(
        torch.from_numpy(ids)[None], types, video_grid_thw=torch.tensor([[2, 4, 4]])
    )
    assert (rope_positions(ids, [(1, 4, 4)] * 2, processing)[1:] == expected[:, 0].numpy()).all()


@pytest.mark.parametrize(
    ("grids", "said", "problem"),
    [
        ([(1, 4, 4)], [], "4 media placeholders more"),
        ([], [(1, 4, 4)], "grid of 4 cells"),
        ([(1, 4, 4)], [(1, 4, 6)], "grid of 6 cells"),
        ([(1, 4, 6)], [(1, 4, 4)], "2 media placeholders more"),
    ],
)
def test_placeholders_that_do_not_match_the_grids_are_an_error(processing, grids, said, problem):
    with pytest.raises(DataError, match=problem):
        rope_positions(expand(processing, 3, grids), said, processing)
