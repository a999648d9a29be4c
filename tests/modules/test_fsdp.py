"""FSDP2 in one process: the steps of plain training, whole checkpoints, and what each of its settings changes.

Two processes are tests/invariant/test_sharded.py.
"""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

from qcvl.callbacks.checkpoint import TRAINER_STATE, HFCheckpoint
from qcvl.models.forward import blocks
from qcvl.modules.fsdp import FSDP, in_parts, precision_policy
from qcvl.modules.sharded import gathered, load_whole, placed, whole, whole_blocks

pytestmark = pytest.mark.filterwarnings(
    "ignore:The '.*_dataloader' does not have many workers", "ignore:Checkpoint dir"
)
SETTINGS = {"reshard_after_forward": True, "cpu_offload": False, "process_group_backend": None}


@pytest.fixture(autouse=True)
def ranks(monkeypatch):
    """A port of the test's own; no process group outlives the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def mesh():
    """One process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1)
    return init_device_mesh("cpu", (1,))


@pytest.fixture
def train(make_module, make_datamodule, make_data, make_trainer, tmp_path):
    """``train(name, strategy={…} or None, module={…}, resume=…)``: a trainer and its module after ``fit``."""

    def run(name, strategy=None, module=None, resume=None, callbacks=(), **changes):
        sources = {"train": {"en": make_data.source("en.jsonl")}, "val": {"val": make_data.source("en.jsonl")}}
        data = make_data(**sources, sample_limit=8, batch_size=2, val_batch_size=4)
        how = {"strategy": FSDP(**SETTINGS | strategy)} if strategy is not None else {}
        saving = HFCheckpoint(dirpath=str(tmp_path / name / "checkpoints"), every_n_train_steps=1, keep_last=9)
        values = {"callbacks": [*callbacks, saving], "enable_checkpointing": True, "max_steps": 2} | changes | how
        trainer, built = make_trainer(tmp_path / name, **values), make_module(rate=1e-2, **module or {})
        state = str(tmp_path / resume / TRAINER_STATE) if resume else None
        trainer.fit(built, make_datamodule(data=data), ckpt_path=state, weights_only=True if resume else None)
        return trainer, built

    return run


class Watch(Callback):
    """What a block's first weight is between forward and backward, and while validation answers."""

    def on_before_backward(self, trainer, pl_module, loss):
        self.before_backward = next(blocks(pl_module.built)[-1].parameters())

    def on_validation_epoch_end(self, trainer, pl_module):
        self.in_validation = [type(parameter) for parameter in pl_module.parameters()]


KEYS = ("train/loss", "train/token_acc", "train/grad_norm", "train/grad_norm/llm", "eval/loss", "eval/token_acc")


@pytest.mark.parametrize("tuner", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_steps_validation_and_files_are_those_of_plain_training(train, lora, logged, tmp_path, tuner):
    module = {"towers": ["vision", "aligner", "llm"], "tuner": lora() if tuner == "lora" else None}
    changes = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "max_steps": -1}
    train("plain", module=module, **changes)
    _, sharded = train("sharded", strategy={}, module=module, **changes)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    for key in KEYS:
        expected, found = (logged(key, tmp_path / name) for name in ("plain", "sharded"))
        assert expected and found == pytest.approx(expected, rel=1e-5), key
    expected, found = (
        torch.load(tmp_path / name / "checkpoints/last" / TRAINER_STATE, weights_only=True)
        for name in ("plain", "sharded")
    )
    for state in (expected, found):
        state["moments"] = state["optimizer_states"][0]["state"]
    for part in ("state_dict", "moments"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-4, atol=1e-6)
    names = [
        sorted(str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*"))
        for name in ("plain", "sharded")
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize(("before", "after"), [pytest.param({}, None, marks=pytest.mark.slow), (None, {})])
def test_a_run_goes_on_with_and_without_sharding(train, lora, logged, tmp_path, before, after):
    module = {"tuner": lora()}
    train("whole", module=module, max_steps=4)
    train("first", strategy=before, module=module, max_steps=4)
    train("second", strategy=after, module=module, max_steps=4, resume="first/checkpoints/step-2")
    expected = logged("train/loss", tmp_path / "whole")
    assert logged("train/loss", tmp_path / "second")[-2:] == pytest.approx(expected[2:], rel=1e-5)


def test_weights_are_whole_while_validation_answers_and_in_parts_after_it(train):
    watch = Watch()
    trainer, module = train("run", strategy={}, callbacks=[watch], limit_train_batches=1)
    assert trainer.global_step == 1 and DTensor not in watch.in_validation
    assert all(isinstance(parameter, DTensor) for parameter in module.parameters())


@pytest.mark.parametrize("reshard", [True, False])
def test_a_blocks_weights_are_freed_between_forward_and_backward_where_asked(train, reshard):
    watch = Watch()
    train("run", strategy={"reshard_after_forward": reshard}, callbacks=[watch], max_steps=3, val_check_interval=1)
    assert isinstance(watch.before_backward, DTensor) == reshard  # after validations as well


@pytest.mark.slow
def test_blocks_are_compiled_once_though_their_weights_come_and_go(train, small_model, lora):
    torch._dynamo.reset()
    counters.clear()
    graphs = []

    class Count(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            graphs.append(counters["stats"]["unique_graphs"])

    module = {"tuner": lora(dropout=0.0), "model": small_model(compile=True)}
    train("run", strategy={}, module=module, callbacks=[Count()], max_steps=4)
    assert graphs[0] > 0 and graphs == graphs[:1] * 4


def test_blocks_gathered_while_nothing_trains_still_know_in_what_numbers_they_do(train, lora):
    """A teacher that is the model without its adapters is asked like this; torch then took gradients for bfloat16."""
    known = []

    class Asks(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.requires_grad_(False)
            with whole_blocks(module):
                pass
            for parameter in trained:
                parameter.requires_grad_(True)
            known.extend(block._get_fsdp_state()._fsdp_param_groups[0]._orig_dtype for block in blocks(module.built))

    module = {"towers": ["vision", "aligner", "llm"], "tuner": lora()}
    train("run", strategy={}, module=module, callbacks=[Asks()], precision="bf16-mixed", max_steps=2)
    assert set(known) == {torch.float32}


@pytest.mark.parametrize("offload", [True, False])
def test_parts_lie_in_host_memory_where_asked(train, offload):
    _, module = train("run", strategy={"cpu_offload": offload}, max_steps=1)
    states = [part._get_fsdp_state() for part in (module, *blocks(module.built))]
    parameters = [
        parameter for state in states for group in state._fsdp_param_groups for parameter in group.fsdp_params
    ]
    assert len(parameters) == len(list(module.parameters()))
    assert {parameter.offload_to_cpu for parameter in parameters} == {offload}


@pytest.mark.parametrize(
    ("settings", "device", "backend"),
    [
        ({}, "cuda", "nccl"),
        ({}, "cpu", "gloo"),
        ({"cpu_offload": True}, "cuda", "cpu:gloo,cuda:nccl"),
        ({"process_group_backend": "gloo"}, "cuda", "gloo"),
    ],
)
def test_ranks_speak_over_what_reaches_where_their_parts_lie(settings, device, backend):
    strategy = FSDP(**SETTINGS | settings)
    strategy.parallel_devices = [torch.device(device, 0)]
    assert strategy._get_process_group_backend() == backend


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", None), ("bf16-true", None), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_mixed_precision_gathers_halves_and_reduces_in_float32(precision, dtype):
    policy = precision_policy(precision)
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (dtype, torch.float32, None)


def test_mixed_precision_computes_in_halves_and_moves_float32(train, small_model, lora, logged, tmp_path):
    watch = Watch()
    module = {
        "model": small_model(dtype="bfloat16"),
        "tuner": lora(),
    }  # of one block: adapters float32, the rest halves
    settings = {"reshard_after_forward": False}
    changes = {"precision": "bf16-mixed", "limit_val_batches": 0}
    _, sharded = train("half", settings, module, callbacks=[watch], **changes)
    assert watch.before_backward.dtype == torch.bfloat16
    kinds = {parameter.requires_grad: parameter.dtype for parameter in sharded.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    train("plain", None, module, **changes)
    half, plain = (logged("train/loss", tmp_path / name) for name in ("half", "plain"))
    assert half == pytest.approx(plain, rel=0.02)


def test_gathering_is_the_inverse_of_placing_and_keeps_ties(mesh):
    full = torch.arange(12.0).reshape(4, 3)
    layer = torch.nn.Linear(3, 4, bias=False)
    part = placed(full.clone(), like=distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]))
    assert isinstance(part, DTensor) and torch.equal(whole(part), full) and whole(full) is full
    state = gathered({"a": part, "tied": part.detach(), "list": [full, 3], "other": part * 2})
    assert torch.equal(state["a"], full) and state["tied"] is state["a"] and state["list"][0] is full
    assert torch.equal(state["other"], 2 * full) and not isinstance(state["other"], DTensor)
    state["a"].zero_()
    assert torch.equal(whole(part), full)  # a copy

    module = torch.nn.ParameterDict({"weight": torch.nn.Parameter(part)})
    load_whole(module, {"weight": full + 1})
    assert torch.equal(whole(module["weight"]).detach(), full + 1)
    optimizer = torch.optim.AdamW([module["weight"]])
    module["weight"].sum().backward()
    optimizer.step()
    saved = copy.deepcopy(gathered(optimizer.state_dict()))
    restored = in_parts(optimizer, saved)["state"][0]
    assert isinstance(restored["exp_avg"], DTensor) and torch.equal(
        whole(restored["exp_avg"]), saved["state"][0]["exp_avg"]
    )
    assert not isinstance(restored["step"], DTensor)
