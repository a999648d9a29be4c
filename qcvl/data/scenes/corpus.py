"""The texts the tiny tokenizer is trained on, and the one call that rebuilds it bit by bit.

``write_tiny_tokenizer(folder, prompts)`` with the system and user texts of ``conf/prompts/zh.yaml`` and ``en.yaml``
gives the shipped ``qcvl/models/tiny/tokenizer.json`` (``tests/models/test_tiny_tokenizer.py`` does just that). The
shipped weights belong to these ids: whoever changes a prompt, a word or an answer's form rebuilds both or keeps both.

Answers are cut at their words before training, and words weigh most: no token ever spans two words or a word and JSON,
so ``红色铭牌`` and ``铭牌/颜色:红色`` share tokens, and weights that know the base wording keep what they know of
the words.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qcvl.data.scenes.draw import Scene, draw_scene
from qcvl.data.scenes.layout import LATTICE
from qcvl.data.scenes.surfaces import SIDE
from qcvl.data.scenes.words import DOMAINS, LANGUAGES, vocabulary
from qcvl.geometry.shapes import Shape
from qcvl.models.tiny import build_tokenizer
from qcvl.schema.answer import DEFAULT_FORMAT, render_answer
from qcvl.schema.types import Annotation

VOCAB_SIZE = 736  # 256 bytes, 14 special tokens, the rest merges, which these texts have for about 740 ids
SCENES = 40  # a domain and language; more change no count that matters
WORD_WEIGHT = 10_000  # above every count in the answers and prompts: all merges within words come first
PROMPT_WEIGHT = 60  # prompts are read in every sample; each should cost at most 25 tokens
# The longest stretch of a prompt that may become one token: three English words, or a Chinese clause with its mark.
# English commas and colons stand alone, as in answers: there they merge with the space behind them first.
CLAUSE = re.compile(r"[,:] |\s?[^\s,:，。、；：]+(?:\s[^\s,:，。、；：]+){0,2}[，。、；：]?")
ROLES = ("system\n", "user\n", "assistant\n")
VERDICTS = tuple(f"Verdict: {word}\nReason: " for word in ("pass", "fail", "通过", "不通过"))
LIST_FORM = replace(DEFAULT_FORMAT, form="list", points="pairs")


def write_tiny_tokenizer(folder: Path, prompts: Sequence[str]) -> None:
    """Write the tiny model's ``tokenizer.json`` and its config; an equal set of prompts gives equal bytes."""
    texts = (*VERDICTS, *sorted(set(prompts)))
    clauses = [*ROLES, *(clause for text in texts for clause in CLAUSE.findall(text))]
    build_tokenizer([*corpus(SCENES, seed=0), *clauses * PROMPT_WEIGHT], VOCAB_SIZE, folder)


def corpus(count: int, seed: int) -> Iterator[str]:
    """Words, then the answers and summaries of ``count`` scenes of each domain and language, cut at their words."""
    for language in LANGUAGES:
        words = vocabulary(language)
        for word in words:
            yield from [word] * WORD_WEIGHT
        between_words = re.compile("|".join(sorted(words, key=len, reverse=True)))
        for domain in DOMAINS:
            for index in range(count):
                for text in _answers(draw_scene(seed, index, domain, language)):
                    yield from filter(None, between_words.split(text))


def _answers(scene: Scene) -> Iterator[str]:
    size = (SIDE, SIDE)
    yield render_answer(scene.annotations, size)
    yield scene.summary
    # What no scene shows but users ask for: polygons (quads cut by the frame) and the cookbooks' list form.
    pentagon = Shape("poly", np.array([[0, 0], [SIDE, 0], [SIDE, LATTICE], [LATTICE, SIDE], [0, SIDE]]))
    mixed = [Annotation(pentagon, scene.annotations[0].desc), *scene.annotations]
    yield render_answer(mixed, size)
    yield render_answer(mixed, size, answer_format=LIST_FORM)
