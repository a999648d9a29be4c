"""Tables and trees for the terminal. Every text goes through ``Text``, so ``[x]`` in a desc or a path is not markup."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rich import box
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from qcvl.geometry.shapes import KINDS

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Reading:
    """How values of some keys are read: as percentages or plain numbers, and whether more is better (None: neither)."""

    pattern: str
    percent: bool
    more_is_better: bool | None
    decimals: int = 1


# In the order of the table's rows; the last segment of a key (after the last "/") is searched for the pattern.
READINGS = (
    Reading(r"loss$|_kd_loss|perplexity", percent=False, more_is_better=False, decimals=4),
    Reading(r"^token_acc$", percent=True, more_is_better=True),
    Reading(r"^(?!bbox_2d|quad|poly|line)\w+_(f1|p|r|map_\w+)@", percent=True, more_is_better=True),
    Reading(r"^(bbox_2d|quad|poly|line)_(f1|p|r|map_\w+)@", percent=True, more_is_better=True),
    Reading(r"^json_valid$|_exact$|^finished$", percent=True, more_is_better=True),
    Reading(r"^json_|_rate$", percent=True, more_is_better=False),
    Reading(r"_error$|_px$", percent=False, more_is_better=False, decimals=2),
)
OTHER = Reading("", percent=False, more_is_better=None, decimals=4)
HEADLINE = re.compile(
    r"loss$|token_acc$|(_f1|_map_\w+)@(?P<iou>[\d.]+)$|json_valid$|summary_exact$|count_error$|/finished$"
)
SCORE_ORDER = ("f1", "p", "r", "map")


class TowerRow(Protocol):
    """One tower: parameters in all and trained ones, how it is trained, at which rate, and where the rate is from."""

    @property
    def tower(self) -> str:
        """``vision``, ``aligner`` or ``llm``."""
        ...

    @property
    def total(self) -> int:
        """Parameters in all."""
        ...

    @property
    def trained(self) -> int:
        """Parameters that move."""
        ...

    @property
    def how(self) -> str:
        """``full``, ``adapter`` or ``frozen``."""
        ...

    @property
    def rate(self) -> float | None:
        """The peak learning rate."""
        ...

    @property
    def source(self) -> str:
        """Which settings made the rate."""
        ...


def results_table(
    initial: Mapping[str, float],
    final: Mapping[str, float],
    best: Mapping[str, float] | None = None,
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Table:
    """Scores before and after with their change, one row a key: losses, accuracies, F1 (with P and R), then the rest.

    Shares are percentages and their change percentage points; green is better, red worse. A key one side lacks shows a
    dash there. Without initial scores there is one column of values, with their 95 % intervals where there are some.
    """
    table = Table(title="Results", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("metric")
    columns = ["before", "after", "change"] if initial else ["value"]
    for name in (*columns, *(["best"] if best is not None else [])):
        table.add_column(name, justify="right")
    group = None
    for key in sorted({*initial, *final, *(best or {})}, key=_row_order):
        new_group = _row_order(key)[:2]
        if group is not None and new_group != group:
            table.add_section()
        group = new_group
        reading = _reading(key)
        sides = [initial.get(key), final.get(key)]
        cells = [_value(value, reading) for value in (sides if initial else sides[1:])]
        if not initial and (ends := (intervals or {}).get(key)):
            cells = [cells[0] + Text(f" [{_number(ends[0], reading)}, {_number(ends[1], reading)}]", style="dim")]
        cells += [_change(sides[0], sides[1], reading)] if initial else []
        cells += [] if best is None else [_value(best.get(key), reading)]
        table.add_row(Text(key), *cells)
    return table


def headline(metrics: Mapping[str, float], iou: float = 0.5) -> dict[str, float]:
    """The scores of a short table: losses, token accuracy, F1 and mAP at one IoU, valid answers and exact summaries.

    Where several sources were scored, or some groups apart, each of these gives its dense F1 and mAP alone, beside the
    scores of all together. An IoU that was not measured gives those at .5.
    """
    found = {key: match for key in metrics if (match := HEADLINE.search(key))}
    measured = f"{iou:g}" if any(match["iou"] == f"{iou:g}" for match in found.values()) else "0.5"
    names = [key for key, match in found.items() if match["iou"] in (None, measured)]
    depth = min((key.count("/") for key in names if "@" in key), default=2)
    names = [key for key in names if key.count("/") <= depth or re.search(r"/dense_(f1|map_\w+)@", key)]
    return {key: metrics[key] for key in names}


def settings_tree(config: Mapping[str, Any], title: str = "settings") -> Tree:
    """A resolved configuration as a tree: one leaf a value, ``_target_`` beside the name of its group."""
    tree = Tree(Text(title, style="bold"))
    _add_branches(tree, config)
    return tree


def towers_table(rows: Iterable[TowerRow]) -> Table:
    """Parameters of each tower, how many are trained, how and at which rate, with the sum below."""
    rows = list(rows)
    table = Table(title="Towers", box=box.SIMPLE_HEAD, title_justify="left", show_footer=True)
    total, trained = sum(row.total for row in rows), sum(row.trained for row in rows)
    share = f"{trained / total:.2%}" if total else ABSENT
    for name, footer in (("tower", "sum"), ("parameters", f"{total:,}"), ("trained", f"{trained:,}"), ("share", share)):
        table.add_column(name, footer=footer, justify="left" if name == "tower" else "right")
    for name in ("how", "rate", "rate from"):
        table.add_column(name, justify="right" if name == "rate" else "left")
    for row in rows:
        cells = (
            row.tower,
            f"{row.total:,}",
            f"{row.trained:,}",
            f"{row.trained / row.total:.2%}" if row.total else ABSENT,
            row.how,
            ABSENT if row.rate is None else f"{row.rate:.3g}",
            row.source,
        )
        table.add_row(*(Text(cell, style="" if row.trained else "dim") for cell in cells))
    return table


def _reading(key: str) -> Reading:
    name = key.rsplit("/", 1)[-1]
    return next((reading for reading in READINGS if re.search(reading.pattern, name)), OTHER)


def _row_order(key: str) -> tuple[Any, ...]:
    """Rows sort by data set, kind of score, geometry, threshold, then F1 before P before R before mAP."""
    scope, _, name = key.rpartition("/")
    reading = _reading(key)
    place = READINGS.index(reading) if reading in READINGS else len(READINGS)
    parts = re.fullmatch(r"(\w+?)_(f1|p|r|map)(?:_\w+)?@([\d.]+)(?::[\d.]+)?", name)
    if parts is None:
        return scope, place, name, 0.0, 0
    family, score, threshold = parts.groups()
    kind = KINDS.index(family) if family in KINDS else -1
    return scope, place, f"{kind} {family}", float(threshold), SCORE_ORDER.index(score)


def _value(value: float | None, reading: Reading) -> Text:
    if value is None:
        return Text(ABSENT, style="dim")
    if reading is OTHER and float(value).is_integer():
        return Text(f"{value:,.0f}")
    return Text(f"{_number(value, reading)} %" if reading.percent else _number(value, reading))


def _number(value: float, reading: Reading) -> str:
    return f"{100 * value if reading.percent else value:.{reading.decimals}f}"


def _change(before: float | None, after: float | None, reading: Reading) -> Text:
    if before is None or after is None:
        return Text(ABSENT, style="dim")
    change = after - before
    text = f"{100 * change:+.{reading.decimals}f}" if reading.percent else f"{change:+.{reading.decimals}f}"
    if reading is OTHER and float(change).is_integer():
        text = f"{change:+,.0f}"
    if reading.more_is_better is None or not float(re.sub("[^0-9.]", "", text)):
        return Text(text, style="dim")
    return Text(text, style="green" if (change > 0) == reading.more_is_better else "red")


def _add_branches(tree: Tree, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key == "_target_":
            continue
        label = Text(str(key), style="cyan")
        if isinstance(value, Mapping) and value:
            target = value.get("_target_")
            branch = tree.add(label + Text(f"  {target}", style="dim") if target else label)
            _add_branches(branch, value)
        elif _is_nested(value):
            _add_branches(tree.add(label), {str(index): item for index, item in enumerate(value)})
        else:
            tree.add(label + Text(f": {_shown(value)}", style="default"))


def _is_nested(value: Any) -> bool:
    """True for a list with a mapping or list in it, which needs a branch of its own."""
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value)


def _shown(value: Any) -> str:
    """A plain string as it is; one that is empty, padded or not printable quoted, and all else as in JSON."""
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "":
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
