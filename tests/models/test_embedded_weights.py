"""The weights in the package: the recorded files, a plain Qwen3-VL, and able to do what they were trained for."""

import hashlib
from pathlib import Path

from transformers import Qwen3VLForConditionalGeneration

from qcvl import config
from qcvl.data.datamodule import EvaluationItem
from qcvl.data.scenes.records import SceneRecords
from qcvl.inference.evaluator import predict, score
from qcvl.inference.hf import HFPredictor
from qcvl.models.towers import count_parameters

FOLDER = Path(config.__file__).parent / "models" / "tiny"


def test_the_files_are_the_recorded_ones():
    recorded = dict(line.split("  ")[::-1] for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FOLDER.iterdir()}
    found.pop("SHA256SUMS")
    assert recorded == found


def test_plain_transformers_loads_a_model_of_one_to_three_million_parameters():
    model = Qwen3VLForConditionalGeneration.from_pretrained(FOLDER)
    assert 1_000_000 <= sum(count.total for count in count_parameters(model).values()) <= 3_000_000


def test_it_finds_and_names_most_parts_of_scenes_it_has_not_seen():
    settings = config.instantiate_settings(config.load("train"))
    records = SceneRecords(length=24, seed=99, domain="base", language="zh")
    items = [EvaluationItem(record, index, "dense", settings.prompts) for index, record in enumerate(records)]
    predictor = HFPredictor(settings.model.load_model(), settings.model.load_processing(), settings.generation)
    predictions = predict(items, predictor, settings.answer, source="scenes")
    metrics = score({"scenes": records}, predictions)
    assert metrics["dense_f1@0.5"] >= 0.8
    assert metrics["json_valid"] >= 0.95
