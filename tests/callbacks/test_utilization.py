"""Model operations by seconds, their share of a device's best, and memory."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from qcvl.callbacks import utilization, window
from qcvl.callbacks.peaks import peak_tflops
from qcvl.callbacks.utilization import Utilization
from qcvl.models.flops import step_flops
from tests.callbacks.conftest import QUIET

pytestmark = QUIET


class Recording(Utilization):
    """Remembers what it counted of each batch, and how long it says that took."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.batches.append(step_flops(pl_module.built).of(batch))


def test_a_real_run_logs_what_its_batches_cost_and_no_share_of_an_unknown_device(
    make_module, make_datamodule, make_trainer, logged, monkeypatch
):
    now = SimpleNamespace(seconds=0.0)

    def tick() -> float:
        now.seconds += 0.5
        return now.seconds

    one, module = Recording(), make_module()
    monkeypatch.setattr(window.time, "perf_counter", tick)
    make_trainer(callbacks=[one]).fit(module, make_datamodule())
    rates = logged("perf/model_tflops_per_s")
    assert len(rates) == len(logged("train/loss")) == len(one.batches) > 1
    # Between two looks at the clock half a second passes: one at the step's end, and one at the next one's.
    assert rates == pytest.approx([count / 0.5 / 1e12 for count in one.batches], rel=1e-5)
    assert not logged("perf/mfu")


def test_memory_is_the_most_that_the_process_took(make_module, make_datamodule, make_trainer, logged):
    ballast = torch.ones(2**28 // 4)  # 256 MiB that are touched
    before = utilization.peak_memory_gib(torch.device("cpu"))
    del ballast
    make_trainer(callbacks=[Utilization()]).fit(make_module(), make_datamodule())
    found = logged("perf/peak_memory_gib")
    assert 0.25 < before <= found[0] * (1 + 1e-6) and found == sorted(found)


@pytest.fixture
def on_gpu(monkeypatch):
    """``on_gpu(name, world_size=…)``: the row logged after one second of work worth 10 TFLOP on a named device."""

    def run(name: str, degree: int = 1, **changes) -> dict[str, float]:
        now, rows = SimpleNamespace(seconds=0.0), []
        monkeypatch.setattr(window.time, "perf_counter", lambda: now.seconds)
        monkeypatch.setattr(utilization.torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(utilization.torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
        monkeypatch.setattr(utilization.torch, "tensor", lambda value, device, dtype: torch.as_tensor(value).double())
        monkeypatch.setattr(utilization, "step_flops", lambda model: SimpleNamespace(of=lambda batch: 10e12))
        module = SimpleNamespace(built=nn.Identity(), device=torch.device("cuda"), rows=SimpleNamespace(degree=degree))
        module.log_dict = lambda values, batch_size: rows.append(values)
        trainer = SimpleNamespace(**{"log_every_n_steps": 1, "world_size": 1, "global_step": 1} | changes)
        one = Utilization()
        one.on_train_start(trainer, module)
        one.on_train_batch_start(trainer, module, {}, 0)
        now.seconds += 1
        one.on_train_batch_end(trainer, module, None, {}, 0)
        return rows[0]

    return run


def test_mfu_is_the_share_of_the_devices_peak(on_gpu):
    row = on_gpu("NVIDIA H100 80GB HBM3")
    assert row["perf/mfu"] == pytest.approx(10 / 989.4)
    assert row["perf/model_tflops_per_s"] == 10 and row["perf/peak_memory_gib"] == 3


def test_a_rank_counts_its_share_of_the_rows_it_holds_with_others(on_gpu):
    assert on_gpu("NVIDIA H100 80GB HBM3", degree=4)["perf/model_tflops_per_s"] == 10 / 4


def test_of_several_ranks_the_mean_rate_and_the_largest_memory_count(on_gpu):
    def reduce(own, reduce_op):  # the other rank does half the work in twice the memory
        return own * 1.5 if reduce_op == "sum" else own * 2

    row = on_gpu("NVIDIA A100-SXM4-80GB", world_size=2, strategy=SimpleNamespace(reduce=reduce))
    assert row["perf/model_tflops_per_s"] == 7.5 and row["perf/peak_memory_gib"] == 6
    assert row["perf/mfu"] == pytest.approx(7.5 / 312)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA A800-SXM4-80GB", 312.0),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA H20", None),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA A10G", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_a_device_is_known_by_its_whole_name(name, peak):
    assert peak_tflops(name) == peak
