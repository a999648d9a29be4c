"""What users get wrong: each mistake is named once, with where it is, and nothing is printed that only we can read."""

import json
import re
import shutil
from pathlib import Path

import pytest

from qcvl import config
from qcvl.errors import QcvlError
from qcvl.evaluate import evaluate
from qcvl.train import train

BAD_LINES = {
    2: ('{"images": ["good.jpg"], "objects": [', "is not valid JSON"),
    3: (
        '{"images": ["good.jpg"], "objects": [{"poly": [1, 2, 3, 4, 5], "desc": "x"}]}',
        "objects[0].poly has 5 numbers",
    ),
    4: ('{"images": ["good.jpg"], "objects": [{"circle": [9, 9, 4], "desc": "x"}]}', "objects[0]"),
    5: ('{"images": ["absent.jpg"], "objects": [], "summary": "x"}', "images[0]"),
    6: ('{"images": ["good.jpg"], "objects": [{"bbox_2d": [9, 1, 1, 9], "desc": "x"}]}', "objects[0].bbox_2d"),
    7: ('{"images": ["good.jpg"], "width": "wide", "height": 9, "objects": []}', "width"),
}


@pytest.fixture
def folder(tmp_path, photos) -> Path:
    """A folder with a photo ``good.jpg`` and a valid ``good.jsonl``."""
    shutil.copy(next((photos / "images").glob("*.jpg")), tmp_path / "good.jpg")
    (tmp_path / "good.jsonl").write_text('{"images": ["good.jpg"], "objects": [], "summary": "nothing"}\n' * 8)
    return tmp_path


@pytest.fixture
def refusal(folder, small_run, monkeypatch):
    """``refusal("stage=1")``: what ``qcvl.train`` says to these settings, called in this process."""
    monkeypatch.chdir(folder)

    def run(*overrides: str) -> str:
        cfg = config.load("train", [*small_run, f"paths.output_dir={folder}/run", *overrides])
        with pytest.raises(QcvlError) as told:
            train(cfg)
        assert not (folder / "run/checkpoints").exists()
        return str(told.value)

    return run


def test_every_bad_line_of_a_file_is_named_with_its_field_in_one_go(command, small_run, folder):
    good = (folder / "good.jsonl").read_text().splitlines()[0]
    lines = [BAD_LINES[number][0] if number in BAD_LINES else good for number in range(1, 9)]
    (folder / "bad.jsonl").write_text("\n".join(lines) + "\n")
    error = command("train", *small_run, f"data.train={folder}/bad.jsonl", "hydra.run.dir=here").error()
    named = [line for line in error.splitlines() if line.startswith(f"{folder}/bad.jsonl:")]
    assert [line.removeprefix(f"{folder}/bad.jsonl:").split(":")[0] for line in named] == [str(n) for n in BAD_LINES]
    for line, (_, told) in zip(named, BAD_LINES.values(), strict=True):
        assert told in line


def test_a_file_that_is_empty_absent_or_unnamed_stops_the_run(refusal, folder):
    (folder / "empty.jsonl").write_text("")
    assert f"{folder}/empty.jsonl: the file is empty" in refusal(f"data.train={folder}/empty.jsonl")
    assert f"{folder}/absent.jsonl" in refusal(f"data.val={folder}/absent.jsonl")
    assert "data.train" in refusal("data.train=null")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photo_stops_training_with_its_line(refusal, folder, workers):
    data = (folder / "good.jpg").read_bytes()
    (folder / "damaged.jpg").write_bytes(data[: len(data) // 2])
    record = json.dumps({"images": ["damaged.jpg"], "objects": [], "summary": "nothing"})
    lines = (folder / "good.jsonl").read_text() + record + "\n"
    (folder / "bad.jsonl").write_text(lines)
    error = refusal(f"data.train={folder}/bad.jsonl", f"data.num_workers={workers}", "data.val_generate=0")
    assert error.startswith(f"{folder}/bad.jsonl:9: images[0] ({folder}/damaged.jpg) is damaged")
    assert "\n" not in error


def test_a_record_without_what_its_samples_need_is_named(refusal, folder):
    (folder / "silent.jsonl").write_text('{"images": ["good.jpg"], "objects": []}\n')
    error = refusal(f"data.train={folder}/silent.jsonl", "data.sampling=summary")
    assert error.startswith(f"{folder}/silent.jsonl:1: summary is missing")
    (folder / "long.jsonl").write_text((folder / "good.jsonl").read_text())
    error = refusal(f"data.train={folder}/long.jsonl", f"data.val={folder}/long.jsonl", "global_max_length=20")
    assert re.match(rf"{folder}/long\.jsonl:\d+ has \d+ tokens", error) and "global_max_length is 20" in error


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("absent", "no such folder"),
        ("empty", "manifest.json: missing"),
        ("base", "manifest.json: missing"),
        ("partial", "manifest.json: missing"),
        ("damaged", "adapter_model.safetensors: found"),
    ],
)
def test_a_folder_that_is_no_sound_checkpoint_is_refused_for_every_use(
    refusal, folder, finished_run, monkeypatch, kind, told
):
    checkpoint = wrong_checkpoint(kind, folder, finished_run)
    error = refusal(f"stage.init_from={checkpoint}")
    assert str(checkpoint) in error and told in error
    cfg = config.load("evaluate", [f"checkpoint={checkpoint}", f"paths.output_dir={folder}/run"])
    with pytest.raises(QcvlError, match="manifest|safetensors") as refused:
        evaluate(cfg)
    assert str(checkpoint) in str(refused.value) and told in str(refused.value)


def test_a_run_of_another_model_tokenizer_or_template_does_not_go_on(refusal, folder, finished_run):
    resume = f"resume={finished_run}/checkpoints/step-9"
    assert "was trained from embedded:tiny" in (told := refusal(resume, "model=tiny_scratch"))
    assert told.startswith("resume: ") and told.endswith("set model to the same base")
    tiny = config.CONF_DIR.parent / "qcvl/models/tiny"
    for name, (file, old, new) in {
        "template": ("chat_template.jinja", "<|im_start|>", " <|im_start|>"),
        "tokenizer": ("tokenizer.json", '"content": "<|im_end|>"', '"content": "<|im_over|>"'),
    }.items():
        shutil.copytree(tiny, folder / name)
        text = (folder / name / file).read_text(encoding="utf-8")
        assert old in text
        (folder / name / file).write_text(text.replace(old, new), encoding="utf-8")
    told = refusal(resume, f"model.path={folder}/template")
    assert re.search(r"resume: the chat template of .* first in line \d+; set model to what", told), told
    told = refusal(resume, f"model.path={folder}/tokenizer")
    assert "tokens of" in told and "first '<|im_end|>': 724 in the checkpoint" in told, told


def test_a_device_that_is_not_there_is_named(refusal, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert re.search(r"^trainer: .*(CUDAAccelerator|gpu)", refusal("trainer.accelerator=gpu"))


def test_a_tuner_that_matches_nothing_stops_before_the_first_step(refusal):
    told = refusal("tuner.target_modules=[q_prj]", "data.val_generate=0")
    assert "tuner.target_modules" in told and "matches nothing" in told and "near:" in told and "q_proj" in told


def wrong_checkpoint(kind: str, folder: Path, finished_run: Path) -> Path:
    path = folder / kind
    if kind == "empty":
        path.mkdir()
    if kind == "base":
        return config.CONF_DIR.parent / "qcvl/models/tiny"
    if kind in ("partial", "damaged"):
        shutil.copytree(finished_run / "checkpoints/step-9", path)
    if kind == "partial":
        (path / "manifest.json").unlink()
    if kind == "damaged":
        weights = path / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])
    return path


def test_a_wrong_checkpoint_to_resume_ends_the_command_at_once(command, small_run, finished_run, tmp_path):
    checkpoint = wrong_checkpoint("damaged", tmp_path, finished_run)
    error = command("train", *small_run, f"resume={checkpoint}").error()
    assert error.startswith(f"{checkpoint}/adapter_model.safetensors: found")
    error = command("train", *small_run, f"resume={tmp_path}/nowhere").error()
    assert error.startswith(f"resume={tmp_path}/nowhere not found")
    assert not (tmp_path / "outputs").exists()
