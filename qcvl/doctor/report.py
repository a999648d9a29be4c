"""The report of a check: numbers of each source and what was found; as JSON, as tables, and as the text of an error.

``data_report.json`` of a training run and ``report.json`` of a check have one shape.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from qcvl.doctor.findings import SEVERITIES, Finding
from qcvl.doctor.numbers import TOP, VERDICTS, SourceNumbers
from qcvl.schema.records import Record

DATA_REPORT = "data_report.json"  # in a run directory
REPORT = "report.json"  # of a check
STYLES = {"error": "red", "warning": "yellow", "note": "dim", "repair": "green"}


@dataclass(frozen=True, slots=True)
class Report:
    """Numbers by source (``train/zh``), counts by code, the first findings of each code, and repaired copies by source.

    ``exhibits`` are findings that can be drawn, each with a record of just the objects it is about.
    """

    sources: dict[str, SourceNumbers]
    codes: dict[str, dict[str, str | int]]
    findings: tuple[Finding, ...]
    fixed: dict[str, Path]
    exhibits: tuple[tuple[Finding, Record], ...]

    def count(self, severity: str) -> int:
        """How many findings there are of one severity."""
        return sum(int(row["count"]) for row in self.codes.values() if row["severity"] == severity)

    def to_json(self) -> dict[str, Any]:
        """What is written: all but the exhibits."""
        return {
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "sources": {name: numbers.to_json() for name, numbers in self.sources.items()},
            "codes": self.codes,
            "findings": [asdict(finding) for finding in self.findings],
            "fixed": {name: str(path) for name, path in self.fixed.items()},
        }

    def error_text(self) -> str:
        """Every error the report keeps, one a line, and how many more there are."""
        lines = [str(finding) for finding in self.findings if finding.severity == "error"]
        more = self.count("error") - len(lines)
        rest = [f"and {more:,} more errors; python -m qcvl.check lists all of them"] if more else []
        return "\n".join([*lines, *rest])


def save_report(report: Report, path: Path) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_json(), ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def report_tables(report: Report) -> list[Table]:
    """Tables for the terminal: a column a source, the most frequent classes, and what was found by code."""
    tables = [_sources_table(report.sources), _classes_table(list(report.sources.values()))]
    return [*tables, _codes_table(report)] if report.codes else tables


def source_facts(row: SourceNumbers) -> dict[str, str]:
    """The facts about one source in the order of a table's rows."""
    groups = " / ".join(f"{row.groups[verdict]:,}" for verdict in VERDICTS)
    counts = {"records": row.records, "photos": row.photos, **row.objects, "summaries": row.summaries}
    share = f" ({row.photos_without_objects / row.photos:.0%})" if row.photos_without_objects else ""
    facts = {fact: f"{count:,}" for fact, count in counts.items()}
    facts |= {
        "photos without objects": f"{row.photos_without_objects:,}{share}",
        "photo sizes": _most(row.photo_sizes, row.distinct_sizes),
        "classes / attributes": f"{row.distinct_classes:,} / {row.distinct_attributes:,}",
        f"groups {' / '.join(VERDICTS)}": groups,
    }
    tokens = row.tokens
    if tokens is not None:
        facts |= {
            "tokens, median / 95 % / longest": f"{tokens.median:,} / {tokens.p95:,} / {tokens.longest:,}",
            "of them image": f"{tokens.image_share:.0%}",
            f"over {tokens.limit:,} tokens": f"{tokens.above_limit:,} ({tokens.above_limit / tokens.samples:.1%})",
            "an epoch's tokens": f"{tokens.epoch_tokens:,}",
            "an epoch's patches": f"{tokens.epoch_patches:,}",
        }
    found = {"errors": row.errors, "warnings": row.warnings, "notes": row.notes}
    return facts | {fact: f"{count:,}" for fact, count in found.items()}


def _sources_table(sources: Mapping[str, SourceNumbers]) -> Table:
    table = Table("", title="Data", box=box.SIMPLE_HEAD, title_justify="left")
    for name in sources:
        table.add_column(Text(name), justify="right")
    columns = [source_facts(row) for row in sources.values()]
    for fact in dict.fromkeys(fact for column in columns for fact in column):
        table.add_row(fact, *(Text(column.get(fact, "")) for column in columns))
    return table


def _classes_table(sources: Sequence[SourceNumbers]) -> Table:
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source.classes)
    table = Table(f"class ({TOP} most frequent)", box=box.SIMPLE_HEAD)
    table.add_column("objects", justify="right")
    for name, count in counts.most_common(TOP):
        table.add_row(Text(name), f"{count:,}")
    return table


def _codes_table(report: Report) -> Table:
    table = Table("severity", "code", box=box.SIMPLE_HEAD, title="Findings", title_justify="left")
    table.add_column("count", justify="right")
    table.add_column("meaning")
    for code, row in report.codes.items():
        severity = str(row["severity"])
        table.add_row(Text(severity, style=STYLES[severity]), code, f"{row['count']:,}", str(row["meaning"]))
    return table


def _most(sizes: Mapping[str, int], distinct: int) -> str:
    """The most frequent size and how many there are besides."""
    return f"{next(iter(sizes), '')}{f' + {distinct - 1:,} more' if distinct > 1 else ''}"
