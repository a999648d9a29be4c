"""The first step that is not finite is kept whole, and its replay makes it again and names the part that made it."""

import json
import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file

from qcvl.errors import CheckpointError, QcvlError
from qcvl.inference.sharding import gather_objects
from qcvl.modules.kept_step import read_ranks
from qcvl.modules.replay import replay
from qcvl.modules.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
DOWN = "model.language_model.layers.1.mlp.down_proj"


class Spoil(pl.Callback):
    """Before optimizer step ``at``, fills a weight of the model; ends the run after ``last`` steps."""

    def __init__(self, at: int, weight: str, value: float) -> None:
        self.at, self.weight, self.value = at, weight, value
        self.before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.at and not self.before:
            with torch.no_grad():
                dict(module.named_parameters())[self.weight].fill_(self.value)
            self.before = {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture
def spoiled(make_module, make_datamodule, make_data, make_trainer, lora, tmp_path):
    """``spoiled(weight, value, …)``: the callback of a run whose third step has a spoilt weight, and its folder."""

    def run(weight, value, *, tuner=None, accumulate=1, at=2):
        data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, batch_size=2, sampling="dense")
        spoil = Spoil(at, weight, value)
        trainer = make_trainer(tmp_path / "run", callbacks=[spoil], accumulate_grad_batches=accumulate)
        with pytest.raises(QcvlError) as caught:
            trainer.fit(make_module(tuner=tuner, max_nonfinite_steps=2, rate=1e-3), make_datamodule(data=data))
        return spoil, tmp_path / "run/nonfinite", str(caught.value)

    return run


@pytest.fixture
def again(make_module, make_trainer, tmp_path):
    """``again(folder, …)``: the replay of a kept step by a module and trainer of its own."""
    return lambda folder, **changes: replay(make_module(**changes), make_trainer(tmp_path / "again"), folder)


def test_a_weight_that_makes_the_loss_no_number_is_found_again(spoiled, again, scenes):
    spoil, folder, told = spoiled(f"model.{DOWN}.weight", math.inf)
    assert [path.name for path in folder.iterdir()] == ["step-2"]  # the first of the two
    assert str(folder / "step-2") in told and "python -m qcvl.train strategy=single job=replay replay=" in told
    kept = load_file(folder / "step-2/trained.safetensors")
    assert kept.keys() == spoil.before.keys()
    assert all(torch.equal(kept[name], value) for name, value in spoil.before.items())
    found = again(folder / "step-2")
    assert found.step == 2 and found.same and math.isnan(found.losses[0][0])
    assert (found.first.path, found.first.kind) == (DOWN, "output")
    weight, output = found.table[-2:]
    assert (weight.path, weight.kind, weight.infs) == (
        f"{DOWN}.weight",
        "weight",
        spoil.before[f"model.{DOWN}.weight"].numel(),
    )
    assert output == found.first and output.nans + output.infs > 0
    assert all(row.finite for row in found.table[:-2])
    assert len(found.samples) == 2 and all(str(scenes / "en.jsonl") in place for place in found.samples)


def test_a_gradient_that_overflows_behind_a_finite_loss_is_found_again(spoiled, again, lora):
    # lora_B starts at 0, so that lora_A's size is nowhere in the loss; lora_B's gradient is a multiple of it.
    tuner = lora(alpha=1e12)
    part = "model.language_model.layers.1.self_attn.v_proj"
    _, folder, _ = spoiled(f"model.base_model.model.{part}.lora_A.default.weight", 1e30, tuner=tuner, at=0)
    found = again(folder / "step-0", tuner=tuner)
    assert found.same and all(math.isfinite(then) and then == now for then, now in found.losses)
    assert (found.first.path, found.first.kind) == (f"{part}.lora_B.default.weight", "gradient of weight")


def test_all_micro_batches_of_a_step_are_made_again_with_the_losses_they_had(spoiled, again, lora):
    tuner = lora(alpha=1e12, dropout=0.3)  # each micro-batch has draws of its own
    weight = "model.base_model.model.model.language_model.layers.1.self_attn.v_proj.lora_A.default.weight"
    _, folder, _ = spoiled(weight, 1e18, tuner=tuner, accumulate=2, at=0)
    found = again(folder / "step-0", tuner=tuner)
    assert len(found.losses) == 2 and found.same and found.losses[0] != found.losses[1]
    # Squared, these gradients leave the range of float32: only their norm is infinite.
    assert found.first is None and "norm of all gradients" in found.told()
    assert max(abs(found.table[0].least), found.table[0].most) > 1e19


def test_what_is_kept_is_plain_data_that_says_where_everything_is_from(spoiled):
    _, folder, _ = spoiled(f"model.{DOWN}.weight", math.nan)
    names = {path.relative_to(folder / "step-2").parts[0] for path in (folder / "step-2").rglob("*")}
    assert names == {"rank-0.json", "rank-0.safetensors", "trained.safetensors", "model"}
    content = json.loads((folder / "step-2/rank-0.json").read_text())
    assert content["step"] == 2 and content["epoch"] == 0 and content["micro_batches"][0]["loss"] == "nan"
    (rank,) = read_ranks(folder / "step-2")
    batch = rank.micro_batches[0].batch
    assert batch["pixel_values"].dtype == torch.uint8 and int(batch["segments"].sum()) == batch["input_ids"].shape[1]


def test_a_step_that_does_not_fit_the_disk_is_not_kept_and_the_run_goes_on_as_it_would(spoiled, monkeypatch):
    monkeypatch.setattr("qcvl.modules.kept_step.check_free_space", full_disk)
    _, folder, told = spoiled(f"model.{DOWN}.weight", math.nan)
    assert not list(folder.glob("step-*"))
    assert told.startswith("2 optimizer steps in a row") and "could not be kept for a replay: 3 MB free" in told


def full_disk(folder, needed):
    raise CheckpointError("3 MB free")


def test_a_folder_that_is_no_kept_step_or_of_another_run_is_refused(spoiled, again, lora, tmp_path):
    with pytest.raises(CheckpointError, match=r"replay: .*nowhere is no kept step; expected rank-0.json"):
        again(tmp_path / "nowhere")
    _, folder, _ = spoiled(f"model.{DOWN}.weight", math.nan)
    with pytest.raises(CheckpointError, match=r"replay: \d+ trained tensors are not those of .*step-2, first model"):
        again(folder / "step-2", tuner=lora())
    path = folder / "step-2/rank-0.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        again(folder / "step-2")


def test_of_two_parts_that_read_one_tensor_the_one_whose_backward_pass_fails_is_named():
    class Root(torch.nn.Module):
        def forward(self, values):
            return values.sqrt()  # at 0 its slope is infinite

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.harmless, self.root = torch.nn.Identity(), torch.nn.Identity(), Root()

        def forward(self, values):
            values = self.first(values)
            return self.harmless(values) + self.root(values)

    both = Both()
    with Watch(both) as watch:
        both(torch.zeros(2, requires_grad=True)).sum().backward()
    assert (watch.first.path, watch.first.kind, watch.first.infs) == ("root", "gradient of input", 2)
    with Watch(both) as watch:
        both(torch.ones(2, requires_grad=True)).sum().backward()
    assert watch.first is None
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in both.modules())


class SpoilToken(pl.Callback):
    """Before the third step, makes the embedding of a token infinite that only the second process has, in both."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            first, second = gather_objects([set(batch["input_ids"].flatten().tolist())])
            with torch.no_grad():
                module.built.get_input_embeddings().weight[min(second - first)] = math.inf


@pytest.mark.slow
def test_of_two_processes_the_one_whose_sample_it_was_keeps_its_batch(
    make_module, make_datamodule, make_data, make_trainer, small_model, again, tmp_path
):
    architecture = small_model().architecture
    text = architecture["text_config"] | {"tie_word_embeddings": False}
    model = small_model(architecture=architecture | {"tie_word_embeddings": False, "text_config": text})
    data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, batch_size=1, sampling="dense")
    two = DDPStrategy(process_group_backend="gloo", start_method="fork")
    trainer = make_trainer(tmp_path / "run", callbacks=[SpoilToken()], devices=2, strategy=two)
    with pytest.raises(Exception, match="1 optimizer steps in a row|connection|closed"):
        trainer.fit(make_module(model=model, max_nonfinite_steps=1), make_datamodule(data=data))
    folder = tmp_path / "run/nonfinite/step-2"
    assert sorted(path.name for path in folder.glob("rank-*")) == ["rank-1.json", "rank-1.safetensors"]
    found = again(folder, model=model)
    assert found.rank == 1 and found.same and len(found.samples) == 1
    assert (found.first.path, found.first.kind) == ("model.language_model.embed_tokens", "output")
