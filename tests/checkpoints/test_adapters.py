"""What a checkpoint holds of a model, and how the next stage starts from it."""

import json

import peft
import pytest
import torch
from safetensors import safe_open
from transformers import Qwen3VLForConditionalGeneration

from qcvl.checkpoints.adapters import adapter_modules, init_from, is_adapter, load_adapter, save_model
from qcvl.checkpoints.merge import merge
from qcvl.errors import CheckpointError
from qcvl.models.towers import tower_of
from qcvl.tuning.adapters import base_name
from qcvl.tuning.settings import FullTuner

WEIGHTS = "adapter_model.safetensors"


def trained_bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def names_in(folder) -> set[str]:
    with safe_open(folder / WEIGHTS, "pt") as file:
        return set(file.keys())


@pytest.fixture(params=[[], ["aligner"]], ids=["lora", "lora_aligner_full"])
def tuner(request, lora):
    """Both adapter tuners that ship, at rank 32 as they ship."""
    return lora(rank=32, alpha=64, full_towers=request.param)


@pytest.fixture
def stage_one(make_model, tuner, disturb, tmp_path):
    """A trained aligner adapter of stage 1: the model and its folder."""
    model = disturb(tuner.setup(make_model(), ["aligner"]))
    (tmp_path / "one").mkdir()
    save_model(model, tmp_path / "one")
    return model, tmp_path / "one"


@pytest.mark.parametrize("full_towers", [[], ["aligner"]], ids=["lora", "lora_aligner_full"])
def test_an_adapter_folder_holds_what_was_trained_and_at_most_two_percent_more(make_model, lora, full_towers, tmp_path):
    # Rank 256 gives tensors of 32 kB, as a real model's; at width 32 and rank 4 the names alone would be 2 %.
    model = lora(rank=256, full_towers=full_towers).setup(make_model(), ["llm", "aligner"])
    save_model(model, tmp_path)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "adapter_config.json"}
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) == trained_bytes(model)
    assert (tmp_path / WEIGHTS).stat().st_size <= 1.02 * trained_bytes(model)
    assert not [name for name in tensors if "embed_tokens" in name or "lm_head" in name]


def test_plain_peft_loads_it_and_computes_the_same(stage_one, make_model, logits):
    model, folder = stage_one
    plain = peft.PeftModel.from_pretrained(make_model(), folder)
    torch.testing.assert_close(logits(plain), logits(model))
    assert not torch.allclose(logits(plain), logits(make_model()), atol=1e-3)


def test_merged_weights_compute_what_the_adapter_computes(stage_one, make_model, logits):
    model, folder = stage_one
    merged = merge(make_model(), folder)
    assert type(merged) is Qwen3VLForConditionalGeneration
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    assert not any("lora" in name or "modules_to_save" in name for name, _ in merged.named_parameters())


def test_merged_modules_to_save_are_the_trained_ones_exactly(make_model, lora, disturb, tmp_path):
    model = disturb(lora(full_towers=["aligner"]).setup(make_model(), ["llm", "aligner"]))
    save_model(model, tmp_path)
    merged = merge(make_model(), tmp_path).state_dict()
    copies = {base_name(n): p for n, p in model.named_parameters() if ".modules_to_save." in n}
    assert copies
    for name, parameter in copies.items():
        assert torch.equal(merged[name], parameter), name


def test_merging_into_a_bfloat16_base_gives_bfloat16(stage_one, make_model):
    _, folder = stage_one
    assert {p.dtype for p in merge(make_model(dtype=torch.bfloat16), folder).parameters()} == {torch.bfloat16}


def test_the_next_stage_starts_where_the_last_one_ended(stage_one, make_model, tuner, logits):
    model, folder = stage_one
    later = init_from(make_model(), tuner, ["llm", "aligner"], folder)
    torch.testing.assert_close(logits(later), logits(model))
    assert {tower_of(name) for name, p in later.named_parameters() if p.requires_grad} == {"llm", "aligner"}


def test_adapters_of_towers_outside_the_next_stage_stay_frozen_and_are_saved_again(
    stage_one, make_model, tuner, disturb, tmp_path
):
    _, folder = stage_one
    later = disturb(init_from(make_model(), tuner, ["llm"], folder))
    assert {tower_of(name) for name, p in later.named_parameters() if p.requires_grad} == {"llm"}
    (tmp_path / "two").mkdir()
    save_model(later, tmp_path / "two")
    with safe_open(folder / WEIGHTS, "pt") as one, safe_open(tmp_path / "two" / WEIGHTS, "pt") as two:
        assert set(one.keys()) < set(two.keys())
        assert all(torch.equal(one.get_tensor(name), two.get_tensor(name)) for name in one.keys())  # noqa: SIM118


def test_a_chain_of_three_stages_keeps_every_adapter(stage_one, make_model, tuner, disturb, logits, tmp_path):
    _, folder = stage_one
    for number, towers in ((2, ["llm"]), (3, ["vision"])):
        model = disturb(init_from(make_model(), tuner, towers, folder))
        folder = tmp_path / f"stage{number}"
        folder.mkdir()
        save_model(model, folder)
    assert {tower_of(name) for name in names_in(folder)} == {"vision", "aligner", "llm"}
    torch.testing.assert_close(logits(merge(make_model(), folder)), logits(model), rtol=1e-4, atol=1e-5)


def test_the_modules_of_a_checkpoint_are_read_from_its_tensors(stage_one, tuner):
    modules = adapter_modules(stage_one[1])
    parts = {f"model.visual.{part}" for part in ("merger", "deepstack_merger_list.0", "deepstack_merger_list.1")}
    if tuner.full_towers:
        assert (modules.targets, modules.saved) == (set(), parts)
    else:
        assert modules.saved == set()
        assert modules.targets == {f"{part}.linear_fc{n}" for part in parts for n in (1, 2)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rank": 8}, "r is 4 in the checkpoint, 8 in the tuner"),
        ({"alpha": 16}, "lora_alpha is 8 in the checkpoint, 16 in the tuner"),
        ({"method": "loha"}, "peft_type is LORA in the checkpoint, LOHA in the tuner"),
        ({"options": {"use_rslora": True}}, "use_rslora is False in the checkpoint, True in the tuner"),
        ({"options": {"use_dora": True}}, "use_dora is False in the checkpoint, True in the tuner"),
        ({"full_towers": ["aligner"]}, "adapter and fully trained at once"),
    ],
)
def test_another_rank_or_kind_is_an_error(make_model, lora, change, told, tmp_path):
    save_model(lora().setup(make_model(), ["aligner"]), tmp_path)
    with pytest.raises(CheckpointError, match=told):
        init_from(make_model(), lora(**change), ["llm", "aligner"], tmp_path)


def test_a_tensor_without_a_place_is_an_error(make_model, lora, tmp_path):
    save_model(lora().setup(make_model(), ["llm", "aligner"]), tmp_path)
    with pytest.raises(CheckpointError, match=r"28 of 40 tensors have no place in the model, first .*layers\.0"):
        load_adapter(lora().setup(make_model(), ["aligner"]), tmp_path)


def test_an_adapter_cannot_start_full_training(make_model, lora, tmp_path):
    save_model(lora().setup(make_model(), ["aligner"]), tmp_path)
    with pytest.raises(CheckpointError, match=r"holds an adapter.*python -m qcvl\.export"):
        init_from(make_model(), FullTuner(), ["llm"], tmp_path)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_full_checkpoint_gives_its_weights_to_any_tuner(make_model, lora, disturb, logits, kind, tmp_path):
    model = disturb(FullTuner().setup(make_model(), ["llm", "aligner"]))
    save_model(model, tmp_path)
    assert not is_adapter(tmp_path)
    tuner = FullTuner() if kind == "full" else lora()
    later = init_from(make_model(seed=5), tuner, ["llm"], tmp_path)
    torch.testing.assert_close(logits(later), logits(model))


def test_a_full_checkpoint_loads_in_plain_transformers(make_model, disturb, logits, tmp_path):
    model = disturb(FullTuner().setup(make_model(), ["llm"]))
    save_model(model, tmp_path)
    torch.testing.assert_close(logits(Qwen3VLForConditionalGeneration.from_pretrained(tmp_path)), logits(model))


def test_a_gathered_state_dict_is_saved_in_place_of_the_models_own(make_model, lora, tmp_path):
    model = lora().setup(make_model(), ["aligner"])
    gathered = {name: torch.full_like(tensor, 7.0) for name, tensor in model.state_dict().items()}
    save_model(model, tmp_path, state_dict=gathered)
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert all((file.get_tensor(name) == 7).all() for name in file.keys())  # noqa: SIM118


def test_two_saves_of_one_model_are_the_same_files(make_model, lora, tmp_path):
    model = lora().setup(make_model(), ["llm", "aligner"])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name)
    for file in (WEIGHTS, "adapter_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: missing"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"nothing"), f"{WEIGHTS}: cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: is no adapter config"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "MAGIC"}'), "is no adapter config"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "expected adapter_config.json or config.json"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_one_clear_error(make_model, lora, tmp_path, spoil, told):
    save_model(lora().setup(make_model(), ["aligner"]), tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=told):
        init_from(make_model(), lora(), ["llm"], tmp_path)


def test_full_weights_of_another_architecture_are_an_error(make_model, tmp_path):
    save_model(make_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 56
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="its weights do not fit Qwen3VLForConditionalGeneration"):
        init_from(make_model(), FullTuner(), ["llm"], tmp_path)


def test_merging_a_whole_model_or_into_another_architecture_is_an_error(make_model, lora, tmp_path):
    for name, model in (("full", make_model()), ("adapter", lora().setup(make_model(), ["llm"]))):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name)
    with pytest.raises(CheckpointError, match="nothing to merge"):
        merge(make_model(), tmp_path / "full")
    with pytest.raises(CheckpointError, match="which Linear does not have"):
        merge(torch.nn.Linear(2, 2), tmp_path / "adapter")
