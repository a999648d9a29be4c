"""A checkpoint's tokenizer without transformers or torch: what counting tokens needs, in a part of the time to import.

Gives the same ids as ``AutoTokenizer`` for plain text and renders the same chat templates.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcvl.errors import CheckpointError
from qcvl.models.folders import read_json

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import AddedToken, Tokenizer


class LightTokenizer:
    """The part of a transformers tokenizer that encoding a sample uses, read from ``tokenizer.json``."""

    pad_token_id = None

    def __init__(self, folder: Path) -> None:
        self.name_or_path = str(folder)
        settings = folder / "tokenizer_config.json"
        template = read_json(settings).get("chat_template") if settings.is_file() else None
        self.chat_template = template if isinstance(template, str) else None
        self._compiled: dict[str, Template] = {}

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        file = Path(self.name_or_path) / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{self.name_or_path} has no tokenizer.json; copy it from the base model's folder")
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.encode_special_tokens = True  # a user's text never becomes a special token
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @property
    def added_tokens_decoder(self) -> "Mapping[int, AddedToken]":
        """Added tokens by id, special ones among them."""
        return self._tokenizer.get_added_tokens_decoder()

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """Ids of text in which nothing is special."""
        assert split_special_tokens and not add_special_tokens
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str,
        tokenize: bool = False,
        add_generation_prompt: bool,
    ) -> str:
        """The conversation as the template writes it, in the sandbox and with the functions transformers gives it."""
        assert not tokenize
        if chat_template not in self._compiled:
            self._compiled[chat_template] = _compile(chat_template)
        return self._compiled[chat_template].render(messages=messages, add_generation_prompt=add_generation_prompt)


def _compile(template: str) -> "Template":
    """As ``transformers.utils.chat_template_utils`` does."""
    from datetime import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)
