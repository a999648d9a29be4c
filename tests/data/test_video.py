"""Frames of real clips: which ones, at what times, turned and resized, and what is said of damaged ones."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.video import VideoSampling, read_clip
from qcvl.errors import ConfigError, DataError
from tests.conftest import photo

av = pytest.importorskip("av")

FACTOR = 32
USUAL = {"fps": 1.0, "num_frames": None, "min_frames": 1, "max_frames": 512, "min_pixels": 1024, "max_pixels": 50_176}
USUAL |= {"total_pixels": 512 * 50_176, "backend": "pyav"}


def sampling(**changes) -> VideoSampling:
    return VideoSampling(**USUAL | changes)


@pytest.fixture
def clips(shared_data):
    """The folder of clips, and what is known of each (counted by hand with ffprobe)."""
    folder = shared_data("video")
    return folder, {entry["file"]: entry for entry in json.loads((folder / "manifest.json").read_text())}


def all_frames(path) -> list[np.ndarray]:
    """Every frame as PyAV gives it, with no choice, turn or size of ours."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("fps", [0.5, 1, 2, 7, 30, 100])
def test_of_even_frames_the_chosen_are_those_of_transformers_video_processor(fps):
    total, rate = 150, 30
    wanted = min(max(int(total / rate * fps), 4), 768, total)
    expected = np.linspace(0, total - 1, wanted).round().astype(int)  # Qwen3VLVideoProcessor.sample_frames
    chosen = sampling(fps=fps, min_frames=4, max_frames=768).choose(np.arange(total) / rate, 1 / rate)
    assert len(chosen) == len(expected) and np.abs(chosen - expected).max() <= 1  # halves are rounded up or down
    assert (chosen[[0, -1]] == [0, total - 1]).all()


@given(
    steps=st.lists(st.floats(0.01, 2), min_size=1, max_size=40),
    fps=st.floats(0.1, 20),
    low=st.integers(1, 5),
    high=st.integers(5, 30),
)
def test_chosen_frames_rise_within_their_limits_and_lie_nearest_to_even_times(steps, fps, low, high):
    times = np.cumsum(steps)
    chosen = sampling(fps=fps, min_frames=low, max_frames=high).choose(times, 0.01)
    assert (np.diff(chosen) > 0).all() and 1 <= len(chosen) <= min(high, len(times))
    assert chosen[0] == 0 and (len(chosen) == 1 or chosen[-1] == len(times) - 1)


def test_a_clip_has_the_chosen_frames_of_the_file_at_their_times(clips):
    folder, _ = clips
    clip = read_clip(folder / "clip_a.mp4", sampling(fps=2), FACTOR)
    whole = all_frames(folder / "clip_a.mp4")
    chosen = np.linspace(0, 149, 10).round().astype(int)
    assert clip.frames.shape == (10, 224, 224, 3)  # 224x224 is the budget: not resized
    assert np.allclose(clip.seconds, chosen / 30)
    assert all(np.array_equal(frame, whole[index]) for frame, index in zip(clip.frames, chosen, strict=True))


def test_uneven_frames_keep_the_times_of_the_file(clips):
    folder, _ = clips
    with av.open(str(folder / "vfr_derived.mp4")) as container:
        stamps = [float(frame.pts * container.streams.video[0].time_base) for frame in container.decode(video=0)]
    assert len(set(np.diff(stamps).round(6))) > 1
    clip = read_clip(folder / "vfr_derived.mp4", sampling(fps=4), FACTOR)
    assert set(clip.seconds.round(6)) <= {round(stamp - stamps[0], 6) for stamp in stamps}
    gaps = np.diff(clip.seconds)
    assert gaps.max() - gaps.min() <= 2 * np.diff(stamps).max()  # even, but for where the frames lie
    by_index = np.diff(np.array(stamps)[np.linspace(0, len(stamps) - 1, len(clip.seconds)).round().astype(int)])
    assert gaps.std() < by_index.std()


def test_every_clip_gives_its_first_and_last_frame_upright_from_zero_seconds(clips):
    folder, known = clips
    for name, facts in known.items():
        if facts.get("decode_error"):
            continue
        clip = read_clip(folder / name, sampling(fps=1000, max_pixels=10**7, total_pixels=10**10), FACTOR)
        assert len(clip.frames) == facts["decoded_frames"] and clip.seconds[0] == 0
        raw_height, raw_width = all_frames(folder / name)[0].shape[:2]
        turned = facts.get("rotation", 0) % 180
        width, height = (raw_height, raw_width) if turned else (raw_width, raw_height)
        assert abs(clip.frames.shape[2] - width) <= FACTOR and abs(clip.frames.shape[1] - height) <= FACTOR


def test_a_turned_clip_is_turned_as_players_show_it(clips):
    folder, known = clips
    assert known["rotated_meta.mp4"]["rotation"] == 90
    raw = all_frames(folder / "rotated_meta.mp4")[0]
    clip = read_clip(folder / "rotated_meta.mp4", sampling(max_pixels=10**7, total_pixels=10**10), FACTOR)
    upright = Image.fromarray(raw).transpose(Image.Transpose.ROTATE_90)  # the display matrix turns anticlockwise
    expected = np.asarray(upright.resize((clip.frames.shape[2], clip.frames.shape[1]), Image.Resampling.BICUBIC))
    assert np.array_equal(clip.frames[0], expected)


def test_a_part_starts_and_ends_where_it_is_told_to(clips):
    folder, _ = clips
    part = read_clip(folder / "clip_a.mp4", sampling(fps=30), FACTOR, start=2.0, end=3.0)
    whole = all_frames(folder / "clip_a.mp4")
    assert np.allclose(part.seconds, np.arange(60, 91) / 30) or np.allclose(part.seconds[[0, -1]], [2, 3])
    assert np.array_equal(part.frames[0], whole[60]) and np.array_equal(part.frames[-1], whole[90])
    with pytest.raises(DataError, match=r"has no frame from 9 s to its end; its last one shows at 4\.9"):
        read_clip(folder / "clip_a.mp4", sampling(), FACTOR, start=9)


def test_budgets_limit_each_frame_and_all_together():
    assert sampling(max_pixels=50_176).frame_size((1920, 1080), 4, FACTOR) == (288, 160)
    for frames in (1, 8, 64):
        width, height = sampling(max_pixels=10**7, total_pixels=64 * 128 * 128).frame_size((640, 480), frames, FACTOR)
        assert frames * width * height <= 64 * 128 * 128 and width % FACTOR == height % FACTOR == 0


def test_photos_in_order_give_the_frames_of_the_clip_they_make(clips, tmp_path):
    folder, _ = clips
    paths = []
    for index, frame in enumerate(all_frames(folder / "clip_a.mp4")):
        paths.append(str(tmp_path / f"{index:03}.png"))
        Image.fromarray(frame).save(paths[-1])
    clip, photos = (
        read_clip(folder / "clip_a.mp4", sampling(fps=3), FACTOR),
        read_clip(paths, sampling(fps=3), FACTOR, list_fps=30),
    )
    assert np.array_equal(clip.frames, photos.frames) and np.allclose(clip.seconds, photos.seconds)


def test_damage_is_named_with_what_could_be_read(clips, tmp_path):
    folder, known = clips
    decodable = known["corrupted.mp4"]["decoded_frames"]
    with pytest.raises(DataError, match=r"corrupted\.mp4 is damaged: .* copy it again or remove the record"):
        read_clip(folder / "corrupted.mp4", sampling(fps=100), FACTOR)
    clip = read_clip(folder / "corrupted.mp4", sampling(fps=100), FACTOR, end=(decodable - 5) / 10)
    assert len(clip.frames) == decodable - 4  # what lies before the damage is whole
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4 is damaged: "):
        read_clip(tmp_path / "text.mp4", sampling(), FACTOR)
    with pytest.raises(DataError, match="absent.mp4 not found"):
        read_clip(tmp_path / "absent.mp4", sampling(), FACTOR)
    with pytest.raises(DataError, match="an empty list"):
        read_clip([], sampling(), FACTOR)
    with pytest.raises(DataError, match="frame 1 of a clip is 40x30 but its first one seen is 30x30"):
        read_clip([photo(30, 30), photo(40, 30)], sampling(), FACTOR)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(
        ConfigError, match="video.min_frames 9 is above video.max_frames 3; expected the smaller number"
    ):
        sampling(min_frames=9, max_frames=3)


class Reader:
    """Stands in for decord's: frames of one file, as many as it says."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return self.frames


def test_decord_gives_the_frames_and_times_of_pyav(clips, monkeypatch):
    decord = pytest.importorskip("decord")
    folder, known = clips
    used = []
    reader = decord.VideoReader
    monkeypatch.setattr(decord, "VideoReader", lambda *args: used.append(args) or reader(*args))
    for name, facts in known.items():
        if facts.get("decode_error"):
            with pytest.raises(DataError, match="decord cannot decode .*corrupted.mp4: it is damaged, or PyAV can"):
                read_clip(folder / name, sampling(fps=100, backend="decord"), FACTOR)
            continue
        used.clear()
        ours = read_clip(folder / name, sampling(fps=3), FACTOR)
        assert not used
        theirs = read_clip(folder / name, sampling(fps=3, backend="decord"), FACTOR)
        assert used.pop() == (str(folder / name),)
        blank = read_clip(folder / name, sampling(fps=3, backend="decord"), FACTOR, decode=False)
        assert not used and blank.frames.shape == theirs.frames.shape
        assert np.array_equal(ours.frames, theirs.frames), name
        assert np.array_equal(ours.seconds, theirs.seconds) and ours.fps == theirs.fps
    monkeypatch.setattr(decord, "VideoReader", lambda path: Reader(149))
    with pytest.raises(DataError, match="decord counts 149 frames and PyAV 150; set data.video.backend=pyav"):
        read_clip(folder / "clip_a.mp4", sampling(backend="decord"), FACTOR)


def test_without_decord_its_choice_says_how_to_get_it(clips, monkeypatch):
    folder, _ = clips
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ConfigError, match="data.video.backend=decord needs decord; run pip install"):
        read_clip(folder / "clip_a.mp4", sampling(backend="decord"), FACTOR)
