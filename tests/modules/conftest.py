"""Batches of the shared records, and an optimizer whose step is the gradient itself."""

import json
import shutil

import pytest
import torch

from qcvl.data.batch import collate
from tests.conftest import choice


class PlainDescent:
    """Stands in for optimizer settings: after one step at rate 1 a parameter has moved by minus its gradient."""

    weight_decay = 0.0

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def setup(self, groups):
        return torch.optim.SGD([{**group, "lr": self.rate} for group in groups])


class SteadyRate:
    """Stands in for scheduler settings: the rate stays as it is."""

    def setup(self, optimizer, total_steps):
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


@pytest.fixture
def descent():
    """``descent(rate)``: keyword arguments of ``make_module`` for plain gradient descent at a steady rate."""
    return lambda rate=1.0: {"optimizer": PlainDescent(rate), "lr_scheduler": SteadyRate()}


@pytest.fixture
def features(make_datamodule):
    """Encoded training samples of different lengths, sizes and label counts, without grounding targets."""
    dataset = make_datamodule().train_dataset()
    return [dataset[(0, index)] for index in (0, 1, 2, 4, 13)]


@pytest.fixture
def batches(features):
    """The samples one by one."""
    return [collate([item]) for item in features]


@pytest.fixture
def packed(features):
    """The samples in one row."""
    return collate(features)


@pytest.fixture
def films(shared_data, scenes, tmp_path):
    """Data settings of 6 conversations: two about a clip, one about a clip and a photo, one about a photo, two of text.

    Of each clip there are few and small frames.
    """
    pytest.importorskip("av")
    shutil.copy(shared_data("video") / "clip_a.mp4", tmp_path)
    image, video = {"type": "image"}, {"type": "video"}
    shown = [([], ["clip_a.mp4"]), ([], []), ([str(scenes / "en_0.png")], ["clip_a.mp4"])]
    shown += [([str(scenes / "en_1.png")], []), ([], [{"video": "clip_a.mp4", "video_end": 2.0}]), ([], [])]
    rows = []
    for number, (images, videos) in enumerate(shown):
        asked = [*[image] * len(images), *[video] * len(videos), {"type": "text", "text": f"What is {number}?"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"part {number}"}]
        rows.append(json.dumps({"images": images, "videos": videos, "messages": messages}) + "\n")
    (tmp_path / "films.jsonl").write_text("".join(rows))
    path = str(tmp_path / "films.jsonl")
    return {"train": path, "val": path, "video": choice("data/jsonl.yaml")["video"] | {"max_pixels": 4096}}


@pytest.fixture
def trained():
    """``trained(module)``: a copy of each trainable parameter by its name in the model."""

    def copy(module) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for n, p in module.model.named_parameters() if p.requires_grad}

    return copy
