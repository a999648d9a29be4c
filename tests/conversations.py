"""Conversations drawn by hypothesis: any texts, any number of turns, image places anywhere in user turns."""

from hypothesis import strategies as st

from qcvl.schema.messages import joined
from qcvl.schema.records import Record
from qcvl.schema.types import IMAGE, Message

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)
TEXTS |= st.sampled_from(["<image>", "a <|im_end|> b", "<image", "\n<video>\n", "\n\nx\n\n", "image>", "\r\n y"])


@st.composite
def chats(draw, texts=TEXTS, metadata=None):
    """A record with messages alone, as it is read from a line; ``metadata`` is a strategy."""
    system = [Message("system", (draw(texts),))] if draw(st.booleans()) else []
    turns = []
    for _ in range(draw(st.integers(1, 3))):
        parts = joined(draw(st.lists(st.just(IMAGE) | texts, min_size=1, max_size=5)))
        turns += [Message("user", parts), Message("assistant", (draw(texts),))]
    count = sum(part == IMAGE for message in turns for part in message.parts)
    names = tuple(f"photos/图 {number}.jpg" for number in range(count))
    return Record(
        images=names, messages=(*system, *turns), annotated=False, metadata={} if metadata is None else draw(metadata)
    )
