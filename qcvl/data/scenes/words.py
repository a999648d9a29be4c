"""What a scene says: eleven kinds of parts, two domains of wording, two languages.

A part is a noun with one attribute. The base domain writes the attribute before the noun (``红色铭牌``,
``red plate``), the demo domain after it (``铭牌/颜色:红色``, ``plate, red``): the same words in an order that weights
trained on the base domain have never written, so an exact match of descriptions starts at zero and has to be learned.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

Domain = Literal["base", "demo"]
Language = Literal["zh", "en"]
Noun = Literal["plate", "label", "cable", "screw", "defect"]
Label = Literal["pass", "fail"]

DOMAINS: tuple[Domain, ...] = ("base", "demo")
LANGUAGES: tuple[Language, ...] = ("zh", "en")

# The order of the nouns is the order of a summary.
ATTRIBUTES: dict[Noun, tuple[str, ...]] = {
    "plate": ("red", "blue", "green", "yellow"),
    "label": ("white", "orange"),
    "cable": ("yellow", "blue"),
    "screw": ("steel",),
    "defect": ("scratch", "burn"),
}
PARTS: tuple[tuple[Noun, str], ...] = tuple((noun, word) for noun, words in ATTRIBUTES.items() for word in words)

CHINESE: dict[str, str] = {
    "plate": "铭牌",
    "label": "标签",
    "cable": "线缆",
    "screw": "螺钉",
    "defect": "缺陷",
    "red": "红色",
    "blue": "蓝色",
    "green": "绿色",
    "yellow": "黄色",
    "white": "白色",
    "orange": "橙色",
    "steel": "钢制",
    "scratch": "划痕",
    "burn": "烧痕",
}
CHINESE_FIELD: dict[Noun, str] = {"plate": "颜色", "label": "颜色", "cable": "颜色", "screw": "材质", "defect": "类型"}


def describe(noun: Noun, attribute: str, domain: Domain, language: Language) -> str:
    """The ``desc`` of one part, for instance ``red plate`` (base) or ``plate, red`` (demo).

    >>> describe("plate", "red", "demo", "zh")
    '铭牌/颜色:红色'
    """
    if language == "zh":
        chinese, value = CHINESE[noun], CHINESE[attribute]
        return f"{value}{chinese}" if domain == "base" else f"{chinese}/{CHINESE_FIELD[noun]}:{value}"
    return f"{attribute} {noun}" if domain == "base" else f"{noun}, {attribute}"


def summarize(nouns: Iterable[Noun], language: Language) -> str:
    """One line of counts in the order of ``ATTRIBUTES``: ``铭牌×1，线缆×2`` or ``plate x1, cable x2``.

    >>> summarize(["cable", "plate", "cable"], "en")
    'plate x1, cable x2'
    """
    counts = Counter(nouns)
    present = [(noun, counts[noun]) for noun in ATTRIBUTES if counts[noun]]
    if language == "zh":
        return "，".join(f"{CHINESE[noun]}×{count}" for noun, count in present)
    return ", ".join(f"{noun} x{count}" for noun, count in present)


def vocabulary(language: Language) -> list[str]:
    """Every word a description or summary of one language is made of, each once."""
    if language == "en":
        return list(dict.fromkeys(word for pair in PARTS for word in pair))
    return [*CHINESE.values(), *dict.fromkeys(CHINESE_FIELD.values())]
