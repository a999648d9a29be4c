"""What each character of an answer is: a digit of a coordinate, a word of a description, or format; and whose it is.

One pass over the text, whatever its state: every answer is read this way as it is written, so it must never raise and
take microseconds. Who wants to know which objects an answer lists uses ``parse_answer``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qcvl.geometry.shapes import KINDS

Kind = Literal["coordinate", "text", "format"]


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``[start, end)`` of a text: what they are, and the number of their object in text order (-1: none)."""

    start: int
    end: int
    kind: Kind
    object: int


# What matters in an answer, from its first bracket on. Possessive repetitions: a broken text is never read twice. An
# array may hold pairs, a string or array may be cut; any other string is skipped whole, with the braces inside it.
_TOKEN = re.compile(
    rf"""
      (?P<brace>[{{}}])
    | (["'])(?:{"|".join(KINDS)})\2\s*+[:：]\s*+ \[(?P<array>(?:[^\[\]{{}}"]++|\[[^\[\]{{}}"]*+\]?+)*+)
    | (["'])(?P<geometry>{"|".join(KINDS)})\4\s*+[:：]
    | (["'])(?:desc|label)\6\s*+[:：]\s*+ "(?P<text>(?:[^"\\]++|\\.?+)*+)"?+
    | "(?:[^"\\]++|\\.?+)*+"?+
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_OPENING = re.compile(r"[{\[]")


def answer_spans(text: str) -> tuple[Span, ...]:
    """The spans of a dense answer in either form, in order and without gaps; it never raises.

    Objects are those with a geometry key. Object k owns the text from the end of object k-1 to its own closing brace
    (or, where that is missing, to the end of the text); what follows the last one belongs to none. What cannot be read
    as a number of a geometry or as a description is ``format``.
    """
    pieces: list[tuple[int, int, Kind, int]] = []
    position, closed = 0, 0  # end of the last piece; objects that ended so far
    nesting: list[bool] = []  # of each open brace, whether a geometry was seen inside
    opening = _OPENING.search(text)
    for token in _TOKEN.finditer(text, opening.start() if opening else len(text)):
        found = token.lastgroup
        if found == "brace":
            if token[0] == "{":
                nesting.append(False)
            elif nesting and nesting.pop():
                pieces.append((position, token.end(), "format", closed))
                position, closed = token.end(), closed + 1
        elif found == "text":
            start, end = token.span("text")
            if start < end:
                pieces += ((position, start, "format", closed), (start, end, "text", closed))
                position = end
        elif found is not None:
            if nesting:
                nesting[-1] = True
            for number in _NUMBER.finditer(text, *token.span("array")) if found == "array" else ():
                start, end = number.span()
                pieces += ((position, start, "format", closed), (start, end, "coordinate", closed))
                position = end
    pieces.append((position, len(text), "format", closed))
    last = closed if any(nesting) else -1
    return tuple(
        Span(start, end, kind, owner if owner < closed else last) for start, end, kind, owner in pieces if start < end
    )


def token_kinds(text: str, token_ends: Sequence[int]) -> list[tuple[Kind, int]]:
    """Kind and object of each token of a text.

    A token of several kinds counts as coordinate before text before format; its object is that of its last character
    that has one, else -1. A token that completes no character (the first bytes of one) counts as the one it begins; at
    the end of the text it is ``format`` of no object.

    Args:
        text: the answer.
        token_ends: whole characters of the text that are written after each token; never falling.
    """
    spans = answer_spans(text)
    kinds: list[tuple[Kind, int]] = []
    first, start = 0, 0  # the span that holds the token's first character
    for end in token_ends:
        while first < len(spans) and spans[first].end <= start:
            first += 1
        kind: Kind = "format"
        owner, index = -1, first
        while index < len(spans) and spans[index].start < max(end, start + 1):
            span = spans[index]
            if kind == "format" or span.kind == "coordinate":
                kind = span.kind
            owner = span.object if span.object >= 0 else owner
            index += 1
        kinds.append((kind, owner))
        start = end
    return kinds
