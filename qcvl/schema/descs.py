"""How a description is read: ``class/attribute,attribute:value``, the one definition of its parts and whole tokens.

Parts are separated by ``/`` ``,`` ``;`` ``|`` or ``、``, a key from its value by ``:`` or ``=`` (also full-width ones).
A token is what stands between these marks, blanks or the ends; it may hold such marks itself, as ``品牌:华为`` does.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

PART_MARKS = re.compile(r"[/,;|／，；、｜]")
_KEY_MARKS = re.compile(r"[:=：＝]")
_ANY_MARK = rf"\s{PART_MARKS.pattern[1:-1]}{_KEY_MARKS.pattern[1:-1]}"


@lru_cache(maxsize=2**16)
def desc_parts(desc: str) -> tuple[str, tuple[str, ...]]:
    """The class of a description and its attributes, ``key=value`` where they have a key.

    >>> desc_parts("BBU设备/品牌:华为,显示完整")
    ('BBU设备', ('品牌=华为', '显示完整'))
    """
    first, *others = [part.strip() for part in PART_MARKS.split(desc)]
    name, *values = [token.strip() for token in _KEY_MARKS.split(first)]
    attributes = ["=".join(token.strip() for token in _KEY_MARKS.split(part)) for part in others if part]
    return name or desc.strip(), (*filter(None, values), *attributes)


def has_token(text: str, tokens: Sequence[str]) -> bool:
    """Whether one of ``tokens`` stands in the text as a whole one."""
    return bool(tokens) and re.search(_whole(tokens), text) is not None


def replace_tokens(text: str, mapping: Mapping[str, str]) -> str:
    """The text with every whole token that ``mapping`` knows replaced; the longest wins where two begin alike.

    >>> replace_tokens("BBU设备/品牌:华为,显示完整", {"显示完整": "只显示部分", "华": "x"})
    'BBU设备/品牌:华为,只显示部分'
    """
    return re.sub(_whole(mapping), lambda found: mapping[found[0]], text) if mapping else text


def _whole(tokens: Sequence[str] | Mapping[str, str]) -> str:
    listed = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    return rf"(?<![^{_ANY_MARK}])(?:{listed})(?![^{_ANY_MARK}])"
