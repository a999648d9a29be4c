"""The report of a check: numbers of each source, every problem and every warning; as a file and as tables."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from qcvl.data.settings import Data
from qcvl.doctor.checks import Checked, check_source, shared_photos
from qcvl.errors import RecordError
from qcvl.geometry.shapes import KINDS
from qcvl.schema.groups import group_of, label_of
from qcvl.schema.records import Record

REPORT = "data_report.json"
TOP = 20  # descs and photo sizes listed by how often they occur
VERDICTS = ("pass", "fail", "unlabelled")


@dataclass(frozen=True, slots=True)
class SourceNumbers:
    """What one source holds.

    ``objects`` counts by geometry, ``descs`` and ``photo_sizes`` (``640x480``) hold the most frequent ones out of
    ``distinct_descs`` and ``distinct_sizes``, ``groups`` counts by the label of the group.
    """

    records: int
    photos: int
    objects: dict[str, int]
    descs: dict[str, int]
    distinct_descs: int
    photo_sizes: dict[str, int]
    distinct_sizes: int
    summaries: int
    groups: dict[str, int]
    problems: int
    warnings: int


@dataclass(frozen=True, slots=True)
class Report:
    """Numbers by source (``train/zh``) and all problems and warnings as ``file:line: field message``."""

    sources: dict[str, SourceNumbers]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def make_report(data: Data, *, decode: bool = False) -> Report:
    """Check all sources of ``data.train`` and ``data.val``; their files must be there (``data.prepare()``)."""
    checked = {
        split: [
            check_source(f"{split}/{name}", source, data.sampling, decode=decode)
            for name, source in data.sources(split).items()
        ]
        for split in ("train", "val")
    }
    checked["val"] = [
        replace(source, warnings=(*source.warnings, *shared_photos(source, checked["train"])))
        for source in checked["val"]
    ]
    sources = [*checked["train"], *checked["val"]]
    return Report(
        sources={source.name: numbers(source) for source in sources},
        problems=tuple(text for source in sources for text in source.problems),
        warnings=tuple(text for source in sources for text in source.warnings),
    )


def write_report(folder: Path, data: Data, *, decode: bool = False) -> Report:
    """Check ``data``, write ``data_report.json`` into ``folder`` and return what it says."""
    report = make_report(data, decode=decode)
    save_report(report, folder)
    return report


def save_report(report: Report, folder: Path) -> None:
    """Write ``data_report.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(report), ensure_ascii=False, indent=1)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def numbers(source: Checked) -> SourceNumbers:
    """Count what a checked source holds."""
    notes = [note for record in source.records for note in record.annotations]
    kinds = Counter(note.shape.kind for note in notes)
    descs = Counter(note.desc for note in notes)
    sizes = Counter("unknown" if size is None else "{}x{}".format(*size) for row in source.sizes for size in row)
    return SourceNumbers(
        records=source.count,
        photos=sum(len(record.images) for record in source.records),
        objects={kind: kinds[kind] for kind in KINDS},
        descs=dict(descs.most_common(TOP)),
        distinct_descs=len(descs),
        photo_sizes=dict(sizes.most_common(TOP)),
        distinct_sizes=len(sizes),
        summaries=sum(record.summary is not None for record in source.records),
        groups=group_labels(source.records),
        problems=len(source.problems),
        warnings=len(source.warnings),
    )


def group_labels(records: Iterable[Record]) -> dict[str, int]:
    """How many groups are labelled pass, fail, or not at all; one failed photo fails its group."""
    labels: dict[str, set[str | None]] = {}
    for record in records:
        try:
            group, label = group_of(record), label_of(record)
        except RecordError:  # the check has named it
            continue
        if group is not None:
            labels.setdefault(group, set()).add(label)
    found = Counter(next((word for word in ("fail", "pass") if word in said), "unlabelled") for said in labels.values())
    return {verdict: found[verdict] for verdict in VERDICTS}


def report_tables(report: Report) -> list[Table]:
    """Two tables for the terminal: a column a source, and the most frequent descs of all sources together."""
    return [_sources_table(report.sources), _descs_table(list(report.sources.values()))]


def _sources_table(sources: dict[str, SourceNumbers]) -> Table:
    table = Table("", title="Data", box=box.SIMPLE_HEAD, title_justify="left")
    for name in sources:
        table.add_column(Text(name), justify="right")
    columns = [_column(row) for row in sources.values()]
    for fact in columns[0]:
        table.add_row(fact, *(Text(column[fact]) for column in columns))
    return table


def _column(row: SourceNumbers) -> dict[str, str]:
    """The facts about one source in the order of the table's rows."""
    groups = " / ".join(f"{row.groups[verdict]:,}" for verdict in VERDICTS)
    counts = {"records": row.records, "photos": row.photos, **row.objects, "summaries": row.summaries}
    found = {"problems": row.problems, "warnings": row.warnings}
    return {
        **{fact: f"{count:,}" for fact, count in counts.items()},
        "photo sizes": _most(row.photo_sizes, row.distinct_sizes),
        f"groups {' / '.join(VERDICTS)}": groups,
        **{fact: f"{count:,}" for fact, count in found.items()},
    }


def _descs_table(sources: Sequence[SourceNumbers]) -> Table:
    counts: Counter[str] = Counter()
    for source in sources:
        counts.update(source.descs)
    table = Table(f"desc ({TOP} most frequent)", box=box.SIMPLE_HEAD)
    table.add_column("objects", justify="right")
    for desc, count in counts.most_common(TOP):
        table.add_row(Text(desc), f"{count:,}")
    return table


def _most(sizes: dict[str, int], distinct: int) -> str:
    """The most frequent size and how many there are besides."""
    return f"{next(iter(sizes), '')}{f' + {distinct - 1:,} more' if distinct > 1 else ''}"
