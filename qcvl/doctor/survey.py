"""A whole data set checked: all sources block by block on all cores, then the splits held against each other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from qcvl.data.settings import Data
from qcvl.data.sources import JsonlSource, Source
from qcvl.doctor.findings import Finding, found
from qcvl.doctor.ledger import Ledger
from qcvl.doctor.lengths import Lengths
from qcvl.doctor.numbers import Numbers, SourceNumbers, summed
from qcvl.doctor.photos import forget_photos
from qcvl.doctor.pool import PATIENCE_S, in_order
from qcvl.doctor.reading import Block, read_blocks, weigh
from qcvl.doctor.report import Report
from qcvl.doctor.scan import Look, Looked, look_at_block
from qcvl.doctor.splits import Groups, Seen, copied_photos, shared_groups, shared_photos, similar_photos
from qcvl.doctor.texts import look_at_vocabulary
from qcvl.doctor.videos import forget_videos
from qcvl.schema.records import Record

BLOCK, DECODED_BLOCK = 512, 32  # records of one block: some tenths of a second of work
PICTURES, PICTURES_OF_CODE = 24, 3
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """How a data set is checked; see ``quick`` for what training does first.

    Attributes:
        decode: also read every photo's pixels and look for photos that are alike across the splits.
        copies: look for equal files across the splits.
        lengths: count tokens, as these settings say; None: not.
        fix: write a repaired copy of each JSONL file into ``folder``.
        group_by: what makes groups (``schema.groups.record_group``); None: ``metadata.group`` where there is one.
        draw: keep records to be drawn.
        workers: processes.
        patience_s: seconds of work before other processes are started.
        folder: where ``findings.jsonl`` and repaired files go; None: nowhere.
    """

    decode: bool
    copies: bool
    lengths: Lengths | None
    fix: bool
    group_by: str | None
    draw: bool
    workers: int
    patience_s: float
    folder: Path | None


def quick(data: Data) -> Survey:
    """What training does first: every record and every photo's header; of a stream, those of its first block."""
    return Survey(
        decode=False,
        copies=False,
        lengths=None,
        fix=False,
        group_by=None,
        draw=False,
        workers=max(1, data.num_workers),
        patience_s=PATIENCE_S,
        folder=None,
    )


@dataclass(slots=True)
class _Gathered:
    """What the blocks of one source add up to."""

    numbers: Numbers = field(default_factory=Numbers)
    photos: list[Seen] = field(default_factory=list)
    groups: Groups = field(default_factory=dict)

    def add(self, looked: Looked) -> None:
        self.numbers.add(looked.numbers)
        self.photos += looked.photos
        for group, (place, count) in looked.groups.items():
            first, known = self.groups.get(group, (place, 0))
            self.groups[group] = (first, known + count)


def check_data(
    data: Data,
    survey: Survey,
    tell: Callable[[Finding], None] | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Report:
    """Check all sources of ``data.train`` and ``data.val``; their files must be there (``data.prepare()``).

    Args:
        data: what to check.
        survey: how.
        tell: called with findings as they come, as far as the report keeps them.
        progress: called with a source's name and what was done of it: bytes of a file, else records.
    """
    forget_photos()
    forget_videos()
    sources = {f"{split}/{name}": source for split in SPLITS for name, source in data.sources(split).items()}
    across = bool(data.sources("train")) and bool(data.sources("val"))
    looks = {name: _look(name, source, data, survey, across) for name, source in sources.items()}
    gathered = {name: _Gathered() for name in sources}
    exhibits: list[tuple[Finding, Record]] = []
    with Ledger(survey.folder, tell) as ledger, _Copies(survey, sources) as copies:
        for name, source in sources.items():
            if source.complete:
                gathered[name].numbers.records = len(source.open())
        tasks = _tasks(sources, DECODED_BLOCK if survey.decode else BLOCK)
        for (name, block), looked in in_order(_work, looks, tasks, survey.workers, survey.patience_s):
            gathered[name].add(looked)
            ledger.take(looked.findings)
            copies.write(name, looked.fixed)
            _keep(exhibits, looked.exhibits)
            if progress is not None:
                progress(name, block.weight)
        for name, source in sources.items():
            ledger.take(_vocabulary(name, source, gathered[name].numbers))
        if across:
            ledger.take(_across(gathered, survey))
    limit = survey.lengths.limit if survey.lengths else None
    numbers: dict[str, SourceNumbers] = {
        name: summed(gathered[name].numbers, ledger.by_source.get(name, {}), repeat=source.repeat, limit=limit)
        for name, source in sources.items()
    }
    return Report(numbers, ledger.codes(), tuple(ledger.kept), copies.paths, tuple(exhibits))


def weights(data: Data) -> dict[str, int | None]:
    """What ``progress`` counts to, by source; None where that is not known before the end."""
    return {
        f"{split}/{name}": weigh(source)
        for split in SPLITS
        for name, source in data.sources(split).items()
        if not source.complete
    }


def _look(name: str, source: Source, data: Data, survey: Survey, across: bool) -> Look:
    return Look(
        name=name,
        source=source,
        sampling=data.sampling,
        decode=survey.decode,
        lengths=survey.lengths,
        fix=survey.fix,
        group_by=survey.group_by,
        across=across,
        draw=survey.draw,
    )


def _tasks(sources: dict[str, Source], count: int) -> Iterator[tuple[str, Block]]:
    for name, source in sources.items():
        if not source.complete:
            yield from ((name, block) for block in read_blocks(source, count))


def _work(looks: dict[str, Look], task: tuple[str, Block]) -> Looked:
    name, block = task
    return look_at_block(block, looks[name])


def _keep(exhibits: list[tuple[Finding, Record]], more: list[tuple[Finding, Record]]) -> None:
    for finding, record in more:
        same = sum(kept.code == finding.code for kept, _ in exhibits)
        if len(exhibits) < PICTURES and same < PICTURES_OF_CODE:
            exhibits.append((finding, record))


def _vocabulary(name: str, source: Source, numbers: Numbers) -> Iterator[Finding]:
    path = source.path if isinstance(source, JsonlSource) else name
    for desc, code, message in look_at_vocabulary({desc: count for desc, (count, _, _) in numbers.descs.items()}):
        _, line, place = numbers.descs[desc]
        yield found(code, message, source=name, path=path, line=line, field=f"objects[{place}].desc")


def _across(gathered: dict[str, _Gathered], survey: Survey) -> Iterator[Finding]:
    train, val = ([part for name, part in gathered.items() if name.startswith(f"{split}/")] for split in SPLITS)
    trained, held = ([seen for part in side for seen in part.photos] for side in (train, val))
    yield from shared_photos(held, trained)
    if survey.copies:
        yield from copied_photos(held, trained)
    if survey.decode:
        yield from similar_photos(held, trained)
    yield from shared_groups(_joined(val), _joined(train), survey.group_by or "metadata.group")


def _joined(parts: list[_Gathered]) -> Groups:
    joined: Groups = {}
    for part in parts:
        for group, (place, count) in part.groups.items():
            first, known = joined.get(group, (place, 0))
            joined[group] = (first, known + count)
    return joined


class _Copies:
    """The repaired copies, one a JSONL file, written as its blocks come."""

    def __init__(self, survey: Survey, sources: dict[str, Source]) -> None:
        self.paths: dict[str, Path] = {}
        self._files: dict[str, IO[bytes]] = {}
        if survey.fix and survey.folder is not None:
            for name, source in sources.items():
                if isinstance(source, JsonlSource) and Path(source.path).is_file():
                    self.paths[name] = self._free(survey.folder, Path(source.path).stem, name)

    def __enter__(self) -> "_Copies":
        for name, path in self.paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def write(self, name: str, lines: bytes) -> None:
        """Append repaired lines of a source."""
        if name in self._files:
            self._files[name].write(lines)

    def _free(self, folder: Path, stem: str, name: str) -> Path:
        """``<stem>.fixed.jsonl``, with the source's name where two files have one."""
        plain = folder / f"{stem}.fixed.jsonl"
        return plain if plain not in self.paths.values() else folder / f"{stem}-{name.replace('/', '-')}.fixed.jsonl"
