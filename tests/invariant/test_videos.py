"""Conversations about videos as users bring them: converted, checked, and trained beside photos and texts."""

import json
import shutil

import pytest

from tests.invariant.conftest import metrics, rows

pytest.importorskip("av")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def films(shared_data, photos, tmp_path):
    """A file of qwen-vl-finetune's form: 6 samples about a clip, a clip and a photo, and nothing, in turn."""
    shutil.copy(shared_data("video") / "clip_a.mp4", tmp_path)
    image = str(photos / json.loads((photos / "train.jsonl").read_text().splitlines()[0])["images"][0])
    shown = [("<video>\n", {"video": "clip_a.mp4"}), ("<video>\n<image>\n", {"video": "clip_a.mp4", "image": image})]
    samples = [
        {
            **media,
            "conversations": [
                {"from": "human", "value": f"{tags}What is number {n}?"},
                {"from": "gpt", "value": f"a part, {n} of 6"},
            ],
        }
        for n, (tags, media) in enumerate([*shown, ("", {})] * 2)
    ]
    (tmp_path / "films.json").write_text(json.dumps(samples))
    return tmp_path / "films.json"


def test_a_file_of_videos_is_converted_checked_and_trained_beside_photos(command, small_run, films, tmp_path):
    done = command("convert", "format=qwen_conversations", f"input={films}", "output=films.jsonl")
    assert done.code == 0 and "6 records" in done.output, done.output
    path = tmp_path / "films.jsonl"
    assert [json.loads(line).get("videos") for line in path.read_text().splitlines()][:2] == [["clip_a.mp4"]] * 2
    done = command("check", f"data.train={path}", "decode=true")
    assert done.code == 0, done.output
    train = next(setting.removeprefix("data.train=") for setting in small_run if setting.startswith("data.train="))
    kept = [setting for setting in small_run if not setting.startswith(("data.train=", "data.val="))]
    sources = (f"data.train={{photos: {train}, films: {path}}}", f"data.val={path}")
    frames = ("data.video.max_pixels=4096", "data.video.num_frames=4")
    done = command("train", *kept, *sources, *frames, "stage=2", "tuner=lora", "hydra.run.dir=run")
    assert done.code == 0, done.output
    assert len([row for row in rows(tmp_path / "run") if "train/loss" in row]) == 9
    losses = [metrics(tmp_path / "run")[name]["eval/loss"] for name in ("initial", "final")]
    assert losses[1] < losses[0]
    (tmp_path / "clip_a.mp4").unlink()
    error = command("train", *kept, *sources, "hydra.run.dir=again").error()
    assert "films.jsonl:1: videos[0]" in error and "not found" in error
