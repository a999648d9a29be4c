"""Videos from the lines of a file to the batches of a run: frames, settings, lengths and what is said of bad ones."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.data import video as video_module
from qcvl.data.batch import collate
from qcvl.data.completeness import sampling_of
from qcvl.data.frames import check_video
from qcvl.data.health import check_batch
from qcvl.data.lengths import EpochLengths
from qcvl.data.samples import load_clip
from qcvl.data.video import VideoSampling, read_clip
from qcvl.doctor.labels import audit_sample
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record, read_records
from tests.conftest import choice, photo

av = pytest.importorskip("av")

SETTINGS = choice("data/jsonl.yaml")["video"]
ANSWER = {"role": "assistant", "content": "It falls."}


def asked(*kinds: str) -> list[dict]:
    parts = [{"type": kind} if kind in ("image", "video") else {"type": "text", "text": kind} for kind in kinds]
    return [{"role": "user", "content": parts}, ANSWER]


def write_film(path, frames: np.ndarray, rate: int = 10) -> None:
    """A file of lossless frames uint8 ``[T, H, W, 3]``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate, options={"level": "3"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the film ``film.mkv`` of 30 frames of 64x96 (3 s), the same frames as photos, and ``all.jsonl``.

    Its records: a video alone, photo and video, a list of frames, a part with options, and text alone.
    """
    made = tmp_path_factory.mktemp("films")
    frames = np.stack([photo(96, 64, seed) for seed in range(30)])
    write_film(made / "film.mkv", frames)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(made / f"{number:02}.png")
    names = [f"{number:02}.png" for number in range(30)]
    part = {"video": "film.mkv", "video_start": 1.0, "video_end": 2.0, "fps": 5}
    rows = [
        {"videos": ["film.mkv"], "messages": asked("video", "What happens?")},
        {"images": ["00.png"], "videos": ["film.mkv"], "messages": asked("image", "then", "video", "?")},
        {"videos": [{"video": names, "sample_fps": 10}], "messages": asked("video", "What happens?")},
        {"videos": [part], "messages": asked("video", "What happens?")},
        {"messages": asked("Nothing to see?")},
    ]
    (made / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


@pytest.fixture
def dataset(folder, make_data, make_datamodule):
    """``dataset(**video)``: the samples of ``all.jsonl`` with some settings of videos changed."""

    def make(**video):
        data = make_data(train=str(folder / "all.jsonl"), val=None, sampling="dense", video=SETTINGS | video)
        return make_datamodule(data=data).train_dataset()

    return make


def clip(dataset, index):
    return dataset.sample((0, index))[0].videos[0]


def test_settings_choose_the_frames_of_a_video_and_what_its_record_says_wins(dataset):
    by_default = dataset()
    assert clip(by_default, 0).seconds.tolist() == [0.0, 1.0, 1.9, 2.9]  # 3 s at 1 a second are 3, of which 4 are least
    assert clip(by_default, 3).seconds.tolist() == [1.0, 1.2, 1.5, 1.7, 2.0]  # 1.1 s at 5 a second
    changed = dataset(fps=3, min_frames=1)
    assert len(clip(changed, 0).frames) == 9 and len(clip(changed, 3).frames) == 5
    assert len(clip(dataset(num_frames=2), 0).frames) == 2 and len(clip(dataset(num_frames=2), 3).frames) == 5
    assert len(clip(dataset(fps=10, max_frames=6), 0).frames) == 6
    assert clip(by_default, 0).frames.shape[1:] == (64, 96, 3)  # within the budgets: as it is
    assert clip(dataset(max_pixels=3136), 0).frames.shape[1:] == (32, 64, 3)
    assert clip(dataset(total_pixels=4 * 2048), 0).frames.shape[1:] == (32, 32, 3)
    assert clip(dataset(min_pixels=20_000), 0).frames.shape[1:] == (128, 192, 3)


def test_a_film_and_the_list_of_its_frames_give_the_same_features(dataset):
    samples = dataset(fps=2)
    film, frames = samples[(0, 0)], samples[(0, 2)]
    for field in ("input_ids", "labels", "positions", "patches", "grids", "token_types"):
        assert np.array_equal(getattr(film, field), getattr(frames, field)), field
    assert (film.token_types == 2).sum() == 6 * 3  # 6 frames a clip are 3 pairs of 2x3 cells


def test_an_animated_gif_is_a_video(tmp_path):
    frames = [Image.new("RGB", (96, 64), (60 * number, 0, 0)) for number in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500)
    found = read_clip(tmp_path / "a.gif", VideoSampling(**SETTINGS | {"fps": 2}), 32)
    assert found.seconds.tolist() == [0.0, 0.5, 1.0, 1.5] and found.fps == 2
    assert [int(frame[0, 0, 0]) for frame in found.frames] == [0, 60, 120, 180]


def test_the_label_audit_shows_the_places_of_frames(dataset):
    audited = audit_sample(dataset(), (0, 1))  # a photo of 2x3 cells, then two pairs of frames
    assert [piece.text for piece in audited.pieces if "_pad" in piece.text] == [
        "<|image_pad|> x6",
        "<|video_pad|> x6",
        "<|video_pad|> x6",
    ]
    assert audited.image_tokens == 18


def test_a_batch_mixes_videos_photos_and_text(dataset):
    samples = dataset()
    features = [samples[(0, index)] for index in range(5)]
    batch = collate(features)
    check_batch(batch, 2)
    assert set(batch["mm_token_type_ids"][0].tolist()) == {0, 1, 2}
    assert batch["pixel_values"].shape == (int(batch["image_grid_thw"].prod(1).sum()), 3 * 2 * 16 * 16)


@pytest.mark.parametrize("video", [{}, {"fps": 4.5, "max_pixels": 3137}])
def test_lengths_are_known_without_decoding_but_the_first_frame(dataset, monkeypatch, video):
    samples = dataset(**video)
    expected = [len(samples[(0, index)].input_ids) for index in range(5)]
    decoded, resized = [], video_module._resized

    def counted(image, size):
        decoded.append(size)
        return resized(image, size)

    monkeypatch.setattr(video_module, "_resized", counted)
    assert EpochLengths(samples).of(0).tolist() == expected
    assert len(decoded) == 3  # one frame of each of three files; of the list of photos, a header


def test_lengths_change_with_the_settings_of_videos(dataset):
    few, many = (EpochLengths(dataset(num_frames=count)).of(0) for count in (2, 8))
    assert (many[[0, 1, 2]] > few[[0, 1, 2]]).all() and (many[[3, 4]] == few[[3, 4]]).all()


def test_a_bad_video_is_named_by_file_line_and_field(folder, make_data, make_datamodule, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    rows = [{"videos": [name], "messages": asked("video")} for name in ("absent.mp4", "text.mp4")]
    rows.append({"videos": [{"video": str(folder / "film.mkv"), "video_start": 9}], "messages": asked("video")})
    rows.append({"videos": [{"video": str(folder / "film.mkv"), "min_frames": 999}], "messages": asked("video")})
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = make_data(train=str(tmp_path / "all.jsonl"), val=None)
    samples = make_datamodule(data=data).train_dataset()
    for index, message in enumerate(
        [
            r"all\.jsonl:1: videos\[0\] .*absent\.mp4 not found",
            r"all\.jsonl:2: videos\[0\] .*text\.mp4 is damaged",
            r"all\.jsonl:3: videos\[0\] .*film\.mkv has no frame from 9 s to its end; its last one shows at 2\.9 s",
            r"all\.jsonl:4: videos\[0\] does not go with the settings: video\.min_frames 999 is above",
        ]
    ):
        with pytest.raises(RecordError, match=message):
            samples[(0, index)]


def test_a_record_with_videos_is_a_conversation_whatever_is_sampled(folder):
    record = read_records(folder / "all.jsonl")[0]
    assert sampling_of(record, "mixed", fixed=False) == "chat"


def test_times_of_frames_are_rounded_once(shared_data):
    clip = read_clip(shared_data("video") / "clip_a.mp4", VideoSampling(**SETTINGS | {"fps": 2}), 32)
    assert clip.seconds.tolist() == [index / 30 for index in (clip.seconds * 30).round()]
    assert clip.fps == pytest.approx(2.0)


def test_every_shared_clip_is_read_as_a_record_or_refused_by_name(shared_data):
    folder = shared_data("video")
    for file in sorted(folder.glob("*.mp4")):
        record = Record.from_json(
            json.dumps({"videos": [str(file)], "messages": asked("video")}), path=folder / "x.jsonl"
        )
        sampling = VideoSampling(**SETTINGS)
        try:
            found = load_clip(record, 0, sampling, 32)
        except RecordError as error:
            assert "corrupted.mp4 is damaged" in str(error)
            continue
        blank = load_clip(record, 0, sampling, 32, decode=False)
        assert blank.frames.shape == found.frames.shape and np.array_equal(blank.seconds, found.seconds)


def test_a_check_of_the_whole_file_finds_damage_that_its_header_hides(shared_data):
    folder = shared_data("video")
    check_video(folder / "corrupted.mp4", decode=False)
    with pytest.raises(DataError, match="corrupted.mp4 is damaged: its header lists|corrupted.mp4 is damaged: "):
        check_video(folder / "corrupted.mp4", decode=True)
    check_video(folder / "clip_a.mp4", decode=True)
