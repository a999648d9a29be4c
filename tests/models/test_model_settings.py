"""The two model settings: what they load, and one clear error for every wrong folder."""

import dataclasses
import json
import math
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from pydantic import ValidationError
from transformers import Qwen3VLForConditionalGeneration

from qcvl.errors import CheckpointError
from qcvl.models.build import sine_cosine_table
from qcvl.models.settings import ModelSpec, ScratchModel
from qcvl.models.towers import count_parameters
from tests.conftest import choice
from tests.models.conftest import ARCHITECTURE, scratch

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
COMMON = {"min_cells": 1, "max_cells": 16, "lr_multiplier": 1.0, "gradient_checkpointing": False, "attn": "auto"}
COMMON |= {"context_factor": 1.0, "compile": False, "liger": False}


def spec(path, dtype="auto"):
    return ModelSpec(path=str(path), dtype=dtype, **COMMON)


def from_yaml(name, **changes):
    values = choice(f"model/{name}.yaml") | changes
    return ModelSpec if "path" in values else ScratchModel, values


def test_importing_the_settings_imports_neither_torch_nor_transformers():
    code = "import qcvl.models.settings, qcvl.models.pixels, qcvl.models.positions, qcvl.models.towers, sys; "
    code += "print({'torch', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("name", NAMES)
def test_each_yaml_lists_exactly_the_fields_of_its_settings(name):
    cls, values = from_yaml(name)
    assert set(values) == {field.name for field in dataclasses.fields(cls)}
    built = cls(**values)
    assert 1 <= built.min_cells <= built.max_cells <= 729


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("qwen")])
def test_a_published_size_is_named_after_its_hub_id_and_keeps_its_familys_budget(name):
    _, values = from_yaml(name)
    hub = values["path"].removeprefix("Qwen/").removesuffix("-Instruct").lower()
    assert re.sub(r"[-.]", "_", hub) == name
    side = 32 if name.startswith("qwen3") else 28
    assert values["min_cells"] == 16 and 750 <= math.sqrt(values["max_cells"]) * side <= 768


def test_unknown_fields_and_an_empty_image_budget_are_refused(tokenizer_folder):
    with pytest.raises(ValidationError, match="min_cells 5 is above max_cells 4"):
        scratch(tokenizer_folder, min_cells=5, max_cells=4)
    with pytest.raises(ValidationError, match="colour"):
        scratch(tokenizer_folder, colour="red")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("small_60m", 55e6, 65e6),
        ("tiny_scratch", 1e6, 3e6),
        ("tiny_qwen2_vl", 0.7e6, 3e6),
        ("tiny_qwen2_5_vl", 0.7e6, 3e6),
        ("tiny_qwen3_vl_moe", 1e6, 4e6),
    ],
)
def test_the_scratch_configurations_have_the_size_their_name_says(tokenizer_folder, name, least, most):
    cls, values = from_yaml(name, tokenizer=str(tokenizer_folder))
    counts = count_parameters(cls(**values).load_model())
    assert least < sum(count.total for count in counts.values()) < most
    assert all(count.total > 0 for count in counts.values())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(tokenizer_folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = scratch(tokenizer_folder).load_model().state_dict()
    assert (torch.rand(3) == expected).all()
    second, other = (scratch(tokenizer_folder, seed=seed).load_model().state_dict() for seed in (0, 1))
    assert all((first[name] == second[name]).all() for name in first)
    assert not torch.equal(
        first["model.visual.merger.linear_fc1.weight"], other["model.visual.merger.linear_fc1.weight"]
    )


def test_initial_weights_have_the_asked_spread_and_residual_outputs_a_smaller_one(tokenizer_folder):
    wide, flat = (
        scratch(tokenizer_folder, init_std=0.06, scale_residual_outputs=scaled).load_model().state_dict()
        for scaled in (True, False)
    )
    block, layer = "model.visual.blocks.1.", "model.language_model.layers.1."
    for name in (layer + "mlp.gate_proj.weight", block + "attn.qkv.weight", "model.visual.patch_embed.proj.weight"):
        assert wide[name].std().item() == pytest.approx(0.06, rel=0.1)
        assert (wide[name] == flat[name]).all()
    for name in (layer + "self_attn.o_proj", layer + "mlp.down_proj", block + "attn.proj", block + "mlp.linear_fc2"):
        torch.testing.assert_close(wide[name + ".weight"] * 2, flat[name + ".weight"])  # sqrt(2 * 2 layers) = 2
    assert not wide[block + "attn.qkv.bias"].any() and (wide[block + "norm1.weight"] == 1).all()
    torch.testing.assert_close(wide["model.visual.pos_embed.weight"], 0.5 * sine_cosine_table(16, 24))


def test_the_position_table_tells_rows_by_one_half_and_columns_by_the_other():
    table = sine_cosine_table(16, 8).reshape(4, 4, 8)
    assert (table[2, :, :4] == table[2, :1, :4]).all() and (table[:, 3, 4:] == table[:1, 3, 4:]).all()
    expected = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]  # row 1 at the rates 1 and 10,000 ** -0.5
    torch.testing.assert_close(table[1, 0, :4], torch.tensor(expected))


def test_untied_scratch_models_get_a_head_of_their_own(tokenizer_folder):
    text = ARCHITECTURE["text_config"] | {"tie_word_embeddings": False}
    architecture = ARCHITECTURE | {"tie_word_embeddings": False, "text_config": text}
    first, second = (scratch(tokenizer_folder, architecture=architecture).load_model() for _ in range(2))
    assert first.lm_head.weight is not first.get_input_embeddings().weight
    assert (first.lm_head.weight == second.lm_head.weight).all()
    assert first.lm_head.weight.std().item() == pytest.approx(0.2, rel=0.1)


def test_a_saved_checkpoint_keeps_hugging_faces_names_and_loads_in_plain_transformers(model, plain, checkpoint):
    ours, theirs = model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert type(plain.model.visual.patch_embed).__module__.startswith("transformers.")
    saved = json.loads((checkpoint / "config.json").read_text())
    assert saved["architectures"] == ["Qwen3VLForConditionalGeneration"] and "qcvl" not in json.dumps(saved)


def test_a_local_checkpoint_loads_with_the_network_refused(model, checkpoint, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    loaded = spec(checkpoint).load_model().state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in model.state_dict().items())
    assert spec(checkpoint).load_processing().max_pixels == 16 * 32 * 32


def test_dtype_is_the_asked_one_or_the_checkpoints_own(checkpoint, tmp_path):
    assert spec(checkpoint, "bfloat16").load_model().dtype == torch.bfloat16
    spec(checkpoint, "bfloat16").load_model().save_pretrained(tmp_path / "half")
    assert spec(tmp_path / "half").load_model().dtype == torch.bfloat16
    assert spec(tmp_path / "half", "float32").load_model().dtype == torch.float32


def test_a_hub_id_that_cannot_be_fetched_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"Qwen/Nothing is no folder here.*set model.path to that folder"):
        spec("Qwen/Nothing").load_model()


def broken(checkpoint: Path, kind: str) -> Path:
    """A checkpoint folder with one thing wrong."""
    config = json.loads((checkpoint / "config.json").read_text())
    if kind == "no config":
        (checkpoint / "config.json").unlink()
    elif kind == "config is no JSON":
        (checkpoint / "config.json").write_text("{")
    elif kind == "other model":
        (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    elif kind == "adapter":
        (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "/models/base"}')
    elif kind == "no weights":
        (checkpoint / "model.safetensors").unlink()
    elif kind == "pickled":
        (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    elif kind == "shard missing":
        (checkpoint / "model.safetensors").unlink()
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    elif kind == "cut weights":
        weights = checkpoint / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:2000])
    elif kind == "other shapes":
        config["text_config"]["hidden_size"] = 64
        (checkpoint / "config.json").write_text(json.dumps(config))
    elif kind == "more layers":
        config["text_config"]["num_hidden_layers"] = 3
        config["text_config"].pop("layer_types", None)
        (checkpoint / "config.json").write_text(json.dumps(config))
    return checkpoint


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no config", r"has no config.json \(it holds .*model.safetensors"),
        ("config is no JSON", "config.json is not readable JSON"),
        ("other model", "model_type 'llama'; expected one of qwen3_vl"),
        ("adapter", "holds an adapter .* over /models/base.*stage.init_from"),
        ("no weights", "has no weights; expected model.safetensors"),
        ("pickled", r"only pickled weights \(pytorch_model.bin\), which are never loaded"),
        ("shard missing", "2 of 2 weight files are missing"),
        ("cut weights", "a weight file is damaged"),
        ("other shapes", "transformers cannot load it"),
        ("more layers", r"11 tensors of config.json's model are not in its weights"),
    ],
)
def test_a_wrong_folder_is_one_clear_error(checkpoint, kind, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        spec(broken(checkpoint, kind)).load_model()
    assert str(checkpoint) in str(caught.value)


@pytest.mark.parametrize("method", ["load_model", "load_processing"])
def test_a_path_that_is_no_folder_says_what_is_there(checkpoint, method):
    with pytest.raises(CheckpointError, match=r"chekpoint: no such model folder \(.* holds checkpoint\)"):
        getattr(spec(checkpoint.parent / "chekpoint"), method)()
    with pytest.raises(CheckpointError, match=r"nowhere does not exist either"):
        getattr(spec("/nowhere/all"), method)()
    with pytest.raises(CheckpointError, match="is a file"):
        getattr(spec(checkpoint / "config.json"), method)()
    with pytest.raises(CheckpointError, match="no embedded model of that name"):
        getattr(spec("embedded:../models/tiny"), method)()


def test_a_checkpoint_without_a_tokenizer_or_with_a_text_only_template_is_an_error(checkpoint):
    (checkpoint / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(CheckpointError, match=r"without <\|image_pad\|> \(text only\)"):
        spec(checkpoint).load_processing()
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match="no chat template"):
        spec(checkpoint).load_processing()
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        spec(checkpoint).load_processing()


def test_a_moved_checkpoint_folder_loads_by_its_relative_path(checkpoint, tmp_path, monkeypatch):
    shutil.copytree(checkpoint, tmp_path / "runs" / "last")
    monkeypatch.chdir(tmp_path)
    assert isinstance(spec("runs/last").load_model(), Qwen3VLForConditionalGeneration)
