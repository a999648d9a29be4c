"""Text in and out of a tokenizer without a user's words ever becoming special tokens."""

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from qcvl.models.spec import Processing


def render(processing: Processing, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
    """The conversation as the checkpoint's chat template writes it."""
    return _rendered(processing, json.dumps(list(messages)), add_generation_prompt)


@lru_cache(maxsize=1024)  # with marks in place of users' texts, all samples of one form are one conversation
def _rendered(processing: Processing, messages: str, add_generation_prompt: bool) -> str:
    return processing.tokenizer.apply_chat_template(
        json.loads(messages),
        chat_template=processing.chat_template,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
    )


@lru_cache(maxsize=8)
def special_ids(processing: Processing) -> Mapping[str, int]:
    """Every special token of the tokenizer and its id."""
    return {str(token): index for index, token in processing.tokenizer.added_tokens_decoder.items() if token.special}


@lru_cache(maxsize=8)
def _special_pattern(processing: Processing) -> re.Pattern[str]:
    longest_first = sorted(special_ids(processing), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def split_special(processing: Processing, text: str) -> list[str]:
    """Cut text at special tokens: the tokens themselves and the runs between them, in order, none empty."""
    return [piece for piece in _special_pattern(processing).split(text) if piece]


@lru_cache(maxsize=4096)
def plain_ids(processing: Processing, text: str) -> tuple[int, ...]:
    """Token ids of text in which nothing is special: ``<|im_end|>`` in it is seven characters and more."""
    return tuple(processing.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def decoded(processing: Processing, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens included; bytes that are no character are replaced."""
    parts = token_bytes(processing)
    return b"".join(parts[token] for token in ids).decode("utf-8", "replace")


def character_ends(processing: Processing, ids: Sequence[int]) -> list[int]:
    """How many whole characters of the decoded text are written after each token.

    A character whose bytes lie in several tokens is written after the last of them.
    """
    parts, decoder = token_bytes(processing), codecs.getincrementaldecoder("utf-8")("replace")
    ends, written = [], 0
    for index in ids:
        written += len(decoder.decode(parts[index]))
        ends.append(written)
    return ends


@lru_cache(maxsize=8)
def token_bytes(processing: Processing) -> Mapping[int, bytes]:
    """The bytes each id of a byte-level tokenizer writes; an added token writes its own name."""
    tokenizer = processing.tokenizer
    added = {index: str(token).encode() for index, token in tokenizer.added_tokens_decoder.items()}
    alphabet = _byte_alphabet()
    return {
        index: added.get(index) or bytes(alphabet[character] for character in token)
        for token, index in tokenizer.get_vocab().items()
    }


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary: printable ones themselves (as in GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
