"""A random model that writes varied tokens, the same weights in plain transformers, and requests of unequal shapes."""

import pytest
import torch

from qcvl.inference.hf import HFPredictor
from qcvl.inference.predictor import Request
from qcvl.inference.settings import Generation
from qcvl.schema.prompts import TaskPrompt
from tests.conftest import photo

SIZES = (((128, 128),), ((64, 96),), ((32, 32),), ((128, 64), (64, 64)), ((96, 96),))  # photos of each request


@pytest.fixture(scope="session")
def model(small_model):
    """The small model with wide random weights: its greedy answers are not one token over and over."""
    return small_model(init_std=0.3).load_model().eval()


@pytest.fixture(scope="session")
def plain(model, tmp_path_factory):
    """The same weights in untouched transformers, on its own SDPA path."""
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("plain")
    model.save_pretrained(folder)
    return AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa").eval()


@pytest.fixture(scope="session")
def requests():
    """Five requests: one has two photos, prompts and photos differ in length and size."""
    return [
        Request(
            tuple(photo(*size, seed=10 * number + k) for k, size in enumerate(sizes)),
            TaskPrompt(system="Inspect." * (number % 2), user="List " + "the parts " * number),
        )
        for number, sizes in enumerate(SIZES)
    ]


@pytest.fixture
def make_predictor(model, processing):
    """``make_predictor(batch_size=…, temperature=…)``: answers by the random model, at most 12 tokens each."""

    def make(**changes) -> HFPredictor:
        values = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 0.9, "batch_size": 8}
        own = {name: changes.pop(name) for name in ("model", "processing") if name in changes}
        parts = {"model": model, "processing": processing} | own
        return HFPredictor(parts["model"], parts["processing"], Generation(**values | changes))

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two torch threads on shared cores stall each other."""
    torch.set_num_threads(1)
