"""Words inside descs and summaries that a mirror makes wrong, and settings that name words and tokens."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def _unambiguous(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    words = [word.lower() for pair in pairs for word in pair]
    repeated = sorted({word for word in words if words.count(word) > 1})
    if "" in words or repeated:
        raise ValueError(f"should be pairs of words, each word once; found {repeated or 'an empty word'}")
    return pairs


def _from_pairs(value: Any) -> Any:
    if isinstance(value, list) and all(len(pair) == 2 for pair in value):
        return dict(value)
    return {} if value is None else value


def _without_empty(mapping: dict[str, str]) -> dict[str, str]:
    if "" in mapping:
        raise ValueError("has an empty token; name what is to be replaced")
    return mapping


# None, {显示完整: 只显示部分}, or [["显示完整", "只显示部分"]], for Hydra lets nobody type a key that is not ASCII.
TokenMapping = Annotated[dict[str, str], BeforeValidator(_from_pairs), AfterValidator(_without_empty)]
WordPairs = Annotated[list[tuple[str, str]], AfterValidator(_unambiguous)]  # each word's opposite: [[left, right], …]


def mentions(texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether any text holds any word of the pairs, in any case.

    Latin words count whole (``bright`` has no ``right``), Chinese ones anywhere.
    """
    return bool(pairs) and re.search(_either(pairs), "\n".join(texts), flags=re.IGNORECASE) is not None


def swap_words(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The text with each word of a pair in place of the other, in the case it was found in.

    >>> swap_words("Left fan, 右侧", [("left", "right"), ("左", "右")])
    'Right fan, 左侧'
    """
    if not pairs:
        return text
    opposite = {a.lower(): b for one, other in pairs for a, b in ((one, other), (other, one))}
    return re.sub(_either(pairs), lambda found: _cased(opposite[found[0].lower()], found[0]), text, flags=re.IGNORECASE)


def _either(pairs: Sequence[tuple[str, str]]) -> str:
    words = sorted((word for pair in pairs for word in pair), key=len, reverse=True)
    return "|".join(rf"(?<![a-z]){re.escape(word)}(?![a-z])" if word.isascii() else re.escape(word) for word in words)


def _cased(word: str, like: str) -> str:
    if like.islower():
        return word.lower()
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
