"""``model.compile`` and ``model.liger``: the same numbers, compiled once, and code that errs is noticed."""

import pytest
import torch
from torch._dynamo.utils import counters

from qcvl.callbacks.stock_check import StockCheck
from qcvl.errors import QcvlError
from qcvl.models import speed
from qcvl.modules.gradients import loss_and_norms
from tests.callbacks.conftest import QUIET
from tests.conftest import LIGER

pytestmark = QUIET


@pytest.fixture
def train(start_run, make_module, small_model, lora):
    """``train(name, compile, callbacks)``: an epoch over eight records, two a row."""

    def start(name, compiled, callbacks=(), *, liger=False, limit=8):
        module = make_module(tuner=lora(dropout=0.0), rate=1e-2, model=small_model(compile=compiled, liger=liger))
        return start_run(name, limit=limit, module=module, max_epochs=1, callbacks=callbacks, log_every_n_steps=1)

    return start


def through(backend):
    """``speed._compiled`` with another backend."""
    return lambda forward: torch.compile(forward, backend=backend, dynamic=True)


@pytest.mark.slow
def test_compiled_blocks_train_as_they_do_without_and_are_compiled_once_for_rows_of_all_lengths(
    train, logged, tmp_path
):
    torch._dynamo.reset()
    counters.clear()
    graphs, lengths = [], []

    class Count(StockCheck):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            lengths.append(tuple(batch["segments"].tolist()))
            graphs.append(counters["stats"]["unique_graphs"])

    check = Count("model.compile", loss_and_norms)
    train("compiled", True, [check])
    train("plain", False)
    assert len(graphs) == len(set(lengths)) == 4 and graphs[0] > 0, "nothing was compiled"
    assert graphs[1:] == graphs[:1] * 3, "another packing was compiled anew"
    keys = ("train/loss", "train/token_acc", "train/grad_norm", "train/grad_norm/llm", "train/grad_norm/aligner")
    values = {key: (logged(key, tmp_path / "compiled"), logged(key, tmp_path / "plain")) for key in keys}
    for compiled, plain in values.values():
        assert len(plain) == 4 and compiled == pytest.approx(plain, rel=1e-4)
    assert set(check.compared) == {"loss", "gradient norm of llm", "gradient norm of aligner"}
    for name, key in {"loss": "train/loss", "gradient norm of llm": "train/grad_norm/llm"}.items():
        as_is, compiled = check.compared[name]
        assert (as_is, compiled) == (pytest.approx(values[key][1][0], rel=1e-5), pytest.approx(as_is, rel=1e-4))


def test_a_compiler_that_gives_something_else_ends_the_run_before_its_first_step(train, monkeypatch):
    def wrong(graph, inputs):
        def run(*values):
            return tuple(1.01 * out if torch.is_tensor(out) else out for out in graph(*values))

        return run

    torch._dynamo.reset()
    monkeypatch.setattr(speed, "_compiled", through(wrong))
    with pytest.raises(
        QcvlError, match=r"model.compile: .* differ by more than 0.0001 .*: loss .* and .*compile=false"
    ):
        train("wrong", True, [StockCheck("model.compile", loss_and_norms)])


def test_the_check_leaves_draws_and_gradients_as_they_were(train, monkeypatch, logged, tmp_path):
    torch._dynamo.reset()
    monkeypatch.setattr(speed, "_compiled", through("eager"))
    train("with", True, [StockCheck("model.compile", loss_and_norms)])
    train("without", True)
    for key in ("train/loss", "train/grad_norm"):
        assert logged(key, tmp_path / "with") == logged(key, tmp_path / "without")


class TestLiger:
    pytestmark = LIGER

    def test_adapters_train_as_they_do_on_stock_layers(self, train, triton_interpreter, logged, tmp_path):
        check = StockCheck("model.liger", loss_and_norms)
        train("liger", False, [check], liger=True, limit=2)
        train("plain", False, limit=2)
        for key in ("train/loss", "train/grad_norm", "train/grad_norm/llm", "train/grad_norm/aligner"):
            found, expected = (logged(key, tmp_path / name) for name in ("liger", "plain"))
            assert expected and found == pytest.approx(expected, rel=1e-4), key
        as_is, swapped = check.compared["gradient norm of llm"]
        assert swapped == pytest.approx(as_is, rel=1e-4)
        assert as_is == pytest.approx(logged("train/grad_norm/llm", tmp_path / "plain")[0], rel=1e-4)

    def test_a_kernel_that_gives_something_else_ends_the_run_before_its_first_step(
        self, train, triton_interpreter, monkeypatch
    ):
        from triton import language as tl

        monkeypatch.setattr("liger_kernel.ops.rms_norm.rsqrt", lambda value: 1.01 * tl.rsqrt(value))
        with pytest.raises(QcvlError, match=r"model.liger: .* differ by more than 0.0001 .*: loss .*liger-kernel"):
            train("wrong", False, [StockCheck("model.liger", loss_and_norms)], liger=True, limit=2)
