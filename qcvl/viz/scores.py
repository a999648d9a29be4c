"""Tables of scores by class and by group for the terminal; the worst or the most frequent rows when they are many."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from qcvl.metrics.classes import ClassTable, Confusion, GroupScores
from qcvl.viz.report import ABSENT

ROWS = 20  # of a table; the files have all
CONFUSIONS = 8


def score_tables(classes: ClassTable, groups: Sequence[GroupScores], key: str) -> list[Table]:
    """The tables that have rows: classes, misnamed objects, groups (named by the metadata key that makes them)."""
    tables = [class_scores_table(classes)] if classes.classes else []
    tables += [confusions_table(classes.confusions)] if classes.confusions else []
    return tables + ([groups_table(groups, key, classes.overlap)] if groups else [])


def class_scores_table(table: ClassTable) -> Table:
    """One row a class, the most frequent first, with the plain means over classes below; shares in percent."""
    macro = table.macro
    result = _table(f"Classes (found from IoU {table.overlap:g} on)", len(table.classes), "classes.json")
    result.show_footer = bool(macro)
    result.add_column("class", footer="mean", overflow="fold")
    for name in ("true", "found", "missed", "false"):
        result.add_column(name, justify="right")
    for name in ("P %", "R %", "F1 %", "AP %"):
        footer = _percent(macro.get(name.split()[0].lower()))
        result.add_column(name, footer=footer, justify="right", no_wrap=True)
    for row in table.classes[:ROWS]:
        counts = row.counts
        shares = (counts.precision, counts.recall, counts.f1) if row.truths else (counts.precision, None, None)
        numbers = (row.truths, counts.tp, counts.fn, counts.fp)
        cells = [*map(str, numbers), *map(_percent, (*shares, row.average_precision))]
        result.add_row(Text(row.desc), *cells)
    return result


def confusions_table(confusions: Sequence[Confusion]) -> Table:
    """One row a pair of classes taken for each other, the most frequent first."""
    result = _table("Found but misnamed", len(confusions), "classes.json", CONFUSIONS)
    for name in ("class", "said to be"):
        result.add_column(name, overflow="fold")
    result.add_column("objects", justify="right")
    for row in confusions[:CONFUSIONS]:
        result.add_row(Text(row.desc), Text(row.said), str(row.count))
    return result


def groups_table(groups: Sequence[GroupScores], key: str, overlap: float) -> Table:
    """One row a group, worst first: photos, true objects, F1, and whether training saw it (where that is known)."""
    result = _table(f"Groups by {key} (found from IoU {overlap:g} on), worst first", len(groups), "groups.json")
    result.add_column(key, overflow="fold")
    for name in ("photos", "true", "missed", "false", "F1 %"):
        result.add_column(name, justify="right", no_wrap=True)
    known = any(row.seen is not None for row in groups)
    if known:
        result.add_column("in training")
    for row in groups[:ROWS]:
        counts = row.counts
        f1 = _percent(None if counts.empty else counts.f1)
        cells = [str(row.photos), str(counts.tp + counts.fn), str(counts.fn), str(counts.fp), f1]
        result.add_row(Text(row.group), *cells, *(["seen" if row.seen else "unseen"] if known else []))
    return result


def _table(title: str, rows: int, file: str, limit: int = ROWS) -> Table:
    caption = f"{rows - limit} more in {file}" if rows > limit else None
    return Table(title=Text(title), caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f}"
