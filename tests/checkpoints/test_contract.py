"""qcvl.json says how to process; the fingerprint says over which weights."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from qcvl.checkpoints.contract import Base, Contract, read_contract, write_contract
from qcvl.checkpoints.fingerprint import fingerprint
from qcvl.errors import CheckpointError

CONTRACT = Contract(
    version=1,
    stage=2,
    min_pixels=16384,
    max_pixels=589824,
    patch_factor=32,
    resample="bicubic",
    exif=True,
    emit_norm="norm1000",
    answer_format={"key_order": "geometry_first", "points": "flat"},
    prompts={"dense": {"system": "检查", "user": "描述"}},
    pairing=None,
    order="reference",
    base=Base(path="/models/a", model_type="qwen3_vl", fingerprint="ab", context_factor=1.0),
    tuner={"vision": "frozen", "aligner": "adapter", "llm": "adapter"},
)


def test_a_contract_survives_its_json():
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT
    assert "检查" in CONTRACT.to_json()


def test_a_contract_survives_its_folder(tmp_path):
    write_contract(CONTRACT, tmp_path)
    assert read_contract(tmp_path) == CONTRACT


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data.pop("patch_factor"), "patch_factor: Field required"),
        (lambda data: data.update(stages=1), "stages: Unexpected keyword"),
        (lambda data: data.update(version=2), "version"),
        (lambda data: data["base"].pop("fingerprint"), "base.fingerprint: Field required"),
        (lambda data: data.update(min_pixels="many"), "min_pixels"),
    ],
)
def test_a_wrong_contract_names_the_file_and_the_field(tmp_path, change, told):
    data = dataclasses.asdict(CONTRACT)
    change(data)
    (tmp_path / "qcvl.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=rf"qcvl\.json: .*{told}"):
        read_contract(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_broken_contract_is_one_clear_error(text):
    with pytest.raises(CheckpointError, match="not a checkpoint contract of version 1"):
        Contract.from_json(text)


def test_a_folder_without_a_contract_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"qcvl\.json: missing"):
        read_contract(tmp_path)


@pytest.fixture
def folder(model, tmp_path):
    """The small model in the Hugging Face layout."""
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_the_fingerprint_does_not_depend_on_shards_names_and_versions(model, folder, tmp_path):
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    config = json.loads((tmp_path / "shards" / "config.json").read_text())
    (tmp_path / "shards" / "config.json").write_text(
        json.dumps(config | {"transformers_version": "0", "_name_or_path": "elsewhere"})
    )
    assert fingerprint(folder) == fingerprint(tmp_path / "shards") == fingerprint(str(folder))


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_other_weights_of_the_same_shapes_give_another_fingerprint(folder, place):
    before = fingerprint(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    flat = next(tensor for name, tensor in tensors.items() if "merger.linear_fc1.weight" in name).view(-1)
    flat[{"first": 0, "middle": len(flat) // 2, "last": -1}[place]] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert fingerprint(folder) != before


def test_another_config_gives_another_fingerprint(folder):
    before = fingerprint(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))
    assert fingerprint(folder) != before


def test_a_state_has_a_fingerprint_that_follows_its_values_names_and_dtypes():
    state = {"a": torch.arange(5000.0), "b": torch.ones(3, dtype=torch.bfloat16)}
    same = {"b": state["b"].clone(), "a": state["a"].clone()}
    assert fingerprint(state) == fingerprint(same)
    changed = [
        state | {"a": state["a"] + 1},
        {"c": state["a"], "b": state["b"]},
        state | {"b": state["b"].float()},
        state | {"a": state["a"].reshape(50, 100)},
    ]
    assert len({fingerprint(other) for other in (state, *changed)}) == 5


def test_a_folder_and_its_state_agree_on_the_tensors(tmp_path):
    state = {"a": torch.arange(5000.0), "b": torch.ones(3, 2, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    both = fingerprint(tmp_path), fingerprint(state)
    save_file(state | {"b": state["b"] + 1}, tmp_path / "model.safetensors")
    assert fingerprint(tmp_path) != both[0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no \*\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no tensors"), "not a safetensors file"),
    ],
)
def test_a_folder_that_is_no_model_is_an_error(folder, spoil, told):
    spoil(folder)
    with pytest.raises(CheckpointError, match=told):
        fingerprint(folder)
