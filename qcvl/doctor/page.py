"""The report as one HTML file that needs nothing else: tables, bars, findings, and pictures of the worst ones."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from qcvl.doctor.findings import Finding
from qcvl.doctor.numbers import SourceNumbers
from qcvl.doctor.pictures import draw_record
from qcvl.doctor.report import Report, source_facts
from qcvl.errors import DataError
from qcvl.schema.records import Record
from qcvl.viz.draw import resize
from qcvl.viz.fonts import default_typeface

PAGE = "report.html"
PICTURE_PX = 640  # longer side of an embedded picture
BAR_PX, BAR_HEIGHT_PX, MAX_BARS = 300, 14, 24
STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #888; --bar: #0077bb; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0 0 .3rem; } h3.source { font-size: 1.1rem; margin-top: 1.5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; } tr { border-bottom: 1px solid var(--line); }
.error { color: #c33; } .warning { color: #b70; } .note { color: var(--faint); } .repair { color: #084; }
.charts, .pictures { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; }
.pictures figure { margin: 0; width: 21rem; } .pictures img { width: 100%; border: 1px solid var(--line); }
figcaption, .message { overflow-wrap: anywhere; } code { font-size: .92em; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; } svg rect { fill: var(--bar); }
svg rect.over { fill: #c33; } details { margin: .4rem 0; } summary { cursor: pointer; }
"""


def write_page(report: Report, path: Path) -> None:
    """Write ``report.html``; pictures are inside it."""
    parts = [
        f"<h1>{_headline(report)}</h1>",
        _codes(report),
        "<h2>Sources</h2>",
        _sources(report.sources),
        _pictures(report.exhibits),
        "<h2>Histograms</h2>",
        *(_charts(name, numbers) for name, numbers in report.sources.items()),
        "<h2>Findings</h2>",
        *_findings(report),
    ]
    head = f'<meta charset="utf-8"><title>qcvl check</title><style>{STYLE}</style>'
    text = f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")


def bars(title: str, counts: Mapping[str, int], over: Iterable[str] = ()) -> str:
    """Horizontal bars as SVG, one a label, at most ``MAX_BARS``; those named in ``over`` stand out."""
    shown = list(counts.items())[:MAX_BARS]
    if not shown:
        return ""
    most, marked = max(max(count for _, count in shown), 1), set(over)
    left = min(max(len(label) for label, _ in shown), 26) * 8 + 8
    step = BAR_HEIGHT_PX + 4
    rows = []
    for number, (label, count) in enumerate(shown):
        y = number * step
        width = BAR_PX * count / most
        name = label if len(label) <= 26 else label[:25] + "…"
        kind = ' class="over"' if label in marked else ""
        rows.append(
            f'<text x="{left - 6}" y="{y + 11}" text-anchor="end">{escape(name)}<title>{escape(label)}</title></text>'
            f'<rect{kind} x="{left}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT_PX}"/>'
            f'<text x="{left + width + 4:.1f}" y="{y + 11}">{count:,}</text>'
        )
    rest = f"<p class='note'>and {len(counts) - len(shown):,} more</p>" if len(counts) > len(shown) else ""
    size = f'width="{left + BAR_PX + 80}" height="{len(shown) * step}"'
    return f"<div><h3>{escape(title)}</h3><svg {size} role='img'>{''.join(rows)}</svg>{rest}</div>"


def _headline(report: Report) -> str:
    records = sum(numbers.records for numbers in report.sources.values())
    counts = ", ".join(f"{report.count(kind):,} {kind}s" for kind in ("error", "warning", "note"))
    return f"{records:,} records: {counts}"


def _codes(report: Report) -> str:
    if not report.codes:
        return "<p>Nothing was found.</p>"
    rows = [
        (
            _marked(str(row["severity"])),
            f"<code>{escape(code)}</code>",
            f"{row['count']:,}",
            escape(str(row["meaning"])),
        )
        for code, row in report.codes.items()
    ]
    return _table(("severity", "code", "count", "meaning"), rows, numbers={2})


def _sources(sources: Mapping[str, SourceNumbers]) -> str:
    columns = [source_facts(numbers) for numbers in sources.values()]
    facts = dict.fromkeys(fact for column in columns for fact in column)
    rows = [(escape(fact), *(escape(column.get(fact, "")) for column in columns)) for fact in facts]
    return _table(("", *map(escape, sources)), rows, numbers=set(range(1, len(sources) + 1)))


def _charts(name: str, numbers: SourceNumbers) -> str:
    tokens = numbers.tokens
    histogram = {f"{low:,}-{high:,}": count for low, high, count in tokens.histogram} if tokens else {}
    over = [f"{low:,}-{high:,}" for low, high, _ in tokens.histogram if low > tokens.limit] if tokens else []
    charts = [
        bars("tokens a sample", histogram, over),
        bars("objects a photo", numbers.objects_per_photo),
        *(bars(f"size of a {kind}, pixels", sizes) for kind, sizes in numbers.shape_sizes.items()),
        bars("classes", numbers.classes),
        bars("attributes", numbers.attributes),
        bars("descriptions", numbers.descs),
        bars("photo sizes", numbers.photo_sizes),
    ]
    return f"<h3 class='source'>{escape(name)}</h3><div class='charts'>{''.join(charts)}</div>"


def _pictures(exhibits: Sequence[tuple[Finding, Record]]) -> str:
    figures = [_figure(finding, record) for finding, record in exhibits]
    shown = [figure for figure in figures if figure]
    return f"<h2>Pictures</h2><div class='pictures'>{''.join(shown)}</div>" if shown else ""


def _figure(finding: Finding, record: Record) -> str | None:
    """The photo with the objects a finding is about, or None where it cannot be read."""
    number = record.annotations[0].image if record.annotations else 0
    try:
        picture = draw_record(record, default_typeface())[number]
    except DataError:
        return None
    caption = f"{_marked(finding.severity, finding.code)} {escape(str(finding))}"
    return f'<figure><img src="{_data_url(picture)}" alt=""><figcaption>{caption}</figcaption></figure>'


def _data_url(picture: np.ndarray) -> str:
    small = resize(picture, min(1.0, PICTURE_PX / max(picture.shape[:2])))
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _findings(report: Report) -> Iterable[str]:
    """The kept findings by code, each list to be unfolded."""
    for code, row in report.codes.items():
        own = [finding for finding in report.findings if finding.code == code]
        items = "".join(f"<li class='message'>{escape(str(finding))}</li>" for finding in own)
        more = int(row["count"]) - len(own)
        rest = f"<p class='note'>and {more:,} more in findings.jsonl</p>" if more > 0 else ""
        heading = f"{_marked(str(row['severity']), code)} {row['count']:,}: {escape(str(row['meaning']))}"
        yield f"<details><summary>{heading}</summary><ol>{items}</ol>{rest}</details>"


def _marked(severity: str, text: str | None = None) -> str:
    return f"<strong class='{severity}'>{escape(text or severity)}</strong>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> str:
    """A table of cells that are HTML already; columns in ``numbers`` are right-aligned."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = (" class='number'" if index in numbers else "" for index in range(len(row)))
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"
