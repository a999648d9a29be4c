"""The largest budget that fits, found by steps that leave no trace; memory ends where a test says so."""

import json
import random
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.strategies import SingleDeviceStrategy

from qcvl.callbacks import batch_probe
from qcvl.callbacks.batch_probe import CLOSE, BatchProbe, Shadow, largest, refusal, untouched_random
from qcvl.data.batch import collate
from qcvl.data.lengths import EpochLengths
from qcvl.errors import ConfigError, QcvlError
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


@given(st.integers(1, 500), st.integers(1, 100_000), st.integers(1, 100_000), st.integers(0, 200_000))
def test_the_budget_found_fits_and_a_little_more_would_not(least, more, start, limit):
    most = least + more
    found = largest(lambda budget: budget <= limit, start, least, most)
    if limit < least:
        assert found is None
    else:
        best = min(limit, most)
        assert found is not None and found <= best
        assert best - found <= max(1, found * CLOSE)


def test_a_budget_is_found_in_few_tries():
    tries: list[int] = []
    largest(lambda budget: tries.append(budget) or budget <= 60_000, 4096, 1000, 10_000_000)
    assert len(tries) < 12


@pytest.fixture
def limited(make_module, monkeypatch):
    """``limited(tokens)``: a module whose steps run out of memory above so many tokens, each noted in ``seen``."""
    monkeypatch.setattr(batch_probe, "refusal", lambda *_: None)  # that there is a GPU

    def make(tokens: int, **changes):
        module, plain = make_module(**changes), None
        module.seen = []

        def losses(batch):
            module.seen.append(batch["input_ids"].numel())
            sums = plain(batch)
            if module.seen[-1] > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return sums

        plain = module.losses
        monkeypatch.setattr(module, "losses", losses)
        return module

    return make


@pytest.fixture
def run(make_datamodule, make_data, make_trainer, tmp_path):
    """``run(module, name, *callbacks)``: train for four steps of at most 700 tokens; returns the trainer."""

    def fit(module, name, *callbacks, accumulate=1, **changes):
        data = make_data(token_budget=700, **changes)
        how = {"max_steps": 4, "max_epochs": -1, "accumulate_grad_batches": accumulate}
        trainer = make_trainer(tmp_path / name, callbacks=list(callbacks), **how)
        trainer.fit(module, make_datamodule(data=data))
        return trainer

    return fit


def trained(module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}


def test_a_run_goes_on_as_if_there_had_been_no_probe(limited, run, logged, tmp_path, lora):
    path = tmp_path / "probed/batch_probe.json"
    plain = limited(1100, tuner=lora(dropout=0.1))
    run(plain, "plain")
    probed = limited(1100, tuner=lora(dropout=0.1))  # seeds the adapters' start as before
    run(probed, "probed", BatchProbe(path=str(path)))
    report = json.loads(path.read_text())
    fitting = [size["tokens"] for size in report["tried"] if size["fits"]]
    failing = [size["tokens"] for size in report["tried"] if not size["fits"]]
    assert report["configured"] == 700 < report["token_budget"] == max(fitting) <= 1100 < min(failing)
    assert len(probed.seen) == len(plain.seen) + 2 * len(fitting) + len(failing)  # two steps each, or the first fails
    for key in ("train/loss", "train/grad_norm", "lr/llm"):
        assert logged(key, tmp_path / "probed") == logged(key, tmp_path / "plain")
    after = trained(probed)
    assert after and all(torch.equal(value, after[name]) for name, value in trained(plain).items())


class Within(pl.Callback):
    """After the second step, takes a shadow step and keeps what it changed: weights, state, gradients, randomness."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step != 2:
            return
        shadow, self.moved = Shadow(trainer, pl_module), False
        before = self.all(trainer, pl_module)
        plain = shadow._steps

        def steps(batch) -> None:
            plain(batch)
            self.moved = self.all(trainer, pl_module) != before

        shadow._steps = steps
        batch = {name: value for name, value in batch.items() if not name.startswith("step_")}
        with untouched_random(pl_module.device):
            torch.rand(3), np.random.rand(3), random.random()
            self.fitted = shadow.fits(batch)
        self.same = self.all(trainer, pl_module) == before

    @staticmethod
    def all(trainer, module) -> list:
        (optimizer,) = trainer.optimizers
        names = {parameter: name for name, parameter in module.named_parameters()}
        state = [
            (names[parameter], key, value.tolist() if isinstance(value, torch.Tensor) else value)
            for parameter, row in optimizer.state.items()
            for key, value in row.items()
        ]
        weights = [(name, value.tolist()) for name, value in module.named_parameters()]
        numbers = torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        rates = [group["lr"] for group in optimizer.param_groups]
        return [state, weights, numbers, rates, sorted(module._totals)]


@pytest.mark.parametrize("muon", [False, True], ids=["adamw", "muon"])
def test_a_shadow_step_moves_weights_and_state_and_takes_it_all_back(muon, make_module, run):
    from qcvl.tuning.descent.settings import MuonAdamW
    from tests.conftest import choice

    changes = {"optimizer": MuonAdamW(**choice("optimizer/muon_adamw.yaml"))} if muon else {}
    within = Within()
    run(make_module(**changes), "run", within)
    assert within.fitted and within.moved and within.same


class First(pl.Callback):
    """Before the first step, takes shadow steps and keeps what lay beside each forward: moments, and gradients."""

    def on_train_start(self, trainer, pl_module) -> None:
        losses, (optimizer,), self.beside = pl_module.losses, trainer.optimizers, []

        def watched(batch):
            gradients = any(parameter.grad is not None for parameter in pl_module.parameters())
            self.beside.append((bool(optimizer.state), gradients))
            return losses(batch)

        pl_module.losses = watched
        dataset = trainer.datamodule.train_dataset()
        assert Shadow(trainer, pl_module).fits(collate([dataset[(0, 0)]]))
        pl_module.losses = losses


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_last_shadow_step_has_the_moments_and_gradients_that_later_steps_have(make_module, run, accumulate):
    first = First()
    run(make_module(), "run", first, accumulate=accumulate)
    within = [(False, False), (False, True), (True, False), (True, True)]
    assert first.beside == (within if accumulate > 1 else within[::2])


def test_when_nothing_fits_the_run_stops_and_says_what_helps(limited, run, tmp_path):
    with pytest.raises(QcvlError, match=r"batch_probe: .* tokens.*lower global_max_length, or use model\.gradient"):
        run(limited(10), "run", BatchProbe(path=str(tmp_path / "batch_probe.json")))
    assert not (tmp_path / "batch_probe.json").exists()


def test_a_whole_epoch_that_fits_ends_the_search(limited, run, tmp_path):
    module = limited(10**9)
    run(module, "run", BatchProbe(path=str(tmp_path / "batch_probe.json")), sample_limit=3)
    report = json.loads((tmp_path / "batch_probe.json").read_text())
    assert all(size["fits"] for size in report["tried"])
    probed = module.seen[: 2 * len(report["tried"])]
    assert report["token_budget"] == max(probed) == sum(EpochLengths(module.trainer.datamodule.train_dataset()).of(0))


def test_an_error_that_is_not_of_memory_is_not_taken_for_one(limited, run, tmp_path, monkeypatch):
    module = limited(10**9)
    monkeypatch.setattr(module, "losses", lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(module, "run", BatchProbe(path=str(tmp_path / "batch_probe.json")))


@pytest.mark.parametrize(
    ("device", "strategy", "budget", "told"),
    [
        ("cuda", SingleDeviceStrategy("cpu"), 8192, None),
        ("cuda", SingleDeviceStrategy("cpu"), None, "token_budget is null.*give a first guess"),
        ("cpu", SingleDeviceStrategy("cpu"), 8192, "trains on cpu.*trainer.accelerator=gpu"),
        ("cuda", object(), 8192, "depends on all ranks; use strategy=single"),
    ],
)
def test_a_probe_needs_a_budget_and_one_gpu(device, strategy, budget, told):
    found = refusal(SimpleNamespace(strategy=strategy), torch.device(device), budget)
    assert (found is None) == (told is None)
    if told:
        with pytest.raises(ConfigError, match=told):
            raise ConfigError(found)


def test_on_a_cpu_the_probe_says_what_it_needs(make_module, run, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_probe: this run trains on cpu"):
        run(make_module(), "run", BatchProbe(path=str(tmp_path / "batch_probe.json")))
