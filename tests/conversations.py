"""Conversations drawn by hypothesis: any texts, any number of turns, media places anywhere in user turns."""

from hypothesis import strategies as st

from qcvl.schema.messages import joined
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE, VIDEO, Message
from qcvl.schema.videos import Video

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)
TEXTS |= st.sampled_from(["<image>", "a <|im_end|> b", "<image", "\n<video>\n", "\n\nx\n\n", "image>", "\r\n y"])
FILES = st.sampled_from(["a.mp4", "clips/录像 1.webm", "b.gif"]).map(Video)
FRAMES = st.lists(st.sampled_from(["f0.jpg", "f 1.jpg"]), min_size=1, max_size=3).map(lambda names: Video(tuple(names)))
ASKED = st.fixed_dictionaries({"video_start": st.just(0.5)}, optional={"fps": st.just(2.0), "max_frames": st.just(8)})
VIDEOS = FILES | FRAMES | st.builds(Video, st.just("c.mp4"), ASKED)


@st.composite
def chats(draw, texts=TEXTS, metadata=None, videos=None):
    """A record with messages alone, as it is read from a line; ``metadata`` and ``videos`` are strategies."""
    system = [Message("system", (draw(texts),))] if draw(st.booleans()) else []
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        places = st.just(IMAGE) if videos is None else st.sampled_from([IMAGE, VIDEO])
        parts = joined(draw(st.lists(places | texts, min_size=1, max_size=5)))
        turns += [Message("user", parts), Message("assistant", (draw(texts),))]
    count = sum(part == IMAGE for message in turns for part in message.parts)
    names = tuple(f"photos/图 {number}.jpg" for number in range(count))
    films = sum(part == VIDEO for message in turns for part in message.parts)
    return Record(
        images=names,
        videos=tuple(draw(videos) for _ in range(films)),
        messages=(*system, *turns),
        annotated=False,
        metadata={} if metadata is None else draw(metadata),
    )
