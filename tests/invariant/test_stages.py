"""The recipe: stage 1 moves the aligner, stage 2 starts from it, and what does not fit is refused in one sentence."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qcvl import config
from qcvl.checkpoints.folder import verify
from qcvl.models.towers import tower_of
from tests.invariant.conftest import Command, metrics, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RANK = 32  # of tuner=lora
LEARNING = ("trainer.max_steps=36", "model.lr_multiplier=100", "data.val_generate=0")
HEADER_BYTES = 200  # of names and shapes a tensor in a safetensors file; its numbers are counted exactly


@pytest.fixture(scope="module")
def stages(tmp_path_factory, small_run) -> dict[int, Path]:
    """The run directories of ``stage=1 tuner=lora`` and of ``stage=2 tuner=lora stage.init_from=latest`` after it."""
    command = Command(tmp_path_factory.mktemp("stages"))
    runs = {}
    for number, init_from in ((1, "null"), (2, "latest")):
        # As a user runs them: each in the directory its time gives it, where `latest` looks.
        settings = (f"stage={number}", f"stage.init_from={init_from}", "stage.epochs=6", *LEARNING)
        done = command("train", *small_run, *settings)
        assert done.code == 0, done.output
        runs[number] = Path(next(line.split()[1] for line in done.output.splitlines() if line.startswith("run ")))
    return runs


def adapter(run: Path) -> dict[str, torch.Tensor]:
    """The adapter's tensors of a run's last checkpoint, by their names in the model."""
    tensors = load_file(run / "checkpoints/last/adapter_model.safetensors")
    return {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("number", [1, 2])
def test_the_evaluation_loss_falls_in_each_stage(stages, number):
    told = metrics(stages[number])
    assert told["final"]["eval/loss"] < told["initial"]["eval/loss"]


def test_the_second_stage_starts_where_the_first_ended(stages):
    before, after = metrics(stages[1])["final"], metrics(stages[2])["initial"]
    assert after["eval/loss"] == pytest.approx(before["eval/loss"], rel=1e-6)
    first, second = adapter(stages[1]), adapter(stages[2])
    assert first.keys() < second.keys()  # the union of both stages' modules: here the second's
    assert all(not torch.equal(tensor, second[name]) for name, tensor in first.items())  # and they moved on
    assert {tower_of(name) for name in first} == {"aligner"}
    assert {tower_of(name) for name in second} == {"aligner", "llm"}


@pytest.mark.parametrize(("number", "towers"), [(1, {"aligner"}), (2, {"aligner", "llm"})])
def test_an_adapter_holds_what_was_trained_and_little_more(stages, number, towers):
    from transformers import Qwen3VLForConditionalGeneration

    from tests.invariant.test_export import BASE

    base = Qwen3VLForConditionalGeneration.from_pretrained(BASE)
    linears = [module for name, module in base.named_modules() if is_linear(module, name) and tower_of(name) in towers]
    trained = sum(RANK * (linear.in_features + linear.out_features) for linear in linears)
    folder = stages[number] / "checkpoints/last"
    verify(folder)
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert 4 * trained <= size <= 4 * trained * 1.02 + HEADER_BYTES * 2 * len(linears)


def is_linear(module: torch.nn.Module, name: str) -> bool:
    return isinstance(module, torch.nn.Linear) and name != "lm_head"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("tuner.rank=8",), "r is 32 in the checkpoint, 8 in the tuner"),
        (("tuner.method=loha", "tuner.dropout=null"), "peft_type is LORA in the checkpoint, LOHA in the tuner"),
        (("tuner=full",), "holds an adapter, and tuner=full trains the weights themselves"),
        (("tuner=lora_aligner_full",), "would be an adapter and fully trained at once"),
        (("model=tiny_scratch",), "was trained from embedded:tiny"),
    ],
)
def test_a_checkpoint_of_another_rank_kind_or_base_is_refused(command, stages, small_run, changes, told):
    start = f"stage.init_from={stages[1]}/checkpoints/last"
    error = command("train", *small_run, "stage=2", start, *changes, "hydra.run.dir=here").error()
    assert told in error and (str(stages[1]) in error or "stage.init_from" in error)
    assert "\n" not in error


def test_latest_without_an_earlier_stage_says_what_it_looked_at(command, small_run):
    error = command("train", *small_run, "stage=2", "stage.init_from=latest", "hydra.run.dir=here").error()
    assert error.startswith("stage.init_from=latest found no checkpoint of a stage below 2")


def test_a_second_stage_that_goes_on_needs_no_first_one(stages, small_run, tmp_path):
    checkpoint = (stages[2] / "checkpoints/last").resolve()
    elsewhere = (f"paths.outputs={tmp_path}", f"paths.output_dir={tmp_path}/run")  # where `latest` finds nothing
    settings = ("stage=2", "stage.init_from=latest", f"resume={checkpoint}", *elsewhere)
    run = config.build(config.load("train", [*small_run, *settings]))
    run.module.configure_model()
    found = {name.removeprefix("base_model.model."): value for name, value in run.module.model.state_dict().items()}
    assert all(torch.equal(found[in_memory(name)], tensor) for name, tensor in adapter(stages[2]).items())


def in_memory(name: str) -> str:
    """The name that a tensor of the file has while its adapter is named."""
    return name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")


def test_the_rows_of_both_stages_name_the_towers_that_move(stages):
    towers = {n: {key for row in rows(stages[n]) for key in row if key.startswith("lr/")} for n in stages}
    assert towers == {1: {"lr/aligner"}, 2: {"lr/aligner", "lr/llm"}}
