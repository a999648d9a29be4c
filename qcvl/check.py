"""``python -m qcvl.check``: every problem of a data set with file, line and field, before it costs a training run."""

from pathlib import Path

from omegaconf import DictConfig

from qcvl import config
from qcvl.errors import ConfigError, DataError


def check(cfg: DictConfig) -> None:
    """Print numbers, warnings and problems and write ``data_report.json``.

    Raises:
        ConfigError: when no data are given.
        DataError: when there is a problem, so that the command ends with 1.
    """
    settings = config.build(cfg)
    data = settings.data
    if not (data.train or data.val):
        raise ConfigError("data: nothing to check; add data.train=F.jsonl, data.val=F.jsonl or both, or data=demo")
    from rich.console import Console

    from qcvl.doctor.report import REPORT, report_tables, write_report

    data.prepare()
    folder = Path(settings.paths.output_dir)
    report = write_report(folder, data, decode=settings.decode)
    console = Console()
    for table in report_tables(report):
        console.print(table)
    lines = [f"report {folder / REPORT}", *(f"warning: {text}" for text in report.warnings), *report.problems]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if report.problems:
        count = len(report.problems)
        raise DataError(f"{count} problem{'s' if count > 1 else ''} in the data; correct the lines named above")


def main() -> None:
    """Console script ``qcvl-check``."""
    config.run("check", check)


if __name__ == "__main__":
    main()
