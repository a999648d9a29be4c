"""Windows, pairs and the cache as the data module hands them on."""

import numpy as np
import pytest

from qcvl.augment.crop import SampleCrop
from qcvl.data import dataset as dataset_module
from qcvl.data.samples import build_sample
from qcvl.inference.evaluator import predict
from qcvl.inference.predictor import Reply
from tests.conftest import write_pairs

CROPS = SampleCrop(size=64, aimed_share=0.5, empty_share=0.0, min_coverage=0.5)


@pytest.fixture
def pairs(tmp_path):
    """A JSONL file of three pairs of 160x96 pixels with one box each."""
    return str(write_pairs(tmp_path, 3, (160, 96)))


@pytest.fixture
def module_of(make_data, make_datamodule, pairs):
    """``module_of(pair=…, crops=…, cache_mb=…)``: a data module over the pairs."""

    def make(**changes):
        data = make_data(**{"train": pairs, "val": pairs, "sampling": "dense", "pair": "fused"} | changes)
        return make_datamodule(data=data, pairing=data.pair)

    return make


def test_a_training_sample_is_a_window_of_what_the_pairing_shows(module_of):
    datamodule = module_of(crops=CROPS)
    fused = [build_sample(record, "dense", "fused").images[0] for record in datamodule.sources("train")[0].records]
    for epoch in range(4):
        sample, _, where = datamodule.train_dataset().sample((epoch, 1))
        (pixels,) = sample.images
        assert pixels.shape == (64, 64, 3) and where.endswith("pairs.jsonl:2")
        places = [
            (x, y) for x in range(97) for y in range(33) if np.array_equal(fused[1][y : y + 64, x : x + 64], pixels)
        ]
        assert len(places) == 1
    whole, _, _ = module_of().train_dataset().sample((0, 1))
    assert np.array_equal(whole.images[0], fused[1])


def test_windows_differ_between_epochs_in_training_and_are_the_same_in_each_validation(module_of):
    datamodule = module_of(crops=CROPS)
    train = datamodule.train_dataset()
    assert len({train.sample((epoch, 0))[0].images[0].tobytes() for epoch in range(6)}) > 1
    first, second = (next(iter(module_of(crops=CROPS).val_dataloader()[0])) for _ in range(2))
    assert np.array_equal(first["pixel_values"], second["pixel_values"])
    assert first["image_grid_thw"].tolist() == [[1, 4, 4]] * 3  # 64 pixels are four patches


class Watching:
    """A predictor that finds nothing and keeps what it was shown."""

    def __init__(self):
        self.shown = []

    def seen_size(self, size_wh):
        return size_wh

    def answer(self, requests):
        self.shown += [[image.shape for image in request.images] for request in requests]
        return [Reply("{}", 1, True) for _ in requests]


@pytest.mark.parametrize(("pair", "images"), [("fused", 1), ("photo", 1), (None, 2)])
def test_answers_are_about_whole_photos_as_the_pairing_shows_them(module_of, pair, images):
    datamodule, predictor = module_of(crops=CROPS, pair=pair), Watching()
    predictions = predict(datamodule.evaluation_items("val", None), predictor, datamodule.answer_format, source="val")
    assert predictor.shown == [[(96, 160, 3)] * images] * 3
    assert {prediction.sizes for prediction in predictions} == {((160, 96),) * images}


@pytest.mark.parametrize(("cache_mb", "decoded"), [(0, 6), (1, 3)])
def test_with_memory_each_photo_is_decoded_once(module_of, monkeypatch, cache_mb, decoded):
    seen = []

    def counted(record, *rest):
        seen.append(record.where)
        return build_sample(record, *rest)

    monkeypatch.setattr(dataset_module, "build_sample", counted)
    dataset = module_of(cache_mb=cache_mb).train_dataset()
    samples = [dataset.sample((epoch, index))[0] for epoch in (0, 1) for index in range(3)]
    assert len(seen) == decoded
    assert all(np.array_equal(samples[k].images[0], samples[k + 3].images[0]) for k in range(3))
