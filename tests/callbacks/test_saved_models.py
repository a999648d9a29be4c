"""What a checkpoint folder is to plain transformers and peft, which know nothing of qcvl."""

import json

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from qcvl.data.chat import ask, encode_question
from qcvl.data.media import patchify
from qcvl.models.forward import normalised
from tests.callbacks.conftest import QUIET
from tests.conftest import photo

pytestmark = QUIET
PARTS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


@pytest.fixture
def base(small_model, processing, tmp_path):
    """The untrained base as a Hugging Face folder."""
    small_model().load_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**{name: inputs[name] for name in PARTS}).logits


@pytest.fixture
def inputs(processing, prompts):
    patches, grids = patchify([photo(64, 96)], processing)
    ids = torch.from_numpy(encode_question(processing, ask(prompts.dense, 1), grids))[None]
    pixels = normalised(torch.from_numpy(patches), processing.family)
    media = {"pixel_values": pixels, "image_grid_thw": torch.from_numpy(grids)}
    types = (ids == processing.image_pad).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **media}


@pytest.mark.parametrize("full_towers", [[], ["aligner"]])
def test_an_adapter_folder_loads_in_plain_peft_and_answers_as_the_trained_model(
    start_run, make_module, lora, base, inputs, tmp_path, full_towers
):
    module = make_module(tuner=lora(full_towers=full_towers), rate=1e-2)
    start_run(module=module, max_epochs=2)
    plain = AutoModelForImageTextToText.from_pretrained(base, attn_implementation="sdpa")
    untrained = logits(plain, inputs)
    loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "run/checkpoints/last")
    trained = logits(module.model, inputs)
    assert (trained - untrained).abs().max() > 0.05
    torch.testing.assert_close(logits(loaded, inputs), trained, rtol=1e-4, atol=1e-4)


def test_merging_an_adapter_keeps_the_trained_copy_of_a_whole_tower(
    start_run, make_module, lora, base, inputs, tmp_path
):
    module = make_module(tuner=lora(full_towers=["aligner"]), rate=1e-2)
    start_run(module=module, max_epochs=2)
    plain = AutoModelForImageTextToText.from_pretrained(base, attn_implementation="sdpa")
    merged = peft.PeftModel.from_pretrained(plain, tmp_path / "run/checkpoints/last").merge_and_unload()
    torch.testing.assert_close(logits(merged, inputs), logits(module.model, inputs), rtol=1e-4, atol=1e-4)
    trained = dict(module.model.named_parameters())
    (name,) = (
        n for n in trained if "visual.merger" in n and "modules_to_save" in n and n.endswith("linear_fc1.weight")
    )
    assert torch.equal(merged.model.visual.merger.linear_fc1.weight, trained[name])


@pytest.mark.parametrize("full_towers", [[], ["aligner"]])
def test_an_adapter_file_holds_what_was_trained_and_nothing_more(start_run, make_module, lora, tmp_path, full_towers):
    module = make_module(tuner=lora(full_towers=full_towers, rank=16))
    start_run(module=module)
    trained = sum(
        parameter.numel() * parameter.element_size() for parameter in module.parameters() if parameter.requires_grad
    )
    path = tmp_path / "run/checkpoints/last/adapter_model.safetensors"
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert trained <= path.stat().st_size - header <= 1.02 * trained


def test_tokenizer_and_image_processor_load_and_cut_the_same_tokens_and_patches(start_run, processing, tmp_path):
    start_run()
    folder = tmp_path / "run/checkpoints/last"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "螺丝 a"}]}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = encode_question(processing, messages, np.array([(1, 2, 2)]))  # one cell: one placeholder
    assert tokenizer(rendered)["input_ids"] == ids.tolist()
    picture = photo(100, 70)
    found = AutoImageProcessor.from_pretrained(folder, backend="pil")(Image.fromarray(picture), return_tensors="np")
    patches, grids = patchify([picture], processing)
    assert np.array_equal(found["image_grid_thw"], grids)
    pixels = normalised(torch.from_numpy(patches), processing.family).numpy()
    np.testing.assert_allclose(found["pixel_values"], pixels, rtol=0, atol=1e-5)


def test_a_full_folder_loads_in_plain_transformers_and_answers_as_the_trained_model(
    start_run, make_module, inputs, tmp_path
):
    module = make_module(rate=1e-3)
    start_run(module=module, max_epochs=2)
    folder = tmp_path / "run/checkpoints/last"
    loaded = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
    torch.testing.assert_close(logits(loaded, inputs), logits(module.model, inputs), rtol=1e-4, atol=1e-4)
    assert json.loads((folder / "qcvl.json").read_text())["tuner"] == {
        "vision": "frozen",
        "aligner": "full",
        "llm": "full",
    }
    generated = loaded.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] <= inputs["input_ids"].shape[1] + 3
