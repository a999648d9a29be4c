"""The rules of the one-row layout: a sound batch passes, and breaking any one of them is named."""

import pytest
import torch

from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.data.health import check_batch
from qcvl.errors import DataError


@pytest.fixture
def batch(make_datamodule):
    dataset = make_datamodule().train_dataset()
    return collate([dataset[(0, index)] for index in range(3)])


def second(batch) -> int:
    """Where the second sample starts."""
    return int(batch["segments"][0])


def longer(batch):
    batch["segments"][1] += 1


def short_labels(batch):
    batch["labels"] = batch["labels"][:, :-1]


def labelled_start(batch):
    batch["labels"][0, second(batch)] = 5


def no_label(batch):
    batch["labels"][0, second(batch) : second(batch) + int(batch["segments"][1])] = IGNORE


def running_positions(batch):
    batch["position_ids"][0, 0] = torch.arange(batch["input_ids"].shape[1])


def fewer_image_tokens(batch):
    batch["mm_token_type_ids"][batch["mm_token_type_ids"] > 0] = torch.tensor(0)


def other_grid(batch):
    batch["image_grid_thw"][0, 1] += 2


def lost_patches(batch):
    batch["pixel_values"] = batch["pixel_values"][4:]


def normalised_already(batch):
    batch["pixel_values"] = batch["pixel_values"] / 255


def test_a_sound_batch_passes(batch):
    check_batch(batch, merge_size=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (longer, "has segments of"),
        (short_labels, "labels for"),
        (labelled_start, "first token carries a label"),
        (no_label, r"samples \[1\] of a batch carry no label"),
        (running_positions, "positions do not restart"),
        (fewer_image_tokens, "has 0 image tokens and"),
        (other_grid, r"image 1 has 16 where its grid \[1, 10, 8\] makes 20; the chat template"),
        (lost_patches, "image tokens and .* patches for grids"),
        (normalised_already, "patches of torch.float32; expected grey levels"),
    ],
)
def test_a_broken_rule_is_named(batch, damage, message):
    damage(batch)
    with pytest.raises(DataError, match=message):
        check_batch(batch, merge_size=2)
