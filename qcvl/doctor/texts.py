"""What is odd about descriptions and summaries: each text by itself, and descriptions beside each other.

A description is read as ``schema.descs`` says. A summary that lists counts (``unit x2, label x1``, or a JSON
object of counts) must give the number of objects of each class it or the objects name.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from qcvl.schema.descs import PART_MARKS, desc_parts
from qcvl.schema.types import Message

FREQUENT = 10  # times a description must occur before one that occurs once can be its misspelling
TYPO_LENGTH = 4  # letters from which on a difference of one may be a slip
SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?(?:s|unk|pad|eos|bos|image|video|audio|img|box|bbox|ref|ref-object|quad|think|tool_call|"
    r"tool_response)>",
    re.IGNORECASE,
)
TAGS = re.compile(r"<(?:image|video|audio|bbox|ref-object)>|<\|\w+\|>")  # of other tools' conversations
COUNTED = re.compile(r"\s*(.+?)(?:\s*[×✕*]|(?<![A-Za-z0-9])[xX])\s*(\d{1,6})\s*")  # box2 is no count
_FULL_WIDTH = range(0xFF01, 0xFF5F)  # ！ to ～, each 0xFEE0 above its half-width form

TextFault = tuple[str, str]  # code, message


@lru_cache(maxsize=2**16)
def look_at_desc(desc: str) -> tuple[TextFault, ...]:
    """What is odd about one description."""
    faults = []
    if desc != desc.strip():
        faults.append(("desc-blanks", f"is {desc!r}, with blanks around it; they are learned as part of the answer"))
    odd = next((letter for letter in desc if unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cs")), None)
    if odd is not None:
        name = unicodedata.name(odd, "a control character")
        faults.append(("desc-control", f"is {desc!r} and holds U+{ord(odd):04X} ({name.lower()}); remove it"))
    if mixed := _mixed_width(desc):
        faults.append(("desc-width", f"is {desc!r}, {mixed}; expected one width throughout"))
    if special := SPECIAL.search(desc):
        faults.append(("desc-special", f"holds {special[0]!r}, which models treat as a special token; reword it"))
    return tuple(faults)


def _mixed_width(text: str) -> str | None:
    """How full-width and half-width forms are mixed: full-width letters or digits, or one mark in both widths."""
    full = [letter for letter in text if ord(letter) in _FULL_WIDTH]
    for letter in full:
        half = chr(ord(letter) - 0xFEE0)
        if half.isalnum():
            return f"with the full-width {letter} for {half}"
        if half in text:
            return f"with both {letter} and {half}"
    return None


def tag_in(message: Message) -> str | None:
    """The first tag in a turn's texts that another tool reads as a place or a special token."""
    texts = (part for part in message.parts if isinstance(part, str))
    return next((found[0] for text in texts for found in TAGS.finditer(text)), None)


def look_at_vocabulary(counts: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    """``(desc, code, message)`` for descriptions of a source that look like another, more frequent one."""
    normal: dict[str, str] = {}  # the most frequent description of each normal form
    by_count = sorted(counts, key=lambda desc: (-counts[desc], desc))
    for desc in by_count:
        same = normal.setdefault(_normal_form(desc), desc)
        if same.strip() != desc.strip():  # blanks around it are a finding of their own
            message = f"is {desc!r} (x{counts[desc]:,}), but for case, width or blanks {same!r} (x{counts[same]:,})"
            yield desc, "desc-variant", message
    frequent = [desc for desc in by_count if counts[desc] >= FREQUENT and len(desc) >= TYPO_LENGTH]
    shortened = {cut: desc for desc in reversed(frequent) for cut in (desc, *_deletions(desc))}
    for desc in by_count:
        if counts[desc] > 1 or len(desc) < TYPO_LENGTH or normal[_normal_form(desc)] != desc:
            continue
        near = {shortened[cut] for cut in (desc, *_deletions(desc)) if cut in shortened}
        near = {other for other in near if _one_slip(desc, other)}
        if near:
            other = max(sorted(near), key=counts.__getitem__)
            message = f"is {desc!r}, seen once, and one letter from {other!r} (x{counts[other]:,}): a misspelling?"
            yield desc, "desc-typo", message


def _normal_form(desc: str) -> str:
    return "".join(unicodedata.normalize("NFKC", desc).casefold().split())


def _deletions(text: str) -> Iterator[str]:
    """The text without one of its letters."""
    return (text[:index] + text[index + 1 :] for index in range(len(text)))


def _one_slip(a: str, b: str) -> bool:
    """True when one letter was changed, left out, added, or exchanged with its neighbour; digits differ on purpose."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    left, right = a[start : len(a) - end], b[start : len(b) - end]
    slipped = len(left) <= 1 and len(right) <= 1 or (len(left) == 2 and left == right[::-1])
    return a != b and slipped and not any(letter.isdigit() for letter in left + right)


def look_at_summary(summary: str, descs: Iterable[str]) -> str | None:
    """How the counts of a summary contradict the descriptions; None when they agree or it lists no counts."""
    told = summary_counts(summary)
    if told is None:
        return None
    shown = Counter(map(_class_name, descs))
    wrong = [name for name in {**told, **shown} if told[name] != shown[name]]
    if not wrong:
        return None
    pairs = [f"{name} x{told[name]} where the objects give x{shown[name]}" for name in wrong[:3]]
    return f"says {'; '.join(pairs)}{' …' if len(wrong) > 3 else ''}; correct one of them"


@lru_cache(maxsize=2**12)
def summary_counts(summary: str) -> Counter[str] | None:
    """Counts by class in a summary of the form ``name x2, other x1`` or a JSON object of counts, else None."""
    if summary.lstrip().startswith(("{", "[")):
        return _json_counts(summary)
    items = [COUNTED.fullmatch(item) for item in PART_MARKS.split(summary.strip().rstrip(".。")) if item.strip()]
    if not items or None in items:
        return None
    return _counted((item[1], int(item[2])) for item in items if item)


def _json_counts(summary: str) -> Counter[str] | None:
    """All counts in nested JSON objects; None where a leaf is something else, or nothing is counted."""
    try:
        leaves = list(_leaves(json.loads(summary)))
    except (ValueError, RecursionError):
        return None
    if not leaves or not all(type(value) is int and value >= 0 for _, value in leaves):
        return None
    return _counted(leaves)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, key)


def _counted(items: Iterable[tuple[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, count in items:
        counts[_class_name(name)] += count
    return counts


@lru_cache(maxsize=2**16)
def _class_name(desc: str) -> str:
    """The class of a description as it is compared: without width and case."""
    return unicodedata.normalize("NFKC", desc_parts(desc)[0]).strip().casefold()
