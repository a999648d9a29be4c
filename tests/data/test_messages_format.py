"""OpenAI's messages: what becomes of their parts, and what is refused by name."""

import numpy as np
import pytest
from PIL import Image

from qcvl.data.samples import load_photo
from qcvl.schema.types import IMAGE, VIDEO
from qcvl.schema.videos import Video
from tests.data.chat_samples import AUDIO, as_read_again, opened, part, spoken, talk


def test_messages_name_their_images_in_any_way_users_write_them(read):
    asked = [
        part("image_url", image_url={"url": "a.jpg", "detail": "high"}),
        part("text", text="Look."),
        part("image_url", image_url="file:///data/b.jpg"),
        part("image", image="https://host/c.jpg"),
        part("image"),
        part("image_url", image_url={"url": "data:image/png;base64,AAAA"}),
    ]
    sample = talk(asked, [part("text", text="A")], form="messages", images=["listed.jpg"])
    sample["messages"].insert(0, {"role": "developer", "content": "S"})
    (record,) = read("messages", sample)
    images = ("in/a.jpg", "/data/b.jpg", "https://host/c.jpg", "in/listed.jpg", "data:image/png;base64,AAAA")
    assert record.images == images
    assert spoken(record) == [
        ("system", ("S",)),
        ("user", (IMAGE, "Look.", IMAGE, IMAGE, IMAGE, IMAGE)),
        ("assistant", ("A",)),
    ]
    assert as_read_again(record) == record


def test_listed_images_that_no_part_shows_come_first(read):
    (record,) = read("messages", talk("Q", "A", form="messages", images=["a.jpg", "b.jpg"]))
    assert spoken(record)[0] == ("user", (IMAGE, IMAGE, "Q"))


def test_a_tag_in_messages_is_text(read):
    (record,) = read("messages", talk("Is <image> a tag?", "<image> <|im_end|>", form="messages"))
    assert [parts for _, parts in spoken(record)] == [("Is <image> a tag?",), ("<image> <|im_end|>",)]


@pytest.mark.parametrize(
    ("asked", "fields", "message"),
    [
        ([part("image", url="a.jpg")], {}, "[0].url does not belong to a part of type image; expected image"),
        ([part("image", image_url={"url": "a"})], {}, "[0].image_url does not belong to a part of type image"),
        (
            [part("image_url", url="a.jpg")],
            {},
            "[0].url does not belong to a part of type image_url; expected image_url",
        ),
        ([part("image_url", image="a.jpg")], {}, "[0].image does not belong to a part of type image_url"),
        ([part("image_url", image_url={"href": "a"})], {}, "[0].image_url.url is null; expected an image"),
        ([part("text", content="Q")], {}, "[0].content does not belong to a part of type text; expected text"),
        ([part("text")], {}, "[0].text is null; expected text"),
        ([part("text", text="Q", image="a.jpg")], {}, "[0].image does not belong to a part of type text"),
        ([{"text": "Q"}], {}, "[0].type is missing; expected text, image, image_url"),
        ([part("input_image", image_url="a.jpg")], {}, '[0].type is "input_image"; expected text, image, image_url'),
        ([part("video", video=3)], {}, "[0].video is the number 3; expected the path of a video"),
        ([part("video", video="a", fps=0)], {}, "[0].fps is the number 0; expected a number above 0"),
        ([part("video", video="a", fps=1, nframes=2)], {}, "[0].nframes is given beside fps; expected one of them"),
        ([part("video_url", video_url={"href": "a"})], {}, "[0].video_url.url is missing; expected the path of a vid"),
        ([part("video_url", video="a.mp4")], {}, "[0].video does not belong to a part of type video_url"),
        ([part("video")], {}, "[0] has a place for one video more than the 0 listed videos; expected one for each"),
        ([part("input_audio", input_audio={})], {}, f'[0].type is "input_audio", but {AUDIO}'),
        ([part("audio", audio="a.wav")], {}, f'[0].type is "audio", but {AUDIO}'),
        (["Q"], {}, "[0] is the string 'Q'; expected a part with a type"),
        ([part("image")], {}, "[0] has a place for one image more than the 0 listed images; expected one for each"),
        ("<image>Q", {"images": ["a.jpg"]}, " holds tags in place of image parts; read the file with format=ms_swift"),
        (3, {}, " is the number 3; expected text or a list of parts"),
        ([], {}, " is empty; expected what the user says"),
    ],
)
def test_what_messages_cannot_hold_is_refused_by_name(refusal, asked, fields, message):
    sample = talk(asked, "A", form="messages", **fields)
    assert refusal("messages", sample).startswith(f"messages[0].content{message}")


def test_videos_are_named_by_their_parts_with_options_or_listed(read):
    asked = [
        part("video_url", video_url={"url": "file:///data/a%20b.mp4"}),
        part("video", video=["f0.jpg", "f1.jpg"], sample_fps="2"),
        part("image", image="c.jpg"),
        part("video", video="d.gif", nframes=4, video_start=1.5, max_pixels=50176),
        part("video"),
    ]
    (record,) = read("messages", talk(asked, "A", form="messages", videos=["e.webm"]))
    assert record.videos == (
        Video("/data/a b.mp4"),
        Video(("in/f0.jpg", "in/f1.jpg"), {"sample_fps": 2.0}),
        Video("in/d.gif", {"nframes": 4, "video_start": 1.5, "max_pixels": 50176}),
        Video("in/e.webm"),
    )
    assert spoken(record)[0] == ("user", (VIDEO, VIDEO, IMAGE, VIDEO, VIDEO))
    assert as_read_again(record) == record


def test_images_in_answers_and_images_left_over_are_refused(refusal):
    shown = [part("image", image="a.jpg")]
    found = refusal("messages", talk("Q", shown, form="messages"))
    assert found == "messages[1].content[0] is an image in a turn of the assistant; images stand in user turns"
    found = refusal("messages", talk([*shown, part("image")], "A", form="messages", images=["b.jpg", "c.jpg"]))
    assert found == "messages have places for 2 of 3 images; expected one for each"
    assert refusal("messages", {"text": "x"}) == "messages is missing; expected the turns of a conversation"


def test_messages_are_read_from_a_table_with_the_bytes_of_their_images(read, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(tmp_path / "a.png")
    image = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    samples = [
        talk([part("image"), part("text", text="Q")], [part("text", text="A")], form="messages", images=[image]),
        talk([part("text", text="Q")], [part("text", text="A")], form="messages", images=[]),
    ]
    parquet.write_table(pa.Table.from_pylist(samples), tmp_path / "train.parquet")
    shown, alone = opened("messages", tmp_path, tmp_path)
    assert spoken(shown) == [("user", (IMAGE, "Q")), ("assistant", ("A",))] and alone.images == ()
    assert load_photo(as_read_again(shown), 0).shape == (4, 6, 3)
