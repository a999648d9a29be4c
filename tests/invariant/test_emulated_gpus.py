"""Runs on GPUs in software (see tests/emulated): the numbers of the CPU, and no tensor where it does not belong.

What is the host's and what the device's is as on a GPU, kernels are not: speed, and what a real kernel rounds, are not
seen here.
"""

import json
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import EMULATED
from tests.invariant.conftest import CHECKOUT, Command, metrics, rows

pytestmark = [*EMULATED, pytest.mark.timeout(900)]
PLACE = CHECKOUT / "tests/emulated"
TINY = CHECKOUT / "qcvl/models/tiny"
WEIGHTS = (TINY / "model.safetensors").stat().st_size  # bytes, of half precision
GPU = ("trainer.accelerator=gpu",)
HALF = (*GPU, "trainer.precision=bf16-mixed")
TWO_STEPS = ("trainer.max_steps=2", "data.val_generate=2")


ZERO = [  # 5 photos to validate in batches of 2: ranks have different numbers of them
    pytest.param(
        f"deepspeed_{stage}", marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="make deepspeed")
    )
    for stage in ("zero2", "zero3")
]


@pytest.fixture
def on_gpus(command, tmp_path):
    """``on_gpus("train", …)``: runs a command that sees ``count`` GPUs, and returns what it did on each of them."""

    def run(root: str, *overrides: str, count: int = 1) -> list[dict]:
        told = tmp_path / f"told-{len(command.started)}"
        told.mkdir()
        path = f"{PLACE}{os.pathsep}{CHECKOUT}"
        process = command.start(
            root, *overrides, PYTHONPATH=path, EMULATED_GPUS=str(count), EMULATED_GPU_TOLD=str(told)
        )
        code = process.wait(command.patience)
        assert code == 0, command.output(process)
        devices = [json.loads(file.read_text()) for file in told.iterdir()]
        return [device for device in devices if device["peak_bytes"]]

    return run


@pytest.fixture(scope="session")
def on_the_cpu(small_run, tmp_path_factory):
    """``on_the_cpu(…)``: the directory of a small run there, made once."""

    @cache
    def run(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("cpu")
        done = Command(folder)("train", *small_run, *overrides, f"hydra.run.dir={folder}/run")
        assert done.code == 0, done.output
        return folder / "run"

    return run


def assert_near(run: Path, other: Path, tolerance: float = 1e-4) -> None:
    """Two runs logged the same keys, and nearly the same numbers."""
    found, expected = rows(run), rows(other)
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance)


def assert_two_steps(run: Path) -> None:
    """A run logged two losses that are such."""
    losses = [row["train/loss"] for row in rows(run) if "train/loss" in row]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("x + torch.ones(3)", "Expected all tensors to be on the same device"),
        ("torch.cat([x, torch.ones(3)])", "Expected all tensors to be on the same device"),
        ("x.index_select(0, torch.tensor([1]))", "Expected all tensors to be on the same device"),
        ("x.numpy()", "can't convert cuda:0 device type tensor to numpy"),
        ("torch.rand(3, device='cuda', generator=torch.Generator())", "Expected a 'cuda'"),
        ("y = torch.nn.Linear(3, 2).cuda()(x); y.sum().backward(); assert (x * 2).sum().item() == 6", None),
        ("assert x[torch.tensor([0, 2])].is_cuda and torch.stack([x, x]).cpu().tolist() == [[1] * 3] * 2", None),
    ],
)
def test_the_device_refuses_what_a_gpu_refuses_and_computes_the_rest(lines, error):
    code = f"import torch; x = torch.ones(3, device='cuda'); {lines}"
    environment = os.environ | {"PYTHONPATH": str(PLACE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == (error is None), done.stderr
    assert error is None or error in done.stderr


def test_a_run_and_what_goes_on_from_it_have_the_numbers_of_the_cpu(on_gpus, on_the_cpu, small_run, tmp_path):
    steps = ("trainer.max_steps=4",)
    (device,) = on_gpus("train", *small_run, *GPU, *steps, f"hydra.run.dir={tmp_path}/run")
    expected = on_the_cpu(*steps)
    assert_near(tmp_path / "run", expected)
    assert metrics(tmp_path / "run").keys() == metrics(expected).keys()
    assert device["peak_bytes"] > WEIGHTS
    step = tmp_path / "run/checkpoints/step-2"
    on_gpus("train", *small_run, *GPU, *steps, f"resume={step}")
    assert_near(tmp_path / "run", expected)


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_in_half_precision_every_layer_of_both_towers_attends_by_the_kernel(on_gpus, small_run, tmp_path, tuner):
    steps = ("stage=3", f"tuner={tuner}", "trainer.max_steps=2", "trainer.limit_val_batches=0")
    (device,) = on_gpus("train", *small_run, *HALF, *steps, f"hydra.run.dir={tmp_path}/run")
    config = json.loads((TINY / "config.json").read_text())
    layers = config["text_config"]["num_hidden_layers"] + config["vision_config"]["depth"]
    assert device["kernel_forward"] == device["kernel_backward"] == 2 * layers


@pytest.mark.parametrize(
    "choices",
    [
        ("stage=3", "tuner=full", "trainer.precision=16-mixed", "trainer.accumulate_grad_batches=2"),
        ("stage=2", "tuner=lora_aligner_full", "model.dtype=bfloat16", "trainer.precision=bf16-mixed"),
        ("stage=3", "tuner=adalora", "model.gradient_checkpointing=true"),
        ("stage=3", "tuner=full", "optimizer=muon_adamw", "objective.aux_grounding=0.5"),
        ("model=tiny_qwen3_vl_moe", "stage=3", "tuner=full", "objective.load_balance=0.01"),
        ("model=tiny_qwen2_5_vl", "stage=3", "trainer.precision=bf16-mixed"),
        ("data.num_workers=2", "data.packing=best_fit", "data.packing_length=1500"),
        ("tiles=grid", "generation.temperature=1.0", "trainer.deterministic=true"),
        ("objective=gkd", "stage=3", "objective.eval_kd=true", "trainer.precision=bf16-mixed"),
        ("objective=gkd_forward_only", "stage=3", "tuner=full", "objective.visual_kd.enabled=true"),
        ("batch_probe=true", "data.token_budget=512", "stage=3", "tuner=full"),
    ],
    ids=lambda choices: "-".join(choice.split("=")[-1] for choice in choices[:3]),
)
def test_each_choice_trains_and_validates(on_gpus, small_run, tmp_path, choices):
    on_gpus("train", *small_run, *GPU, *TWO_STEPS, *choices, f"hydra.run.dir={tmp_path}/run")
    assert_two_steps(tmp_path / "run")


def test_a_teacher_first_asked_in_a_validation_teaches_from_its_cache_and_without(on_gpus, small_run, tmp_path):
    taught = ("objective=gkd_forward_only", f"objective.teacher={TINY}", "objective.eval_kd=true", *HALF, *TWO_STEPS)
    on_gpus("train", *small_run, *taught, "stage=3", "tuner=full", f"hydra.run.dir={tmp_path}/run")
    cached = ("objective.top_k=8", f"objective.teacher_cache={tmp_path}/cache", "objective.eval_kd=false")
    for name in ("first", "second"):
        on_gpus("train", *small_run, *taught, *cached, f"hydra.run.dir={tmp_path}/{name}")
    assert_near(tmp_path / "second", tmp_path / "first", tolerance=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", *ZERO])
def test_two_gpus_have_the_numbers_of_one_process_on_the_cpu(on_gpus, on_the_cpu, small_run, tmp_path, strategy):
    two = (f"strategy={strategy}", "trainer.devices=2", "data.batch_size=2")
    devices = on_gpus("train", *small_run, *GPU, *TWO_STEPS, *two, f"hydra.run.dir={tmp_path}/run", count=2)
    assert len(devices) == 2
    assert_near(tmp_path / "run", on_the_cpu(*TWO_STEPS))


@pytest.mark.parametrize(
    "choices",
    [
        ("tuner=lora", "objective=gkd", "trainer.precision=bf16-mixed"),  # some steps are about drawn answers
        ("tuner=full", "trainer.precision=16-mixed", "trainer.gradient_clip_val=0.1"),
        ("tuner=full", "trainer.strategy.cpu_offload=true", "model.gradient_checkpointing=true"),
    ],
    ids=["drawn", "float16", "offload"],
)
def test_each_choice_trains_on_sharded_gpus(on_gpus, small_run, tmp_path, choices):
    two = (*GPU, "strategy=fsdp", "trainer.devices=2", "data.batch_size=2", "stage=3")
    on_gpus("train", *small_run, *TWO_STEPS, *two, *choices, f"hydra.run.dir={tmp_path}/run", count=2)
    assert_two_steps(tmp_path / "run")


def test_two_gpus_that_hold_each_row_together_do_as_well(on_gpus, on_the_cpu, small_run, tmp_path):
    full = ("stage=3", "tuner=full", *TWO_STEPS)
    two = ("strategy=fsdp", "trainer.devices=2", "sp_degree=2")
    on_gpus("train", *small_run, *GPU, *full, *two, f"hydra.run.dir={tmp_path}/run", count=2)
    assert_near(tmp_path / "run", on_the_cpu(*full))


def test_a_step_that_is_not_finite_is_kept_and_made_again(command, on_gpus, small_run, tmp_path):
    wild = (*small_run, *GPU, "trainer.max_steps=4", "model.lr_multiplier=1e30", "objective.max_nonfinite_steps=2")
    with pytest.raises(AssertionError, match="2 optimizer steps in a row had a loss or gradient that is not finite"):
        on_gpus("train", *wild, f"hydra.run.dir={tmp_path}/run")
    (kept,) = (tmp_path / "run/nonfinite").iterdir()
    on_gpus("train", *wild, "strategy=single", "job=replay", f"replay={kept}")
    assert "not finite" in command.output(command.started[-1])


def test_weights_are_verified_with_the_memory_that_the_device_counts(on_gpus, tmp_path):
    shared = ("experiment=verify_real", f"model.path={TINY}", "model.dtype=float32", "model.lr_multiplier=10")
    on_gpus("train", *shared, f"hydra.run.dir={tmp_path}/run")
    assert json.loads((tmp_path / "run/verify.json").read_text())["passed"]


def test_the_benchmark_of_gpus_trains_a_small_shape_and_reads_its_memory():
    environment = os.environ | {"PYTHONPATH": f"{PLACE}:{CHECKOUT}"}
    command = [sys.executable, CHECKOUT / "benchmarks/gpu.py", "--tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    measured = [line for line in done.stdout.splitlines() if line.strip().startswith("tiny ")]
    assert len(measured) == 2 and all("MFU" in line and "GiB" in line for line in measured), done.stdout


def test_checkpoints_are_evaluated_and_asked_on_the_device(on_gpus, finished_run, photos, tmp_path):
    checkpoint = f"checkpoint={finished_run}/checkpoints/last"
    for root, asked in (("evaluate", f"data.val={photos}/val.jsonl"), ("infer", f"input={photos}/val.jsonl")):
        for count in (1, 2):
            devices = on_gpus(root, checkpoint, asked, f"devices={count}", count=count)
            assert len(devices) == count and all(device["peak_bytes"] > WEIGHTS for device in devices), root
    with pytest.raises(AssertionError, match=r"error: devices: You requested gpu: \[0, 1\] But your machine only has"):
        on_gpus("infer", checkpoint, f"input={photos}/val.jsonl", "devices=2")
