"""Runs over ranks that hold parts of the model, and over other numbers of ranks: one process in numbers and files."""

import json
import shutil
import signal
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText

from qcvl.modules.rollout import author_of
from tests.invariant.conftest import metrics, rows, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FSDP, DDP, ONE = (
    ("strategy=fsdp", "trainer.devices=2", "data.batch_size=2"),
    ("strategy=ddp", "trainer.devices=2", "data.batch_size=2"),
    ("strategy=single",),
)
TINY = Path(__file__).parents[2] / "qcvl/models/tiny"


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_sharded_ranks_have_the_losses_metrics_and_files_of_one_process(command, small_run, finished_run, tmp_path):
    # 5 photos to validate and 3 to answer: the shares are uneven.
    run = tmp_path / "run"
    done = command("train", *small_run, *FSDP, f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert_same(rows(run), rows(finished_run))
    ours, theirs = metrics(run), metrics(finished_run)
    for name in theirs:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5)
    assert files(run) == files(finished_run)
    last, expected = run / "checkpoints/last", finished_run / "checkpoints/last"
    adapters = [
        peft.PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(TINY), folder).state_dict()
        for folder in (last, expected)
    ]
    torch.testing.assert_close(adapters[0], adapters[1], rtol=0, atol=1e-5)

    # Its state is that of any number of ranks, sharded or not.
    assert_same(goes_on(command, small_run, run, tmp_path / "one", *ONE), rows(finished_run))
    assert_same(goes_on(command, small_run, finished_run, tmp_path / "two", *FSDP), rows(finished_run))


def test_whole_weights_that_are_trained_in_parts_load_in_plain_transformers(command, small_run, tmp_path):
    # Embeddings are tied; two micro-batches make a step, and activations of the language model are recomputed.
    full = ("stage=3", "tuner=full", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2")
    full = (*full, "model.gradient_checkpointing=[llm]")
    for name, strategy in (("one", ONE), ("two", FSDP)):
        done = command("train", *small_run, *full, *strategy, f"hydra.run.dir={tmp_path}/{name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "two"), rows(tmp_path / "one"))
    folders = [tmp_path / name / "checkpoints/last" for name in ("one", "two")]
    assert files(folders[0]) == files(folders[1])
    expected, found = (AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in folders)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_run_over_two_data_parallel_ranks_goes_on_in_one_process_with_the_same_losses(
    command, small_run, finished_run, tmp_path
):
    run = tmp_path / "run"
    done = command("train", *small_run, *DDP, f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert_same(goes_on(command, small_run, run, tmp_path / "one", *ONE), rows(finished_run))


def test_a_rank_of_text_alone_runs_and_reduces_the_blocks_that_its_peer_with_photos_does(
    command, small_run, photos, tmp_path
):
    images = [json.loads(line)["images"][0] for line in (photos / "train.jsonl").read_text().splitlines()][:4]
    lines = []
    for number in range(8):  # more texts than photos: some ranks have none
        shown = number % 2 and number < 6
        question = [{"type": "image", "image": str(photos / images[number // 2])}] if shown else []
        question.append({"type": "text", "text": f"what is number {number}?"})
        talk = [{"role": "user", "content": question}, {"role": "assistant", "content": f"part {number}"}]
        lines.append(json.dumps({"messages": talk}) + "\n")
    (tmp_path / "talk.jsonl").write_text("".join(lines))
    kept = [item for item in small_run if not item.startswith(("data.train=", "data.val=", "data.batch", "data.samp"))]
    talk = (f"data.train={tmp_path}/talk.jsonl", f"data.val={tmp_path}/talk.jsonl", "data.format=messages", "stage=3")
    talk = (*talk, "data.val_generate=0", "trainer.max_steps=3", "callbacks.checkpoint.every_n_train_steps=3")
    for name, how in (("one", (*ONE, "data.batch_size=2")), ("two", (*FSDP[:2], "data.batch_size=1"))):
        done = command("train", *kept, *talk, *how, f"hydra.run.dir={tmp_path}/{name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "two"), rows(tmp_path / "one"))


def test_sharded_ranks_that_are_asked_to_stop_in_a_validation_save_and_go_on(
    command, small_run, finished_run, tmp_path
):
    run = tmp_path / "run"
    process = command.start("train", *small_run, *FSDP, f"hydra.run.dir={run}")
    # The epoch's last step is logged, and its validation has begun.
    wait_for(lambda: beats(run).get("doing") == "validation" and beats(run).get("step") == 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, command.output(process)
    done = command("train", *small_run, *ONE, "resume=auto", f"hydra.run.dir={run}")
    assert done.code == 0, done.output
    assert_same(rows(run), rows(finished_run))


def beats(run: Path) -> dict:
    path = run / "heartbeat.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def goes_on(command, small_run, whole: Path, run: Path, *strategy: str) -> list[dict]:
    """The rows of a run that goes on from step 4 of ``whole``, in a copy of its directory."""
    shutil.copytree(whole, run, symlinks=True)
    done = command("train", *small_run, *strategy, f"resume={run}/checkpoints/step-4")
    assert done.code == 0, done.output
    return rows(run)


@pytest.mark.parametrize("tuner", ["dora", "boft", "fourierft", "lora_aligner_full"])
def test_each_tuner_over_sharded_ranks_makes_the_steps_of_one_process(command, small_run, tmp_path, tuner):
    for name, strategy in (("one", ONE), ("two", FSDP)):
        steps = ("stage=3", f"tuner={tuner}", "trainer.max_steps=2", "data.val_generate=0")
        done = command("train", *small_run, *steps, *strategy, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "two"), rows(tmp_path / "one"))


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_experts_in_parts_take_the_steps_of_whole_ones(command, small_run, tmp_path, tuner):
    # Ranks route their tokens to other experts; a row is one sample, since routers are balanced row by row.
    kept = [item for item in small_run if not item.startswith(("model", "data.batch"))]
    model = ("model=tiny_qwen3_vl_moe", f"tuner={tuner}", "stage=3", "objective.load_balance=0.01")
    ways = {"one": (*ONE, "trainer.accumulate_grad_batches=2"), "two": FSDP[:2]}
    for name, strategy in ways.items():
        steps = ("data.batch_size=1", "data.val_batch_size=1", "trainer.max_steps=3", "data.val_generate=0")
        done = command("train", *kept, *model, *strategy, *steps, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "two"), rows(tmp_path / "one"))
    assert any(row.get("train/balance_loss") for row in rows(tmp_path / "one"))


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_a_teacher_of_itself_teaches_sharded_ranks_what_it_teaches_one_process(command, small_run, tmp_path, tuner):
    # With adapters it is the sharded model without them, with full tuning a copy that no rank shares.
    taught = ("objective=gkd_forward_only", "objective.visual_kd.enabled=true", "stage=3", f"tuner={tuner}")
    for name, strategy in (("one", ONE), ("two", FSDP)):
        done = command(
            "train", *small_run, *taught, *strategy, "trainer.max_steps=3", f"hydra.run.dir={tmp_path / name}"
        )
        assert done.code == 0, done.output
    expected = rows(tmp_path / "one")
    assert_same(rows(tmp_path / "two"), expected)
    assert any(row.get("train/llm_kd_loss") for row in expected)
    assert any(row.get("train/vision_kd_loss") for row in expected)


def test_sharded_ranks_draw_the_answers_of_one_process_each_as_long_as_it_likes(command, small_run, tmp_path):
    # Steps about the student's answers and, seq_kd, about those of its teacher, which is the sharded model as well.
    drawing = ("objective=gkd", "objective.temperature=0", "objective.max_completion_length=40", "stage=3")
    for name, strategy in (("one", ONE), ("two", FSDP)):
        steps = ("trainer.max_steps=4", "data.val_generate=0", f"hydra.run.dir={tmp_path / name}")
        done = command("train", *small_run, *drawing, "tuner=lora", *strategy, *steps)
        assert done.code == 0, done.output
    expected = rows(tmp_path / "one")
    assert_same(rows(tmp_path / "two"), expected)
    assert max(row.get("train/llm_kd_loss", 0) for row in expected) > 0
    authors = {author_of(0, step, 0.5, seq_kd=True) for step in range(4)}
    assert authors == {"student", "teacher"}


def test_sharded_ranks_of_which_some_recall_what_their_teacher_said_have_the_same_losses(command, small_run, tmp_path):
    # The teacher is the sharded model: a rank that asked it alone would wait for ever.
    cache = tmp_path / "cache"
    taught = ("objective=gkd_forward_only", "objective.top_k=8", f"objective.teacher_cache={cache}", "tuner=lora")
    for name in ("first", "second"):
        done = command("train", *small_run, *taught, *FSDP, "trainer.max_steps=3", f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.output
        assert files(cache) == ["header.json", *(f"rank-{r}.{kind}" for r in (0, 1) for kind in ("index", "words"))]
        for file in cache.glob("rank-1.*"):
            file.unlink()
    assert_same(rows(tmp_path / "second"), rows(tmp_path / "first"))


def test_sharded_ranks_that_hold_rows_together_take_the_steps_of_one_process(command, small_run, tmp_path):
    full = ("stage=3", "tuner=full", "trainer.max_steps=2", "data.val_generate=0")
    full = (*full, "trainer.accumulate_grad_batches=2", "model.gradient_checkpointing=[vision,llm]")
    together = (FSDP[0], "trainer.devices=4", "sp_degree=2", "data.batch_size=2")
    for name, strategy in (("one", ONE), ("several", together)):
        done = command("train", *small_run, *full, *strategy, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "several"), rows(tmp_path / "one"))


@pytest.mark.parametrize("strategy", [FSDP[0], DDP[0]])
def test_compiled_blocks_over_two_ranks_take_the_steps_of_one_process_without(command, small_run, tmp_path, strategy):
    steps = ("stage=3", "tuner=lora", "tuner.dropout=0", "trainer.max_steps=2", "data.val_generate=0")
    ways = {"one": ONE, "two": (strategy, *FSDP[1:], "model.compile=true")}
    for name, how in ways.items():
        done = command("train", *small_run, *steps, *how, f"hydra.run.dir={tmp_path / name}")
        assert done.code == 0, done.output
    assert_same(rows(tmp_path / "two"), rows(tmp_path / "one"))
    assert "the first batch as it is, and by it" in done.output
