"""Videos of a record: what a line may say of them, and how anything else is refused."""

import json

import pytest
from hypothesis import given

from qcvl.errors import RecordError
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE, VIDEO, Message
from qcvl.schema.videos import OPTIONS, Video, read_video, write_video
from tests.conftest import problems_in
from tests.conversations import VIDEOS, chats

QUESTION, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
SHOWN = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Q"}]}


def line(*messages, **fields) -> str:
    return json.dumps({"messages": list(messages), **fields})


def refusal(text: str) -> str:
    with pytest.raises(RecordError) as caught:
        Record.from_json(text, path="train.jsonl", line=4)
    return str(caught.value).removeprefix("train.jsonl:4: ")


def test_a_video_is_a_file_or_its_frames_with_or_without_options(tmp_path):
    part = {"video": "b.mp4", "video_start": 2, "video_end": "8.5", "fps": 4, "max_pixels": 50176.0}
    record = Record.from_json(
        line(
            {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "video"}, {"type": "video"}]},
            ANSWER,
            videos=["a.mp4", ["f0.jpg", "f1.jpg"], part],
            images=["c.jpg"],
        ),
        path=tmp_path / "all.jsonl",
    )
    options = {"video_start": 2, "video_end": 8.5, "fps": 4, "max_pixels": 50176}
    assert record.videos == (Video("a.mp4"), Video(("f0.jpg", "f1.jpg")), Video("b.mp4", options))
    assert record.messages[0] == Message("user", (VIDEO, IMAGE, VIDEO, VIDEO))
    assert record.video_files(1) == (tmp_path / "f0.jpg", tmp_path / "f1.jpg")


def test_without_places_images_come_first_then_videos_then_the_text():
    record = Record.from_json(line(QUESTION, ANSWER, videos=["a.mp4", "b.mp4"], images=["c.jpg"]))
    assert record.messages[0].parts == (IMAGE, VIDEO, VIDEO, "Q")


@given(record=chats(videos=VIDEOS))
def test_a_record_is_written_as_it_is_read(record):
    assert Record.from_json(record.to_json()) == record


@given(video=VIDEOS)
def test_a_video_is_written_as_it_is_read(video):
    assert read_video(json.loads(json.dumps(write_video(video))), "videos[0]") == video


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ("a.mp4", "videos is the string 'a.mp4'; expected a list of videos"),
        ([3], "videos[0] is the number 3; expected the path of a video, or a list of paths of its frames"),
        ([""], "videos[0] is empty; expected the path of a video"),
        ([[]], "videos[0] is empty; expected the path of a video"),
        ([["a.jpg", ""]], "videos[0][1] is the string ''; expected the path of a frame"),
        ([{"fps": 2}], "videos[0].video is missing; expected the path of a video"),
        ([{"video": "a", "fpss": 2}], "videos[0].fpss is not a known key"),
        ([{"video": "a", "fps": "x"}], "videos[0].fps is the string 'x'; expected a number"),
        ([{"video": "a", "fps": True}], "videos[0].fps is true; expected a number"),
        ([{"video": "a", "fps": 0}], "videos[0].fps is the number 0; expected a number above 0"),
        ([{"video": "a", "video_start": -1}], "videos[0].video_start is the number -1; expected seconds from 0 on"),
        ([{"video": "a", "nframes": 2.5}], "videos[0].nframes is the number 2.5; expected a whole number from 1 on"),
        ([{"video": "a", "fps": 1, "nframes": 2}], "videos[0].nframes is given beside fps; expected one of them"),
        ([{"video": "a", "sample_fps": 2}], "videos[0].sample_fps says how fast a list of photos shows"),
        (
            [{"video": "a", "video_start": 3, "video_end": 3}],
            "videos[0].video_end is 3 and video_start is 3; expected a larger number",
        ),
        ([{"video": "a", "min_frames": 9, "max_frames": 4}], "videos[0].max_frames is 4 and min_frames is 9; expected"),
        (["https://host/a.mp4"], "videos[0] is a URL (https://host/a.mp4); download the video first and give its path"),
    ],
)
def test_a_broken_video_is_refused_by_field(videos, message):
    assert refusal(line(SHOWN, ANSWER, videos=videos)).startswith(message)


def test_videos_and_their_places_are_as_many():
    found = refusal(line(SHOWN, ANSWER, videos=["a.mp4", "b.mp4"]))
    assert found == "messages has 1 video place but videos has 2; expected one place for each"
    found = refusal(line(SHOWN, ANSWER, videos=["a.mp4"], images=["c.jpg"]))
    assert found == "messages has 0 image places but images has 1; expected one place for each"


def test_a_video_is_shown_in_a_conversation_alone(tmp_path):
    box = {"bbox_2d": [1, 2, 3, 4], "desc": "clip"}
    found = refusal(json.dumps({"images": ["a.jpg"], "videos": ["a.mp4"]}))
    assert found == "videos is given but messages is not; a video is shown in a conversation"
    found = refusal(line(QUESTION, ANSWER, images=["a.jpg"], videos=["a.mp4"], objects=[box]))
    assert found.startswith("videos is given beside objects, which are of images")
    assert refusal(line(QUESTION, ANSWER, video="a.mp4")).startswith("video is not a known key")
    assert Record.from_json(line(QUESTION, ANSWER, videos=None)).videos == ()
    (tmp_path / "all.jsonl").write_text(line(SHOWN, ANSWER, videos=[{"video": 3}], metadata=3) + "\n")
    assert len(problems_in(tmp_path / "all.jsonl")) == 2


def test_options_are_all_known_by_what_they_must_be():
    for key in OPTIONS:
        value = {"video": ["a.jpg"], key: 3}
        assert read_video(value, "v").options == {key: 3}
        with pytest.raises(RecordError, match=rf"v\.{key} is "):
            read_video({**value, key: -1}, "v")
