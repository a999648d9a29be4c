"""A step whose loss or gradient is not finite moves nothing; several in a row end the run and name their samples."""

import json
import math
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from qcvl.errors import QcvlError
from qcvl.modules.finite import FiniteSteps, loss_scale

pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")


class Poison(pl.Callback):
    """Puts ``value`` into one gradient of the steps ``at``, and keeps weights and moments around every step."""

    def __init__(self, at: set[int], value: float) -> None:
        self.at, self.value, self.weights, self.moments = at, value, [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.weights.append([p.detach().clone() for p in module.parameters() if p.requires_grad])
        state = trainer.optimizers[0].state_dict()["state"]
        self.moments.append({key: {name: value.clone() for name, value in row.items()} for key, row in state.items()})

    def on_after_backward(self, trainer, module):
        if trainer.global_step in self.at:
            next(p for p in module.parameters() if p.grad is not None).grad.view(-1)[0] = self.value


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, tmp_path):
    """``train(poison, …)``: an epoch over the 8 records of en, one a step."""

    def run(poison=None, name="run", module=None, batch_size=1, accumulate=1, **changes):
        data = make_data(train={"en": make_data.source("en.jsonl")}, val=None, batch_size=batch_size, sampling="dense")
        module = module or make_module(**changes)
        callbacks = [poison] if poison else []
        trainer = make_trainer(tmp_path / name, callbacks=callbacks, accumulate_grad_batches=accumulate)
        trainer.fit(module, make_datamodule(data=data))
        return module

    return run


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_moves_nothing_and_the_next_ones_do(train, logged, tmp_path, value):
    poison = Poison({2, 5}, value)
    module = train(poison)
    still = [
        all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for before, after in zip(poison.weights, poison.weights[1:], strict=False)
    ]
    assert still == [step in (2, 5) for step in range(7)]
    assert str(poison.moments[2]) == str(poison.moments[3])
    assert all(math.isfinite(float(p.sum())) for p in module.parameters())
    assert module.finite.total == 2
    assert logged("train/nonfinite_steps", tmp_path / "run") == [1, 1, 1, 2, 2, 2]
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/logging.jsonl").open()]
    steps = [row["step"] for row in rows if "train/grad_norm" in row]
    assert steps == [0, 1, 3, 4, 6, 7]  # a norm that is no number is not logged
    rates = logged("lr/llm", tmp_path / "run")
    assert len(rates) == 8 and rates[1:] == sorted(rates[1:], reverse=True)  # the schedule goes on


def test_so_many_in_a_row_end_the_run_and_name_their_samples(train, scenes):
    with pytest.raises(QcvlError) as caught:
        train(Poison({3, 4}, math.nan), max_nonfinite_steps=2)
    told = str(caught.value)
    assert told.startswith("2 optimizer steps in a row had a loss or gradient that is not finite")
    lines = [line for line in told.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 3", "step 4"]
    assert len({line.split("en.jsonl:")[1] for line in lines}) == 2  # each names its own record
    assert "objective.max_nonfinite_steps" in told


def test_fewer_in_a_row_do_not_end_it(train):
    assert train(Poison({1, 3, 4, 6}, math.nan), max_nonfinite_steps=3).finite.total == 4


def test_all_micro_batches_of_a_step_are_named(train):
    with pytest.raises(QcvlError) as caught:
        train(Poison({1}, math.nan), max_nonfinite_steps=1, batch_size=2, accumulate=2)
    (line,) = [line for line in str(caught.value).splitlines() if line.startswith("step 1: ")]
    assert len(set(line.removeprefix("step 1: ").split(", "))) == 4


def test_a_loss_that_is_no_number_counts_though_its_gradients_are(make_module):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    finite = FiniteSteps(limit=2)
    assert not finite.look(optimizer, [math.nan, 1.0], 0, lambda: [["a.jsonl:1"]], lambda: None)
    assert weight.grad is None and finite.skipping
    assert finite.look(optimizer, [1.0, 1.0], 1, lambda: [["a.jsonl:2"]], lambda: None)
    assert not finite.skipping and finite.total == 1


def test_gradients_too_large_for_the_loss_scale_of_float16_are_left_out_without_being_counted():
    weight, kept = torch.nn.Parameter(torch.ones(2)), []
    optimizer = torch.optim.SGD([weight], lr=1.0)
    finite = FiniteSteps(limit=2)

    def look(loss: float, norm: float, scale: float | None) -> bool:
        weight.grad = torch.ones(2)
        return finite.look(optimizer, [loss, norm], 0, lambda: [["a.jsonl:1"]], lambda: kept.append(scale), scale)

    for scale in (65536.0, 32768.0, 16384.0):  # more often than the limit
        assert not look(1.0, math.inf, scale) and weight.grad is None and finite.skipping
    assert finite.total == 0 and not kept
    assert look(1.0, 1.0, 8192.0) and not finite.skipping
    assert not look(math.nan, math.inf, 8192.0) and finite.total == 1  # a loss is not scaled before it is made
    with pytest.raises(QcvlError):
        look(1.0, math.inf, 1.0)  # no scale is to blame
    assert kept == [8192.0, 1.0]


def test_the_loss_scale_is_that_of_the_precision_or_of_deepspeed_where_it_adapts():
    def trainer(scaler=None, of_optimizer=None):
        plugin = SimpleNamespace() if scaler is None else SimpleNamespace(scaler=scaler)
        return SimpleNamespace(precision_plugin=plugin, optimizers=[SimpleNamespace(loss_scaler=of_optimizer)])

    assert loss_scale(trainer()) is None
    assert loss_scale(trainer(scaler=torch.amp.GradScaler("cpu", init_scale=64.0))) == 64
    assert loss_scale(trainer(of_optimizer=SimpleNamespace(cur_scale=8.0, dynamic=True))) == 8
    assert loss_scale(trainer(of_optimizer=SimpleNamespace(cur_scale=1.0, dynamic=False))) is None


def test_the_count_goes_on_after_a_resume():
    finite = FiniteSteps(limit=2)
    finite.load_state_dict({"total": 7})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    finite.look(optimizer, [math.inf], 0, lambda: [["a.jsonl:1"]], lambda: None)
    assert finite.state_dict() == {"total": 8}
