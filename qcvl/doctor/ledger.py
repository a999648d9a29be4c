"""Findings as they come: told at once, counted, kept as far as a report can hold them, and all written to a file."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO

from qcvl.doctor.findings import CODES, SEVERITIES, Finding, Severity

FINDINGS = "findings.jsonl"
KEPT = 100  # findings of one code that a report holds; the file has all of them


class Ledger:
    """Collects findings; with a ``folder`` every one is a line of ``findings.jsonl`` there.

    ``tell`` is called with each finding that is kept.
    """

    def __init__(self, folder: Path | None, tell: Callable[[Finding], None] | None = None) -> None:
        self.by_code: Counter[tuple[Severity, str]] = Counter()  # (severity, code)
        self.by_source: dict[str, Counter[str]] = {}
        self.kept: list[Finding] = []
        self._tell = tell
        self._file: IO[str] | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / FINDINGS).open("w", encoding="utf-8")

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self, findings: Iterable[Finding]) -> None:
        """Note some more findings."""
        for finding in findings:
            key = (finding.severity, finding.code)
            self.by_code[key] += 1
            self.by_source.setdefault(finding.source, Counter())[finding.severity] += 1
            if self._file is not None:
                self._file.write(json.dumps(asdict(finding), ensure_ascii=False) + "\n")
            if self.by_code[key] <= KEPT:
                self.kept.append(finding)
                if self._tell is not None:
                    self._tell(finding)

    def codes(self) -> dict[str, dict[str, str | int]]:
        """Each code that occurs, most severe and frequent first: severity, count and meaning."""
        order = sorted(self.by_code, key=lambda key: (SEVERITIES.index(key[0]), -self.by_code[key], key))
        return {
            code: {"severity": severity, "count": self.by_code[severity, code], "meaning": CODES[code][1]}
            for severity, code in order
        }
