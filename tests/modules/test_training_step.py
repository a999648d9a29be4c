"""Optimizer steps in tokens, through Lightning's Trainer: what accumulates, what is logged, what stops a run."""

from collections import defaultdict

import lightning.pytorch as pl
import pytest
import torch

from qcvl.callbacks.evaluation import GenerationEvaluation
from qcvl.data.chat import IGNORE
from qcvl.errors import QcvlError
from qcvl.inference.settings import Generation
from qcvl.models.settings import ModelSpec
from qcvl.models.towers import tower_of
from tests.conftest import choice

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, descent, tmp_path):
    """``train(name, limit=4, batch_size=…, accumulate=…)``: the module after one epoch over ``limit`` records of en."""

    def run(name="run", *, limit=4, batch_size=4, accumulate=1, rate=1.0, module=None, callbacks=(), **changes):
        data = make_data(
            train={"en": make_data.source("en.jsonl")},
            val=changes.pop("val", None),
            sample_limit=limit,
            batch_size=batch_size,
            val_batch_size=changes.pop("val_batch_size", 8),
        )
        module = module or make_module(**descent(rate))
        values = {"gradient_clip_val": None, "accumulate_grad_batches": accumulate, "callbacks": list(callbacks)}
        trainer = make_trainer(tmp_path / name, **values | changes)
        trainer.fit(module, make_datamodule(data=data, grounding=module.aux_grounding > 0))
        return module

    return run


def moved(before: dict, after: dict) -> float:
    """The largest change of any number."""
    return max(float((before[name] - after[name]).abs().max()) for name in before)


@pytest.fixture
def start(make_module, trained):
    """The trainable parameters before the first step."""
    module = make_module()
    module.configure_model()
    return trained(module)


def test_four_micro_batches_make_the_step_of_one_big_batch(train, trained, start, logged, tmp_path):
    whole = trained(train("whole", batch_size=4))
    parts = trained(train("parts", batch_size=1, accumulate=4))
    assert moved(start, whole) > 1e-2
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-5)
    losses = [logged("train/loss", tmp_path / name) for name in ("whole", "parts")]
    assert len(losses[0]) == len(losses[1]) == 1
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for key in ("train/token_acc", "train/grad_norm", "train/sft_loss"):
        assert logged(key, tmp_path / "whole") == pytest.approx(logged(key, tmp_path / "parts"), rel=1e-4)


def test_a_mean_of_the_micro_batches_means_is_another_number(
    train, make_datamodule, make_data, make_module, logged, tmp_path
):
    train("parts", batch_size=1, accumulate=4)
    data = make_data(train={"en": make_data.source("en.jsonl")}, sample_limit=4, batch_size=1)
    module = make_module()
    module.configure_model()
    sums, counts = [], []
    with torch.no_grad():
        for batch in make_datamodule(data=data).train_dataloader():
            sums.append(float(module.losses(batch)["sft_sum"].sum()))
            counts.append(int((batch["labels"] != IGNORE).sum()))
    (found,) = logged("train/loss", tmp_path / "parts")
    assert found == pytest.approx(sum(sums) / sum(counts), abs=1e-5)
    mean_of_means = sum(one / count for one, count in zip(sums, counts, strict=True)) / len(sums)
    assert abs(found - mean_of_means) > 1e-3


def test_a_last_lone_micro_batch_is_a_whole_step_and_not_a_part_of_one(train, trained, start):
    alone = trained(train("alone", limit=1, batch_size=1, accumulate=1))
    lone = trained(train("lone", limit=1, batch_size=1, accumulate=4))
    assert moved(start, alone) > 1e-2
    assert moved(alone, lone) < 1e-6


def test_the_short_last_step_of_an_epoch_is_the_mean_over_its_own_tokens(train, logged, tmp_path):
    train("parts", limit=5, batch_size=1, accumulate=2)
    train("pairs", limit=5, batch_size=2)  # the same steps in one batch each: 2, 2 and 1 samples
    found, expected = logged("train/loss", tmp_path / "parts"), logged("train/loss", tmp_path / "pairs")
    assert len(found) == 3 and found == pytest.approx(expected, abs=2e-4)


def test_the_auxiliary_loss_is_a_mean_over_the_steps_visual_tokens_and_part_of_the_loss(
    train, make_module, descent, logged, tmp_path
):
    for name, batch_size, accumulate in (("whole", 4, 1), ("parts", 1, 4)):
        train(name, batch_size=batch_size, accumulate=accumulate, module=make_module(aux_grounding=0.5, **descent()))
    loss, sft, aux = (logged(f"train/{key}", tmp_path / "whole")[0] for key in ("loss", "sft_loss", "aux_loss"))
    assert loss == pytest.approx(sft + 0.5 * aux, rel=1e-6) and aux > 1
    assert logged("train/aux_loss", tmp_path / "parts") == pytest.approx([aux], rel=1e-5)
    assert logged("train/loss", tmp_path / "parts") == pytest.approx([loss], rel=1e-5)


def test_gradient_norms_are_those_of_the_step_by_tower(train, trained, start, logged, tmp_path):
    after = trained(train())
    squares: dict[str, float] = defaultdict(float)
    for name, value in after.items():  # at rate 1 a parameter moves by minus its gradient
        squares[tower_of(name)] += float((value - start[name]).double().square().sum())
    assert squares.keys() == {"llm", "aligner"}
    for tower, square in squares.items():
        assert logged(f"train/grad_norm/{tower}", tmp_path / "run") == pytest.approx([square**0.5], rel=1e-3)
    assert logged("train/grad_norm", tmp_path / "run") == pytest.approx([sum(squares.values()) ** 0.5], rel=1e-3)
    assert logged("train/grad_norm/vision", tmp_path / "run") == []


def test_rates_follow_the_schedule_and_are_logged_by_tower(make_module, train, logged, tmp_path):
    train(module=make_module(rate=4e-4), limit=8, batch_size=1)
    rates = logged("lr/llm", tmp_path / "run")
    assert rates == logged("lr/aligner", tmp_path / "run")
    assert rates[0] == pytest.approx(4e-4)  # warmup of 8 steps x 0.1 is one step
    assert rates == sorted(rates, reverse=True) and rates[-1] < 1e-4


def test_frozen_towers_stay_bit_equal(train, make_module):
    module = make_module()
    module.configure_model()
    frozen = {n: p.detach().clone() for n, p in module.model.named_parameters() if not p.requires_grad}
    after = dict(train().model.named_parameters())
    assert {tower_of(name) for name in frozen} == {"vision"}
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())


class Deaf(pl.Callback):
    """From step ``first`` on, no gradient reaches the aligner."""

    def __init__(self, first: int) -> None:
        self.first = first

    def on_after_backward(self, trainer, module):
        for name, parameter in module.model.named_parameters():
            if tower_of(name) == "aligner" and trainer.global_step >= self.first:
                parameter.grad = None if name.endswith("bias") else torch.zeros_like(parameter)


def test_a_trainable_tower_without_gradient_at_the_first_step_stops_the_run(train):
    with pytest.raises(QcvlError, match="no gradient reaches aligner at step 1 though stage=2 trains it; check stage"):
        train(callbacks=[Deaf(0)])


def test_a_tower_may_rest_at_a_later_step(train, logged, tmp_path):
    train(callbacks=[Deaf(1)], limit=4, batch_size=2, rate=0.01)
    norms = logged("train/grad_norm/aligner", tmp_path / "run")
    assert norms[0] > 0 and norms[1:] == [0.0]


def test_losses_are_the_same_with_and_without_validation_and_generation_between_the_steps(
    train, make_module, lora, make_data, logged, tmp_path
):
    generation = Generation(max_new_tokens=8, temperature=1.0, top_p=0.9, batch_size=4)
    drawing = {"folder": str(tmp_path / "previews"), "panels": 1, "remote_images": False}
    scoring = GenerationEvaluation(generation=generation, tiles=None, limit=2, **drawing)
    adapter = {"tuner": lora(dropout=0.3), "rate": 0.05}
    train("bare", module=make_module(**adapter), limit=8, batch_size=2)
    between = {"val": {"val": make_data.source("en.jsonl")}, "val_check_interval": 1, "callbacks": [scoring]}
    train("watched", module=make_module(**adapter), limit=8, batch_size=2, **between)
    bare, watched = (logged("train/loss", tmp_path / name) for name in ("bare", "watched"))
    assert len(bare) == 4 and bare == watched
    assert len(logged("eval/loss", tmp_path / "watched")) == 4
    assert len(logged("eval/val/dense_count_error", tmp_path / "watched")) == 4


def test_dropout_draws_anew_each_step_and_the_same_in_each_run(train, make_module, lora, logged, tmp_path):
    adapter = {"rate": 0.05}
    for name, dropout in (("first", 0.5), ("again", 0.5), ("without", 0.0)):
        train(name, module=make_module(tuner=lora(dropout=dropout), **adapter), limit=4, batch_size=1)
    first, again, without = (logged("train/loss", tmp_path / name) for name in ("first", "again", "without"))
    assert first == again
    assert first[0] == pytest.approx(without[0], rel=1e-5)  # an adapter starts at zero, whatever is dropped
    assert first[1:] != without[1:]


@pytest.mark.parametrize("val_batch_size", [1, 3])
def test_the_validation_loss_is_a_mean_over_all_label_tokens(
    make_module, make_datamodule, make_data, make_trainer, logged, val_batch_size
):
    module, data = make_module(), make_data(val_batch_size=val_batch_size)
    datamodule = make_datamodule(data=data)
    make_trainer().validate(module, datamodule, verbose=False)
    sums, right, counts = [], 0, []
    with torch.no_grad():
        for batch in datamodule.val_dataloader()[0]:
            found = module.losses(batch)
            sums.append(float(found["sft_sum"].sum()))
            right += int(found["correct"])
            counts.append(int((batch["labels"] != IGNORE).sum()))
    assert logged("eval/loss") == pytest.approx([sum(sums) / sum(counts)], rel=1e-5)
    assert logged("eval/sft_loss") == logged("eval/loss")
    assert logged("eval/token_acc") == pytest.approx([right / sum(counts)], abs=1e-6)
    mean_of_means = sum(one / count for one, count in zip(sums, counts, strict=True)) / len(sums)
    assert abs(logged("eval/loss")[0] - mean_of_means) > 1e-4


def test_several_validation_sources_count_as_one(
    make_module, make_datamodule, make_data, make_trainer, logged, tmp_path
):
    sources = {name: make_data.source(f"{name}.jsonl") for name in ("zh", "en")}
    for name, val in (("zh", {"zh": sources["zh"]}), ("en", {"en": sources["en"]}), ("both", sources)):
        datamodule = make_datamodule(data=make_data(val=val, sampling="dense"))
        make_trainer(tmp_path / name).validate(make_module(), datamodule, verbose=False)
    zh, en, both = (logged("eval/loss", tmp_path / name)[0] for name in ("zh", "en", "both"))
    assert min(zh, en) < both < max(zh, en)


def test_a_model_from_a_folder_trains_in_training_mode_also_after_validation(
    train, make_module, small_model, processing, lora, make_data, tmp_path
):
    small_model().load_model().save_pretrained(tmp_path / "base")  # transformers opens folders in eval mode
    processing.save(tmp_path / "base")
    fields = choice("model/tiny.yaml") | {"path": str(tmp_path / "base"), "min_cells": 1}
    modes = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            modes.append(all(part.training for part in module.model.modules()))

    between = {"val": {"val": make_data.source("en.jsonl")}, "val_check_interval": 1}
    module = make_module(model=ModelSpec(**fields), tuner=lora())
    train(module=module, limit=4, batch_size=2, callbacks=[Watch()], **between)
    assert modes == [True, True]


@pytest.fixture
def talk(make_module, make_datamodule, make_data, make_trainer, conversations):
    """``talk(*names)``: train on these files of the shared folder, two samples a step; returns the module."""

    def run(*names, **changes):
        train = {name: str(conversations / f"{name}.jsonl") for name in names}
        values = {"val": None, "batch_size": 2, "sampling": "dense"} | changes
        grounding = values.pop("aux_grounding", 0.0)
        module = make_module(towers=["vision", "aligner", "llm"], aux_grounding=grounding)
        make_trainer().fit(module, make_datamodule(data=make_data(train=train, **values), grounding=grounding > 0))
        return module

    return run


def test_steps_of_texts_alone_train_the_language_model_and_leave_the_other_towers_still(talk, logged):
    talk("text")
    assert len(logged("train/loss")) == 2
    assert all(norm > 0 for norm in logged("train/grad_norm/llm"))
    assert logged("train/grad_norm/vision") == logged("train/grad_norm/aligner") == [0.0, 0.0]


def test_conversations_and_photos_train_together(talk, logged):
    talk("text", "chat", "en")
    assert len(logged("train/loss")) == 9 and max(logged("train/grad_norm/vision")) > 0


def test_the_auxiliary_loss_rides_over_steps_without_any_target(talk, logged):
    talk("text", "chat", "en", aux_grounding=0.5, batch_size=1)
    aux = logged("train/aux_loss")
    assert len(aux) == 18 and aux.count(0.0) == 10 and all(value > 1 for value in aux if value)


def test_several_validation_sources_have_a_loss_each(
    make_module, make_datamodule, make_data, make_trainer, conversations, logged, tmp_path
):
    sources = {name: str(conversations / f"{name}.jsonl") for name in ("text", "chat", "en")}
    for name, val in ((name, {name: path}) for name, path in sources.items()):
        datamodule = make_datamodule(data=make_data(val=val, sampling="dense"))
        make_trainer(tmp_path / name).validate(make_module(), datamodule, verbose=False)
    datamodule = make_datamodule(data=make_data(val=sources, sampling="dense"))
    make_trainer(tmp_path / "all").validate(make_module(), datamodule, verbose=False)
    for name in sources:
        for key in ("loss", "token_acc"):
            alone = logged(f"eval/{key}", tmp_path / name)
            assert logged(f"eval/{name}/{key}", tmp_path / "all") == pytest.approx(alone, rel=1e-6)
        assert logged(f"eval/{name}/loss", tmp_path / name) == []  # one source is all of them
    losses = [logged(f"eval/{name}/loss", tmp_path / "all")[0] for name in sources]
    assert min(losses) < logged("eval/loss", tmp_path / "all")[0] < max(losses)
