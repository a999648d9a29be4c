"""What leaves qcvl is plain: adapters load in transformers + peft, exports in transformers alone, with equal logits."""

from pathlib import Path

import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration

from qcvl.checkpoints.reopen import reopen
from qcvl.config import load
from qcvl.models.forward import hidden_states, label_logits
from qcvl.models.positions import rope_positions
from tests.invariant.conftest import CHECKOUT

BASE = CHECKOUT / "qcvl/models/tiny"


@pytest.fixture
def question(photos):
    """``question(folder)``: a model's input about one photo, made from the folder by transformers alone."""

    def ask(folder: Path) -> dict[str, torch.Tensor]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        image = processor([Image.open(photos / "images/val_zh_0024.jpg")], return_tensors="pt")
        content = [{"type": "image"}, {"type": "text", "text": "列出物体"}]
        template = (folder / "chat_template.jinja").read_text()
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        cells = int(image["image_grid_thw"].prod()) // processor.merge_size**2
        ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * cells), return_tensors="pt").input_ids
        types = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long()
        assert int(types.sum()) == cells > 1
        return {"input_ids": ids, "mm_token_type_ids": types, **image}

    return ask


@torch.no_grad()
def logits(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Float32 ``[L, V]`` of a model's own forward."""
    return model.eval()(**inputs).logits[0].float()


def load_exported(folder: Path) -> torch.nn.Module:
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype="auto")


def load_base() -> torch.nn.Module:
    """The embedded model, whose file is in bfloat16, in the float32 of ``model=tiny``."""
    return Qwen3VLForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)


def load_adapter(folder: Path) -> torch.nn.Module:
    """Plain transformers and peft, which know nothing of qcvl."""
    return peft.PeftModel.from_pretrained(load_base(), folder)


def test_an_adapter_in_plain_peft_and_the_merged_export_have_the_logits_of_the_trained_module(
    command, finished_run, question, tmp_path
):
    last = finished_run / "checkpoints/last"
    done = command("export", f"checkpoint={last}", "output=exported", "hydra.run.dir=here")
    assert done.code == 0, done.output
    inputs = question(last)
    expected = logits(load_adapter(last), inputs)
    base = logits(load_base(), inputs)
    assert (expected - base).abs().max() > 0.01  # the training shows

    opened = reopen(last, load_model_settings())
    assert (packed_logits(opened.model, opened.processing, inputs) - expected).abs().max() < 1e-4
    exported = tmp_path / "exported"
    again = question(exported)
    assert all(torch.equal(again[name], inputs[name]) for name in inputs)
    assert (logits(load_exported(exported), again) - expected).abs().max() < 1e-4
    assert not list(exported.glob("adapter*"))


def test_an_export_part_of_the_way_lies_between_the_base_and_the_whole_one(command, finished_run, tmp_path):
    last = finished_run / "checkpoints/last"
    for share in ("1.0", "0.25"):
        done = command(
            "export", f"checkpoint={last}", f"share={share}", f"output=at_{share}", f"hydra.run.dir=of_{share}"
        )
        assert done.code == 0, done.output
    whole, part = (load_file(tmp_path / f"at_{share}/model.safetensors") for share in ("1.0", "0.25"))
    base = {name: tensor.float() for name, tensor in load_file(BASE / "model.safetensors").items()}
    assert whole.keys() == part.keys()
    for name, tensor in part.items():
        torch.testing.assert_close(tensor, 0.75 * base[name] + 0.25 * whole[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(part[name], whole[name]) for name in part)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_modules_trained_in_full_beside_an_adapter_are_the_exported_ones_and_bfloat16_halves_the_file(
    command, small_run, question, tmp_path
):
    settings = ("tuner=lora_aligner_full", "trainer.max_steps=4", "callbacks.checkpoint.every_n_train_steps=4")
    done = command("train", *small_run, *settings, "hydra.run.dir=here")
    assert done.code == 0, done.output
    last = tmp_path / "here/checkpoints/last"
    for dtype in ("float32", "bfloat16"):
        done = command("export", f"checkpoint={last}", f"dtype={dtype}", f"output={dtype}", f"hydra.run.dir=of_{dtype}")
        assert done.code == 0, done.output
    merged, base = load_file(tmp_path / "float32/model.safetensors"), load_file(BASE / "model.safetensors")
    trained = {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in load_file(last / "adapter_model.safetensors").items()
        if "lora_" not in name
    }
    assert {name.split(".")[2] for name in trained} == {"merger", "deepstack_merger_list"}
    assert all(torch.equal(merged[name], tensor) for name, tensor in trained.items())
    assert all(not torch.equal(base[name].float(), tensor) for name, tensor in trained.items())

    inputs = question(last)
    expected = logits(load_adapter(last), inputs)
    assert (logits(load_exported(tmp_path / "float32"), inputs) - expected).abs().max() < 1e-4
    half = load_exported(tmp_path / "bfloat16")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert (logits(half, inputs) - expected).abs().max() < 0.05 * expected.abs().max()  # 8 bits of mantissa
    sizes = [(tmp_path / dtype / "model.safetensors").stat().st_size for dtype in ("bfloat16", "float32")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.02)


def load_model_settings():
    """The settings object of ``model=tiny``."""
    from hydra.utils import instantiate

    return instantiate(load("export", ["checkpoint=x"]).model, _convert_="all")


@torch.no_grad()
def packed_logits(model: torch.nn.Module, processing, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits ``[L, V]`` by the path that training takes: one row, its own positions, no mask."""
    ids = inputs["input_ids"]
    positions = rope_positions(ids[0].numpy(), inputs["image_grid_thw"].numpy(), processing)
    batch = {**inputs, "position_ids": torch.from_numpy(positions)[:, None], "segments": (ids.shape[1],)}
    return label_logits(model, hidden_states(model.eval(), batch).states, torch.arange(ids.shape[1]))
