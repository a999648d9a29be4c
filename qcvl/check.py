"""``python -m qcvl.check``: every problem of a data set with file, line and field, before it costs a training run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from qcvl.composition.roots import Check
    from qcvl.doctor.findings import Finding
    from qcvl.doctor.report import Report
    from qcvl.doctor.survey import Survey

SHOWN = 20  # findings of one code on the terminal; errors are all shown as far as the report keeps them


def check(cfg: DictConfig) -> None:
    """Print findings as they come, then numbers; write ``report.json``, ``report.html`` and ``findings.jsonl``.

    Raises:
        ConfigError: when no data are given.
        DataError: when there is an error, so that the command ends with 1.
    """
    settings = config.build(cfg)
    if not (settings.data.train or settings.data.val):
        raise ConfigError("data: nothing to check; add data.train=F.jsonl, data.val=F.jsonl or both, or data=demo")
    from rich.console import Console

    from qcvl.doctor.page import PAGE, write_page
    from qcvl.doctor.report import REPORT, report_tables, save_report

    settings.data.prepare()
    folder = Path(settings.paths.output_dir)
    console = Console()
    report = look(settings, console)
    save_report(report, folder / REPORT)
    write_page(report, folder / PAGE)
    for table in report_tables(report):
        console.print(table)
    if settings.model is None:
        console.print("token lengths were not counted; add model=qwen3_vl_4b (or model.path=FOLDER)", highlight=False)
    copies = [f"repaired {path} (of {name})" for name, path in report.fixed.items()]
    for line in (*copies, f"report   {folder / REPORT}", f"pictures {folder / PAGE}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if errors := report.count("error"):
        advice = "correct the lines named above" if settings.fix else "correct the lines named above, or add fix=true"
        raise DataError(f"{errors:,} problem{'s' if errors > 1 else ''} in the data; {advice}")


def look(settings: "Check", console: "Console") -> "Report":
    """Check the data behind a progress bar, above which findings are printed as they come."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from qcvl.doctor.survey import check_data, weights

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        bars = {name: progress.add_task(name, total=total) for name, total in weights(settings.data).items()}
        return check_data(
            settings.data,
            survey(settings),
            tell=teller(console),
            progress=lambda name, weight: progress.advance(bars[name], weight),
        )


def survey(settings: "Check") -> "Survey":
    """How these settings want the data to be checked."""
    from qcvl.doctor.lengths import Lengths
    from qcvl.doctor.pool import PATIENCE_S, core_count
    from qcvl.doctor.survey import Survey

    lengths = None
    if settings.model is not None:
        limit = settings.global_max_length
        lengths = Lengths.of(settings.data, settings.model, settings.prompts, settings.answer, limit)
    return Survey(
        decode=settings.decode,
        copies=True,
        lengths=lengths,
        fix=settings.fix,
        group_by=settings.group_by,
        draw=True,
        workers=settings.workers or core_count(),
        patience_s=PATIENCE_S,
        folder=Path(settings.paths.output_dir),
    )


def teller(console: "Console") -> "Callable[[Finding], None]":
    """Prints errors as they are and the first warnings and repairs of each code; notes are counted only."""
    from collections import Counter

    told: Counter[str] = Counter()

    def tell(finding: "Finding") -> None:
        told[finding.code] += 1
        if finding.severity == "note":
            return
        if finding.severity != "error" and told[finding.code] > SHOWN:
            if told[finding.code] == SHOWN + 1:
                console.print(f"… more {finding.code}: see findings.jsonl", highlight=False, style="dim")
            return
        lead = "" if finding.severity == "error" else f"{finding.severity}: "
        text = f"{lead}{finding} [{finding.code}]"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    return tell


def main() -> None:
    """Console script ``qcvl-check``."""
    config.run("check", check)


if __name__ == "__main__":
    main()
