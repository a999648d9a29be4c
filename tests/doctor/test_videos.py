"""What a check says of videos: files that are absent or damaged, by line and field; lengths from their headers."""

import json

import pytest

from qcvl.data.sources import JsonlSource
from qcvl.data.video import VideoSampling
from qcvl.doctor.lengths import Lengths
from qcvl.doctor.reading import read_blocks
from qcvl.doctor.videos import forget_videos, look_at_videos
from qcvl.schema.answer import DEFAULT_FORMAT
from tests.conftest import choice

pytest.importorskip("av")

TALK = [{"role": "user", "content": [{"type": "video"}]}, {"role": "assistant", "content": "A"}]


@pytest.fixture
def entries(tmp_path):
    """``entries(videos, …)``: one entry a list of videos, of a file in ``tmp_path``."""
    forget_videos()

    def make(*videos):
        path = tmp_path / "all.jsonl"
        path.write_text("".join(json.dumps({"videos": [video], "messages": TALK}) + "\n" for video in videos))
        source = JsonlSource(path=str(path), repeat=1, task=None, prompts=None)
        return [entry for block in read_blocks(source, 100) for entry, _ in block.entries()], source

    return make


def test_videos_and_frames_that_are_absent_or_damaged_are_named(entries, tmp_path, shared_data):
    good = str(shared_data("video") / "clip_a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.jpg").write_text("no photo")
    found, _ = entries(good, "absent.mp4", "text.mp4", ["text.jpg"], ["absent.jpg"], "a\0.mp4")
    faults = [look_at_videos(entry, decode=False) for entry in found]
    assert faults[0] == []
    assert [fault[0][:2] for fault in faults[1:]] == [
        ("videos[0]", "video-missing"),
        ("videos[0]", "video-damaged"),
        ("videos[0]", "video-damaged"),
        ("videos[0]", "video-missing"),
        ("videos[0]", "video-missing"),
    ]
    assert "absent.mp4) not found" in faults[1][0][2]


def test_only_a_look_at_all_frames_finds_damage_behind_the_header(entries, shared_data):
    (entry,), _ = entries(str(shared_data("video") / "corrupted.mp4"))
    assert look_at_videos(entry, decode=False) == []
    ((field, code, message),) = look_at_videos(entry, decode=True)
    assert (field, code) == ("videos[0]", "video-damaged") and "corrupted.mp4 is damaged" in message


def test_a_length_counts_the_frames_that_training_would_see(entries, shared_data, small_model, prompts):
    found, source = entries(str(shared_data("video") / "clip_a.mp4"))
    settings = choice("data/jsonl.yaml")["video"]
    limits = {"model": small_model(), "prompts": prompts, "answer": DEFAULT_FORMAT, "limit": 4096, "severity": "error"}
    by_count = {}
    for count in (4, 8):
        video = VideoSampling(**settings | {"num_frames": count})
        length = Lengths(**limits, pairing=None, video=video).longest(found[0], [], source, "chat")
        by_count[count] = length
    cells = (224 // 32) ** 2  # of one pair of frames
    assert by_count[4].image_tokens == 2 * cells and by_count[8].image_tokens == 4 * cells
    assert by_count[8].patches == 4 * 4 * cells
    assert by_count[8].tokens > by_count[4].tokens + 2 * cells  # two more times are written


def test_a_check_ends_with_an_error_where_a_video_is_missing(check):
    (finding,) = check({"videos": ["absent.mp4"], "messages": TALK}).findings
    assert (finding.code, finding.severity, finding.line, finding.field) == ("video-missing", "error", 1, "videos[0]")
