"""A model of each family trains, is saved, answers, and is the same in plain transformers and peft."""

import peft
import pytest
import torch
from peft import get_peft_model_state_dict
from transformers import AutoModelForImageTextToText

from qcvl.checkpoints.adapters import init_from, save_model
from qcvl.checkpoints.merge import merge
from qcvl.checkpoints.reopen import base_of
from qcvl.data.batch import collate
from qcvl.data.chat import IGNORE
from qcvl.errors import CheckpointError, ConfigError
from qcvl.inference.hf import HFPredictor
from qcvl.inference.predictor import Request
from qcvl.inference.settings import Generation
from qcvl.models.forward import normalised
from qcvl.models.pixels import repeated
from qcvl.models.settings import ScratchModel
from qcvl.models.towers import TOWERS, is_router, tower_of
from qcvl.modules.settings import GKD
from qcvl.schema.prompts import TaskPrompt
from tests.conftest import choice, photo

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
CHOICES = {
    "qwen2_vl": "tiny_qwen2_vl",
    "qwen2_5_vl": "tiny_qwen2_5_vl",
    "qwen3_vl": "tiny_scratch",
    "qwen3_vl_moe": "tiny_qwen3_vl_moe",
}


@pytest.fixture(params=list(CHOICES))
def family(request):
    return request.param


@pytest.fixture
def spec(family):
    """The choice of ``model`` as users have it, for photos of 1-16 cells."""
    return ScratchModel(**choice(f"model/{CHOICES[family]}.yaml") | {"min_cells": 1, "lr_multiplier": 1})


def test_a_model_of_each_family_learns_from_a_teacher_with_answers_it_draws_and_features(trained, family, lora, logged):
    values = choice("objective/gkd.yaml") | {"max_completion_length": 4, "lmbda": 1.0}
    deep = ["deepstack"] if family.startswith("qwen3") else []
    values["visual_kd"] = values["visual_kd"] | {"enabled": True, "targets": ["merger", "vision", *deep]}
    trained(objective=GKD(**values), tuner=lora(), rate=1e-2)
    for key in ("train/sft_loss", "train/llm_kd_loss", "train/vision_kd_loss"):
        assert len(logged(key)) == 2 and logged(key)[1] > 0, key


@pytest.fixture
def trained(spec, make_module, make_datamodule, make_data, make_trainer, logged):
    """``trained(**changes)``: the module after two steps over four records, all towers, and its losses."""

    def run(steps=2, **changes):
        processing = spec.load_processing()
        module = make_module(model=spec, processing=processing, towers=TOWERS, **changes)
        data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, sample_limit=4, batch_size=4)
        trainer = make_trainer(max_epochs=steps, gradient_clip_val=None)
        trainer.fit(module, make_datamodule(data=data, processing=processing))
        assert trainer.global_step == steps
        return module

    return run


def answers(model, processing):
    """Greedy answers to two requests in one padded batch."""
    generation = Generation(max_new_tokens=8, temperature=0.0, top_p=0.9, batch_size=2)
    prompts = TaskPrompt(system="Inspect.", user="List"), TaskPrompt(system="", user="List all the parts")
    sizes = ((64, 96), (128, 128))
    requests = [Request((photo(*size),), prompt) for size, prompt in zip(sizes, prompts, strict=True)]
    return [reply.text for reply in HFPredictor(model, processing, generation).answer(requests)]


def plain_inputs(item, processing):
    """One encoded sample as transformers wants it: rows twice along time, no segments."""
    batch = collate([item])
    rows = torch.from_numpy(repeated(batch["pixel_values"].numpy(), processing.family.temporal_patch_size))
    inputs = {name: batch[name] for name in ("input_ids", "mm_token_type_ids", "labels", "image_grid_thw")}
    return inputs | {"pixel_values": normalised(rows, processing.family), "use_cache": False}


def logits(model, item, processing):
    with torch.no_grad():
        return model.eval()(**plain_inputs(item, processing)).logits


def test_two_steps_move_every_tower_and_the_saved_model_answers_alike_in_plain_transformers(
    family, trained, logged, make_datamodule, tmp_path
):
    module = trained()
    first, second = logged("train/loss")
    assert second < first
    module.save(tmp_path / "saved")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", attn_implementation="sdpa").eval()
    assert plain.config.model_type == family
    assert answers(plain, module.processing) == answers(module.model, module.processing)
    item = make_datamodule(processing=module.processing).train_dataset()[(0, 1)]
    own, other = (logits(model, item, module.processing) for model in (module.model, plain))
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_the_first_steps_loss_is_that_of_plain_transformers(spec, make_module, make_datamodule, tmp_path):
    processing = spec.load_processing()
    module = make_module(model=spec, processing=processing, towers=TOWERS)
    module.configure_model()
    module.model.save_pretrained(tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa").train()
    dataset = make_datamodule(processing=processing).train_dataset()
    features = [dataset[(0, index)] for index in (0, 1, 2)]
    packed = collate(features)
    found = module.losses(packed)["sft_sum"].sum() / (packed["labels"] != IGNORE).sum()
    found.backward()
    total, count = 0.0, 0
    for inputs in (plain_inputs(item, processing) for item in features):
        labels = int((inputs["labels"] != IGNORE).sum())
        total = total + plain(**inputs).loss * labels
        count += labels
    (total / count).backward()
    assert found.item() == pytest.approx(total.item() / count, abs=1e-5)
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    own = {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
    assert own.keys() == {name for name in expected if not is_router(name)}  # routers are frozen
    for name, gradient in own.items():
        scale = expected[name].abs().max() + 1e-5
        assert (gradient - expected[name]).abs().max() <= 5e-5 * scale, name


def test_an_adapter_on_all_towers_is_the_same_in_plain_peft_and_merged(
    family, spec, trained, lora, make_datamodule, tmp_path
):
    options = EXPERTS if family == "qwen3_vl_moe" else {}
    module = trained(tuner=lora(dropout=0.0, options=options), rate=1e-2)
    moved = {tower_of(name) for name, p in module.model.named_parameters() if "lora_B" in name and p.any()}
    assert moved == set(TOWERS)
    (tmp_path / "adapter").mkdir()
    module.save(tmp_path / "adapter")
    base, item = spec.load_model(), make_datamodule(processing=module.processing).train_dataset()[(0, 1)]
    base.save_pretrained(tmp_path / "base")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", attn_implementation="sdpa")
    plain = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    expected, before = (logits(model, item, module.processing) for model in (module.model, base))
    assert (expected - before).abs().max() > 1e-2
    for other in (plain, merge(base, tmp_path / "adapter")):
        torch.testing.assert_close(logits(other, item, module.processing), expected, rtol=1e-4, atol=1e-4)


def moe(**changes):
    return ScratchModel(**choice("model/tiny_qwen3_vl_moe.yaml") | {"min_cells": 1, "lr_multiplier": 1} | changes)


@pytest.fixture
def one_step(make_module, make_datamodule, make_data, make_trainer, tmp_path):
    """``one_step(name, load_balance=…)``: the mixture of experts after a step, and its routers and experts before."""

    def run(name, **changes):
        module = make_module(model=moe(), towers=["llm"], **changes)
        module.configure_model()
        before = {n: p.detach().clone() for n, p in module.model.named_parameters() if ".gate." in n or "experts" in n}
        data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, sample_limit=4, batch_size=4)
        make_trainer(tmp_path / name, max_steps=1, gradient_clip_val=None).fit(module, make_datamodule(data=data))
        return module, before

    return run


def test_routers_stay_as_they_are_unless_their_balance_is_trained(one_step, logged, tmp_path):
    for name, weight in (("off", 0.0), ("on", 0.5)):
        module, before = one_step(name, load_balance=weight)
        after = dict(module.model.named_parameters())
        moved = {n for n in before if not torch.equal(before[n], after[n])}
        routers = {n for n in before if is_router(n)}
        assert len(routers) == 3 and len(before) == 3 * 3
        assert moved == (set(before) if weight else set(before) - routers)
    (plain,), (balanced,) = (logged("train/loss", tmp_path / name) for name in ("off", "on"))
    (balance,) = logged("train/balance_loss", tmp_path / "on")
    assert logged("train/balance_loss", tmp_path / "off") == []
    assert 2 <= balance < 8 and balanced == pytest.approx(plain + 0.5 * balance, abs=1e-5)


def test_the_balance_of_a_packed_row_is_that_of_plain_transformers_on_it(make_module, make_datamodule, tmp_path):
    module = make_module(model=moe(), towers=["llm"], load_balance=0.1)
    module.configure_model()
    module.model.save_pretrained(tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path, attn_implementation="sdpa").train()
    item = make_datamodule().train_dataset()[(0, 1)]
    sums = module.losses(collate([item]))
    out = plain(**plain_inputs(item, module.processing), output_router_logits=True)
    labels = int((collate([item])["labels"] != IGNORE).sum())
    assert sums["balance_sum"].item() / labels == pytest.approx(out.aux_loss.item(), abs=1e-5)


def test_under_adapters_the_balance_moves_them_and_not_the_routers(one_step, lora):
    module, before = one_step("lora", load_balance=0.5, tuner=lora(options=EXPERTS))
    after = dict(module.model.named_parameters())
    kept = [name for name in before if is_router(name)]
    assert len(kept) == 3 and all(torch.equal(before[name], after[name]) for name in kept)


def test_a_balance_without_experts_to_train_is_an_error(make_module):
    with pytest.raises(ConfigError, match="load_balance=0.1: the model has no experts; set objective.load_balance=0"):
        make_module(load_balance=0.1).configure_model()
    with pytest.raises(ConfigError, match="stage=2 leaves the llm frozen"):
        make_module(model=moe(), towers=["aligner"], load_balance=0.1).configure_model()


def test_a_later_stage_starts_from_an_adapter_on_experts_that_its_tuner_names_again(lora, tmp_path):
    tuner = lora(options=EXPERTS)
    first = tuner.setup(moe().load_model(), ["llm"])
    for name, parameter in first.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    save_model(first, tmp_path)
    second = init_from(moe().load_model(), tuner, ["aligner"], tmp_path)
    saved, now = (get_peft_model_state_dict(model) for model in (first, second))
    assert sum("experts" in name for name in saved) == 3 * 2 * 2
    assert all(torch.equal(saved[name], now[name]) for name in saved)
    trained = {tower_of(name) for name, parameter in second.named_parameters() if parameter.requires_grad}
    assert trained == {"aligner"}
    with pytest.raises(CheckpointError, match="12 of 36 tensors have no place"):
        init_from(moe().load_model(), lora(), ["aligner"], tmp_path)


def test_an_adapter_is_read_with_the_context_it_was_trained_with(make_module, small_model, lora):
    longer = small_model(context_factor=2.0)
    contract = make_module(model=longer, tuner=lora()).contract
    assert contract.base.context_factor == 2
    assert base_of(contract, small_model()) == base_of(contract, longer) == longer
