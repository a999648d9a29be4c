"""JSONL of older contracts, rewritten into today's without losing a word.

- ``image`` with one path stands for ``images``; ``bbox``, ``polygon`` and ``polyline`` for ``bbox_2d``, ``poly`` and
  ``line``; ``label`` for ``desc``. Counts of points may be absent.
- A description ``类别=光纤,颜色=黄色``, or an object of such keys, becomes ``光纤/颜色:黄色``: the value of
  ``类别`` (or category, class, type, label, name), then the others with their names. Descriptions with slashes
  (``光纤/黄色/显示完整``) and any other text stay as they are.
- A summary that is JSON (an object, a list, or their text over several lines) becomes that JSON on one line; line
  breaks in any other summary become blanks.

Pixels are those of today's contract.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from qcvl.data.entries import Entry, read_json_lines
from qcvl.data.reading import Item, Split, each, located, one_line, with_attributes
from qcvl.schema.records import Record

KIND_KEYS = ("类别", "category", "class", "type", "label", "name")
_RENAMED = {"bbox": "bbox_2d", "polygon": "poly", "polyline": "line", "label": "desc"}
_PAIR = re.compile(r"(?:^|[,，;；])\s*([^\s=,，;；/:]+)=")  # a value may hold commas: the next key ends it


def to_records(path: Path, split: Split, root: Path | None) -> Iterator[Item]:
    """The lines of a file; relative names of photos are below ``root``, else below the file's own folder."""

    def read(line: Entry) -> Iterator[Record]:
        record = Record.from_json(json.dumps(_today(line), ensure_ascii=False), path, line.line)
        yield located(record, root)

    yield from each(read_json_lines(path), read)


def _today(line: Entry) -> dict[str, Any]:
    if not isinstance(line.value, dict):
        raise line.error("is no JSON object; expected one record a line")
    raw = dict(line.value)
    if isinstance(raw.get("image"), str) and "images" not in raw:
        raw = {"images": [raw.pop("image")], **raw}
    if isinstance(raw.get("objects"), list):
        raw["objects"] = [_object(item) if isinstance(item, dict) else item for item in raw["objects"]]
    if "summary" in raw:
        raw["summary"] = _summary(raw["summary"])
    return raw


def _object(item: dict[str, Any]) -> dict[str, Any]:
    named = {key if _RENAMED.get(key) in item else _RENAMED.get(key, key): value for key, value in item.items()}
    return named | {"desc": _desc(named["desc"])} if "desc" in named else named


def _desc(desc: Any) -> Any:
    """``kind/key:value,key:value`` of keys and values that name a kind; any other text as it is."""
    pairs = {str(key): str(value) for key, value in desc.items()} if isinstance(desc, dict) else _pairs(desc)
    kind = next((key for key in pairs if key in KIND_KEYS), None)
    if kind is not None:
        label = pairs.pop(kind)
        return with_attributes(label, pairs)
    return ",".join(f"{key}:{value}" for key, value in pairs.items()) if isinstance(desc, dict) else desc


def _pairs(desc: Any) -> dict[str, str]:
    """The keys and values of ``key=value,key=value``; empty for any other text."""
    found = list(_PAIR.finditer(desc)) if isinstance(desc, str) else []
    if not found or found[0].start() != 0:
        return {}
    ends = [*(match.start() for match in found[1:]), len(desc)]
    pairs = {match[1].strip(): desc[match.end() : end].strip() for match, end in zip(found, ends, strict=True)}
    return pairs if len(pairs) == len(found) else {}  # a key twice is no such text


def _summary(summary: Any) -> Any:
    if isinstance(summary, dict | list):
        return json.dumps(summary, ensure_ascii=False)
    if not isinstance(summary, str):
        return summary
    try:
        value = orjson.loads(summary)
    except orjson.JSONDecodeError:
        value = None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else one_line(summary)
