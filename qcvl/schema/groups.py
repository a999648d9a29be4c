"""Groups of photos judged together: which group a record belongs to, its label, and the verdict in a model's text."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from qcvl.errors import ConfigError, RecordError
from qcvl.schema.objects import describe
from qcvl.schema.records import Record
from qcvl.schema.salvage import without_thinking

VerdictWord = Literal["pass", "fail"]

# Whole words only, looked up after white space is removed: 不通过 contains 通过, so a substring search is a bug.
_WORDS: dict[str, VerdictWord] = {
    **dict.fromkeys(("通过", "合格", "pass", "passed"), "pass"),
    **dict.fromkeys(("不通过", "未通过", "不合格", "fail", "failed", "notpass", "notpassed"), "fail"),
}
PATH_PATTERN = "path:"  # what group_by starts with to name a pattern on paths in place of a key of metadata
_VERDICT = re.compile(r"\s*(?:final\s+|最终)?(?:verdict|结论|判定|结果)\s*:\s*(.*)", re.IGNORECASE)
_REASON = re.compile(r"\s*(?:reason|理由|原因)\s*[:：]\s*(.*)", re.IGNORECASE)
_CONFIDENCE = re.compile(r"\s*(?:confidence|置信度)\s*:\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", re.IGNORECASE)
_MARKUP = re.compile(r"[*#`\"'【】\[\]]")
_CLAUSE_END = re.compile(r"[,.;!(。]")  # after NFKC, which turns ，；！（ into these


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement read from text: ``verdict`` is None when the text gives none or contradicts itself.

    ``confidence`` is a share 0..1 the text states, else None; ``format_ok`` says whether the text is exactly
    ``Verdict: …`` and ``Reason: …`` on two lines (and may state ``Confidence: …`` on a third).
    """

    verdict: VerdictWord | None
    reason: str
    confidence: float | None
    format_ok: bool


def group_of(record: Record) -> str | None:
    """The group id in ``metadata.group``; None when the record belongs to no group."""
    group = record.metadata.get("group")
    if group is None:
        return None
    if isinstance(group, bool) or not isinstance(group, str | int) or not str(group).strip():
        raise _metadata_error(record, "group", group, "a group id (text or a whole number)")
    return str(group)


def record_group(record: Record, group_by: str) -> str:
    r"""The group a record belongs to: by ``metadata.<group_by>``, or by ``path:REGEX`` on its first image's path.

    A pattern gives its first bracketed part, or all it matches: ``path:(\d{5})_`` makes 00041 of ``00041_test.jpg``.

    Raises:
        RecordError: for a record without the key, or whose path the pattern does not match.
        ConfigError: for a pattern that is none.
    """
    if not group_by.startswith(PATH_PATTERN):
        return metadata_group(record, group_by)
    pattern, image = _compiled(group_by.removeprefix(PATH_PATTERN)), record.images[0]
    found = pattern.search(str(image)) if isinstance(image, str | Path) and not str(image).startswith("data:") else None
    if found is None:
        message = f"is no path that {pattern.pattern!r} of group_by matches; expected the record's group in it"
        raise RecordError(message, path=record.path or record.where, line=record.line, field="images[0]")
    return (found[1] if pattern.groups else found[0]) or ""


@lru_cache(maxsize=8)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group_by: {pattern!r} is no regular expression ({error})") from error


def metadata_group(record: Record, key: str) -> str:
    """The group a record belongs to by ``metadata.<key>``, such as its board: text, a number or true/false, as text."""
    value = record.metadata.get(key)
    if isinstance(value, str | int | float) and str(value).strip():
        return str(value)
    if key in record.metadata:
        raise _metadata_error(record, key, value, "the name of the record's group (text or a number)")
    keys = ", ".join(record.metadata) or "no key"
    message = f"is missing; expected the name of the record's group in every record (metadata has {keys})"
    raise RecordError(message, path=record.path or record.where, line=record.line, field=f"metadata.{key}")


def label_of(record: Record) -> VerdictWord | None:
    """The human judgement in ``metadata.label``: ``pass`` or ``fail`` (also 通过, 不通过); None when there is none."""
    label = record.metadata.get("label")
    if label is None:
        return None
    word = _word(label) if isinstance(label, str) else None
    if word is None:
        raise _metadata_error(record, "label", label, "pass, fail, 通过 or 不通过")
    return word


def parse_verdict(text: str) -> Verdict:
    """The verdict in a model's text; it never raises.

    A labelled line (``Verdict:``, ``结论：`` …) counts anywhere; without one, the first line must itself be the verdict
    word, alone or before a comma or full stop. Two labelled lines that disagree give no verdict.
    """
    answer = without_thinking(text) or ""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    plain = [_plain(line) for line in lines]
    labelled = [match[1] for line in plain if (match := _VERDICT.fullmatch(line))]
    verdicts = {_leading_word(clause) for clause in labelled or plain[:1]}
    verdict = verdicts.pop() if len(verdicts) == 1 else None
    return Verdict(verdict, _reason(lines), _confidence(plain), _is_exact(lines))


def _plain(line: str) -> str:
    """A line with half-width punctuation and without Markdown and quotes."""
    return _MARKUP.sub("", unicodedata.normalize("NFKC", line)).strip()


def _word(text: str) -> VerdictWord | None:
    return _WORDS.get("".join(unicodedata.normalize("NFKC", text).split()).lower())


def _leading_word(clause: str) -> VerdictWord | None:
    """The verdict before the first comma, full stop or bracket."""
    return _word(_CLAUSE_END.split(clause, maxsplit=1)[0])


def _reason(lines: list[str]) -> str:
    """What follows ``Reason:`` up to a confidence line; empty when nothing is labelled so."""
    for index, line in enumerate(lines):
        if match := _REASON.fullmatch(_MARKUP.sub("", line)):
            rest = [later for later in lines[index + 1 :] if not _CONFIDENCE.fullmatch(_plain(later))]
            return "\n".join([match[1].strip(), *rest]).strip()
    return ""


def _confidence(plain: list[str]) -> float | None:
    for line in plain:
        if match := _CONFIDENCE.fullmatch(line):
            value = float(match[1]) / (100 if match[2] else 1)
            return value if value <= 1 else None
    return None


def _is_exact(lines: list[str]) -> bool:
    if len(lines) not in (2, 3):
        return False
    normal = [unicodedata.normalize("NFKC", line) for line in lines]
    verdict, reason = re.fullmatch(r"(?:Verdict|结论):\s*(\S+)", normal[0]), _REASON.fullmatch(lines[1])
    confident = len(lines) == 2 or _CONFIDENCE.fullmatch(normal[2])
    return bool(verdict and _word(verdict[1]) and reason and reason[1].strip() and confident)


def _metadata_error(record: Record, key: str, found: object, expected: str) -> RecordError:
    message = f"is {describe(found)}; expected {expected}"
    return RecordError(message, path=record.path, line=record.line, field=f"metadata.{key}")
