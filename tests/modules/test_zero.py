"""ZeRO over two processes: the run of one process, its checkpoints, and going on from them."""

import pytest

from tests.conftest import DEEPSPEED, LIGER

pytestmark = [*DEEPSPEED, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CHOICES = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3", "deepspeed_zero3_offload")


def strategy(name: str):
    """At the size of a test all weights would stay whole in stage 3, so its threshold is 0."""
    from tests.modules.zero_on_cpu import ZeroOnCpu, zero

    return ZeroOnCpu(zero=zero(name, **({"persistence_threshold": 0} if "zero3" in name else {})), micro_batch=1)


@pytest.fixture
def parts(make_module, make_datamodule, make_data, make_trainer, lora, tmp_path):
    """``parts(folder, batch_size, **trainer)``: module, data module and trainer of a run over 8 records."""

    def make(
        folder: str,
        batch_size: int,
        full=False,
        model=None,
        limit=8,
        towers=("llm", "aligner"),
        sp_degree=1,
        **changes,
    ):
        sources = {"train": {"en": make_data.source("en.jsonl")}, "val": {"val": make_data.source("en.jsonl")}}
        data = make_data(**sources, sample_limit=limit, batch_size=batch_size, val_batch_size=3)
        values = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1, "max_epochs": 2}
        trainer = make_trainer(tmp_path / folder, **values | changes)
        tuner = {} if full else {"tuner": lora(dropout=0.0)}
        module = make_module(**tuner, model=model, rate=1e-3, towers=towers, sp_degree=sp_degree)
        return module, make_datamodule(data=data, sp_degree=sp_degree), trainer

    return make


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_losses_and_gradients_of_one(parts, logged, tmp_path, name, accumulate):
    from tests.modules.zero_on_cpu import in_processes

    def run(folder: str, batch_size: int, **changes) -> None:
        module, datamodule, trainer = parts(folder, batch_size, accumulate_grad_batches=accumulate, **changes)
        trainer.validate(module, datamodule, verbose=False)
        trainer.fit(module, datamodule)

    run("one", 2)
    in_processes(2, lambda ranks: run("two", 1, strategy=strategy(name), **ranks))
    for key in ("train/loss", "train/token_acc", "train/grad_norm", "train/grad_norm/llm", "eval/loss"):
        single, double = (logged(key, tmp_path / folder) for folder in ("one", "two"))
        assert single and double == pytest.approx(single, rel=1e-4), key


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_ranks_with_different_numbers_of_photos_to_validate_do_not_wait_for_each_other(parts, logged, tmp_path, name):
    from tests.modules.zero_on_cpu import in_processes

    def run(folder: str, batch_size: int, **changes) -> None:  # 7 photos in batches of 3: 2 and 1 of them
        changes |= {"accumulate_grad_batches": 1, "max_epochs": -1, "max_steps": 2, "val_check_interval": 1}
        module, datamodule, trainer = parts(folder, batch_size, limit=7, **changes)
        trainer.validate(module, datamodule, verbose=False)
        trainer.fit(module, datamodule)

    run("one", 2)
    in_processes(2, lambda ranks: run("two", 1, strategy=strategy(name), **ranks))
    for key in ("train/loss", "eval/loss"):
        single, double = (logged(key, tmp_path / folder) for folder in ("one", "two"))
        assert len(single) >= 2 and double == pytest.approx(single, rel=1e-4), key


@pytest.mark.parametrize("name", CHOICES[1:3])
def test_two_processes_that_hold_each_row_together_take_the_steps_of_one(parts, logged, tmp_path, name):
    from tests.modules.zero_on_cpu import in_processes

    towers = ("vision", "aligner", "llm")

    def run(folder: str, **changes) -> None:
        module, datamodule, trainer = parts(folder, 2, towers=towers, accumulate_grad_batches=1, **changes)
        trainer.fit(module, datamodule)

    run("one")
    in_processes(2, lambda ranks: run("two", sp_degree=2, strategy=strategy(name), **ranks))
    norms = [f"train/grad_norm/{tower}" for tower in towers]
    for key in ("train/loss", "train/token_acc", *norms, "eval/loss"):
        single, double = (logged(key, tmp_path / folder) for folder in ("one", "two"))
        assert single and double == pytest.approx(single, rel=1e-4), key


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
def test_a_checkpoint_goes_on_with_the_same_losses_on_two_processes_and_on_one(
    parts, logged, tmp_path, name, precision
):
    import torch

    from qcvl.callbacks.checkpoint import TRAINER_STATE, HFCheckpoint
    from qcvl.checkpoints.adapters import read_adapter
    from tests.modules.zero_on_cpu import in_processes

    def run(folder: str, batch_size: int, resume=None, **changes) -> None:
        values = {"accumulate_grad_batches": 1, "precision": precision} | changes
        module, datamodule, trainer = parts(folder, batch_size, **values)
        trainer.fit(module, datamodule, ckpt_path=resume, weights_only=True)

    def saving(ranks: dict) -> None:
        saver = HFCheckpoint(dirpath=str(tmp_path / "two/checkpoints"), every_n_train_steps=1, keep_last=9)
        run("two", 1, strategy=strategy(name), enable_checkpointing=True, callbacks=[saver], **ranks)

    in_processes(2, saving)
    folder = tmp_path / "two/checkpoints/step-3"
    state = str(folder / TRAINER_STATE)
    in_processes(2, lambda ranks: run("again", 1, resume=state, strategy=strategy(name), **ranks))
    expected = logged("train/loss", tmp_path / "two")
    assert len(expected) == 8
    assert logged("train/loss", tmp_path / "again") == pytest.approx(expected[3:], rel=1e-5)

    saved = torch.load(state, weights_only=True)["state_dict"]
    written = read_adapter(folder)
    assert len(saved) == len(written) > 10
    for key, value in written.items():
        stem, leaf = key.rsplit(".", 1)
        assert torch.equal(value, saved[f"model.{stem}.default.{leaf}"]), key
    numbers = torch.cat([value.flatten() for value in written.values()])
    assert numbers.dtype == torch.float32 and not torch.equal(numbers, numbers.bfloat16().float())

    if precision == "32-true":  # what another number of devices without DeepSpeed makes of it
        run("alone", 2, resume=state)
        assert logged("train/loss", tmp_path / "alone") == pytest.approx(expected[3:], rel=1e-4)


@pytest.fixture
def taught(make_module, make_datamodule, make_data, make_trainer, lora, tmp_path):
    """``taught(folder, batch_size, objective, full)``: three steps of distillation over 6 records."""
    from qcvl.modules.settings import GKD
    from tests.conftest import choice

    def run(folder: str, batch_size: int, objective: str, full: bool, **changes) -> None:
        sources = {"train": {"en": make_data.source("en.jsonl")}, "val": None}
        data = make_data(**sources, sample_limit=6, batch_size=batch_size, sampling="dense")
        values = choice(f"objective/{objective}.yaml") | {"temperature": 0, "max_completion_length": 12}
        values["visual_kd"] = values["visual_kd"] | {"enabled": True}
        how = {"towers": ["aligner", "llm"], "rate": 1e-3} if full else {"tuner": lora(dropout=0.0), "rate": 1e-2}
        module = make_module(objective=GKD(**values), **how)
        make_trainer(tmp_path / folder, **{"gradient_clip_val": None} | changes).fit(module, make_datamodule(data=data))

    return run


@pytest.mark.parametrize(
    ("stage", "objective", "full"),
    [
        ("deepspeed_zero2", "gkd_forward_only", False),
        ("deepspeed_zero3", "gkd_forward_only", False),
        ("deepspeed_zero2", "gkd", True),  # of a copy of what moves, the rest shared with the student
        ("deepspeed_zero3", "gkd", False),  # answers of other lengths on each rank
    ],
)
def test_two_processes_are_taught_by_the_dealt_model_what_one_is(taught, logged, tmp_path, stage, objective, full):
    """ZeRO-3's own hooks gather each layer for the teacher, which is the model without its adapters."""
    from tests.modules.zero_on_cpu import in_processes

    taught("one", 2, objective, full)
    in_processes(2, lambda ranks: taught("two", 1, objective, full, strategy=strategy(stage), **ranks))
    for key in ("loss", "sft_loss", "llm_kd_loss", "vision_kd_loss", "token_acc", "grad_norm", "grad_norm/aligner"):
        single, double = (logged(f"train/{key}", tmp_path / folder) for folder in ("one", "two"))
        assert len(single) == 3 and double == pytest.approx(single, rel=1e-3, abs=1e-7), key
    assert logged("train/llm_kd_loss", tmp_path / "one")[-1] > 1e-7


@pytest.mark.parametrize(
    ("name", "swapped", "full"),
    [
        pytest.param("deepspeed_zero2", "compile", True, id="zero2-compile"),
        pytest.param("deepspeed_zero3", "liger", False, id="zero3-liger", marks=LIGER),
    ],
)
def test_other_kernels_are_held_to_the_plain_ones_and_change_no_step(
    parts, logged, small_model, request, tmp_path, name, swapped, full
):
    from qcvl.callbacks.stock_check import StockCheck
    from qcvl.modules.gradients import loss_and_norms
    from tests.modules.zero_on_cpu import in_processes

    steps = 2
    if swapped == "liger":
        request.getfixturevalue("triton_interpreter")
        steps = 1  # interpreted kernels are slow

    def run(folder: str, callbacks=(), **changes) -> None:
        changes |= {"towers": ("llm",), "full": full, "max_epochs": 1, "accumulate_grad_batches": 1}
        module, datamodule, trainer = parts(folder, 1, limit=2 * steps, callbacks=list(callbacks), **changes)
        trainer.fit(module, datamodule)

    def checked(ranks: dict) -> None:
        check = StockCheck(f"model.{swapped}", loss_and_norms)
        run("swapped", [check], model=small_model(**{swapped: True}), strategy=strategy(name), **ranks)
        as_is, other = check.compared["gradient norm of llm"]
        assert 0 < as_is == pytest.approx(other, rel=1e-4)

    in_processes(2, checked)
    in_processes(2, lambda ranks: run("plain", strategy=strategy(name), **ranks))
    for key in ("train/loss", "train/grad_norm"):
        found, expected = (logged(key, tmp_path / folder) for folder in ("swapped", "plain"))
        assert len(expected) == steps and found == pytest.approx(expected, rel=1e-4), key


def test_a_run_without_gpus_is_refused_when_the_trainer_is_made(make_trainer):
    from qcvl.errors import ConfigError
    from qcvl.modules.zero.strategy import ZeroStrategy
    from tests.modules.zero_on_cpu import zero

    with pytest.raises(ConfigError, match="DeepSpeed needs GPUs and this run is on CPUAccelerator; use strategy=ddp"):
        make_trainer(strategy=ZeroStrategy(zero=zero("deepspeed_zero2"), micro_batch=1))
