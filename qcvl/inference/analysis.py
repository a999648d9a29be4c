"""What ``evaluate`` says about answers: scores and their intervals, a threshold, classes, and groups of photos.

Training scores with ``evaluator.score`` alone; this adds what is worth knowing once, at the end.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcvl.data.sources import Source
from qcvl.errors import DataError
from qcvl.inference.evaluator import Place, Prediction, judge_answers, log_key, score, score_source, truth_of
from qcvl.metrics.average_precision import Scored
from qcvl.metrics.bootstrap import FEWEST_GROUPS, Interval, intervals
from qcvl.metrics.classes import ClassTable, GroupScores, class_table
from qcvl.metrics.counts import DetectionCounts
from qcvl.metrics.judgement import Judgement
from qcvl.metrics.operating_point import best_threshold, object_counts
from qcvl.schema.groups import PATH_PATTERN, record_group
from qcvl.schema.records import Record

Records = Mapping[str, Sequence[Record]]
ALL = "all sources"  # the whole in classes.json, where a log key has no name


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score from which objects count, and the source it was chosen on (None: it was given)."""

    value: float
    source: str | None


@dataclass(frozen=True, slots=True)
class Grouping:
    """The group of each record, and which groups training saw (None: not known).

    Records with one ``metadata.<key>`` are a group; without a key each record is one.
    """

    key: str | None
    groups: Mapping[Place, Hashable]
    seen: frozenset[Hashable] | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything ``evaluate`` reports.

    ``metrics`` and their 95 % ``intervals`` go by log key. ``classes`` has a table a source, and with several sources
    one of all together under ``""``; ``groups``, worst first, are those of the whole (see :func:`analyse`).
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    threshold: Threshold
    classes: dict[str, ClassTable]
    groups: list[GroupScores]


def analyse(
    records: Records,
    answers: Mapping[str, Sequence[Prediction]],
    *,
    threshold: float | str,
    overlap: float,
    grouping: Grouping,
    seed: int,
) -> Analysis:
    """Score each source's answers, and the whole: all of them together but those the threshold was chosen on.

    With a grouping whose seen groups are known, each source and the whole are also scored apart for groups that
    training saw (``eval/<name>/seen/…``) and for others (``…/unseen/…``).

    Args:
        records: each source's records.
        answers: each source's predictions.
        threshold: the score from which objects count, or the source to choose the one with the best F1 on.
        overlap: from which an object is found, in that choice and in the tables of classes and groups.
        grouping: which records belong together.
        seed: of the intervals' draws.
    """
    chosen = choose_threshold(records, answers, threshold, overlap)
    judged = judge_answers(records, [p for own in answers.values() for p in own], chosen.value)
    parts = _with_the_whole(answers, chosen)
    metrics: dict[str, float] = {}
    found: dict[str, Interval] = {}
    for name, predictions in _with_seen_apart(parts, grouping).items():
        values = score(records, predictions, threshold=chosen.value, judged=judged)
        metrics |= {log_key(name, key): float(value) for key, value in values.items()}
        ranges = _intervals(predictions, judged, grouping, seed)
        found |= {log_key(name, key): interval for key, interval in ranges.items()}
    tables = {name: class_table(_scored(records, own), overlap, chosen.value) for name, own in parts.items()}
    whole = parts[whole_name(parts)]
    rows = [] if grouping.key is None else _group_scores(records, whole, grouping, overlap, chosen.value)
    return Analysis(metrics, found, chosen, tables, rows)


def choose_threshold(
    records: Records, answers: Mapping[str, Sequence[Prediction]], threshold: float | str, overlap: float
) -> Threshold:
    """A number as it is; a source's name gives the threshold with the best F1 on it, all kinds of objects together.

    It is 0 where the answers of that source hold no object.
    """
    if not isinstance(threshold, str):
        return Threshold(threshold, None)
    best = best_threshold(_scored(records, answers.get(threshold, ())), overlap)
    return Threshold(best[0] if best else 0.0, threshold)


def remarks(analysis: Analysis, overlap: float) -> list[str]:
    """What a reader of the numbers must know: where the threshold is from, and which scores have no interval."""
    lines = []
    value, source = analysis.threshold.value, analysis.threshold.source
    if source is not None:
        best = f"chosen for the best F1 at IoU {overlap:g} on {source}, whose own P, R and F1 are therefore optimistic"
        lines.append(f"threshold {value:.4g}: {best}")
    elif value:
        lines.append(f"threshold {value:.4g}: objects that score less count for mAP alone")
    ranged = {key.rpartition("/")[0] for key in analysis.intervals}
    without = {key.rpartition("/")[0] for key in analysis.metrics if "@" in key} - ranged
    if without:
        names = ", ".join(sorted(without))
        lines.append(f"no 95 % intervals for {names}: fewer than {FEWEST_GROUPS} groups to draw from")
    return lines


def whole_name(parts: Mapping[str, object]) -> str:
    """The name of the sources' whole: ``""`` with several, else the one source's own."""
    return "" if "" in parts else list(parts)[-1]


def group_records(records: Records, key: str | None, train: Mapping[str, Source], limit: int | None) -> Grouping:
    """The group of each source's first ``limit`` records, and the groups of all records of ``train`` (if any).

    A training source whose first record has no ``metadata.<key>`` is without groups.

    Raises:
        RecordError: for a record without the key, naming file and line.
        DataError: when no training source has groups.
    """
    places = [(name, index) for name, own in records.items() for index in range(len(own))[:limit]]
    if key is None:
        return Grouping(None, {place: place for place in places}, None)
    groups = {(name, index): record_group(records[name][index], key) for name, index in places}
    if not train:
        return Grouping(key, groups, None)
    seen: set[Hashable] = set()
    for own in (source.open() for source in train.values()):
        if key.startswith(PATH_PATTERN) or key in own[0].metadata:
            seen.update(record_group(own[index], key) for index in range(len(own)))
    if not seen:
        raise DataError(f"no source of data.train has metadata.{key}; use another group_by, or data.train=null")
    return Grouping(key, groups, frozenset(seen))


def write_analysis(folder: Path, analysis: Analysis) -> None:
    """Write ``metrics.json``, ``classes.json`` (a table a source) and, with a grouping, ``groups.json``.

    ``metrics.json`` has the scores under ``final`` and the 95 % intervals, ``[low, high]`` by the same keys.
    """
    threshold = {"threshold": analysis.threshold.value, "threshold_source": analysis.threshold.source}
    _write_json(folder / "metrics.json", {"final": analysis.metrics, "intervals": analysis.intervals} | threshold)
    _write_json(folder / "classes.json", {name or ALL: table.to_json() for name, table in analysis.classes.items()})
    if analysis.groups:
        _write_json(folder / "groups.json", [row.to_json() for row in analysis.groups])


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _scored(records: Records, predictions: Sequence[Prediction]) -> list[Scored]:
    return [
        (truth_of(records[p.source][p.index], p.sizes), p.answer.annotations, p.scores, p.sizes)
        for p in predictions
        if p.task == "dense"
    ]


def _with_the_whole(
    answers: Mapping[str, Sequence[Prediction]], threshold: Threshold
) -> dict[str, Sequence[Prediction]]:
    """The sources, the one of the threshold first, and under ``""`` the others together where they are several."""
    parts = {name: own for name, own in answers.items() if name == threshold.source}
    others = {name: own for name, own in answers.items() if name != threshold.source}
    parts |= others
    if len(others) > 1:
        parts[""] = [prediction for own in others.values() for prediction in own]
    return parts


def _with_seen_apart(parts: Mapping[str, Sequence[Prediction]], grouping: Grouping) -> dict[str, Sequence[Prediction]]:
    """The parts, and where it is known which groups training saw, each one's records of such groups and the others."""
    result = dict(parts)
    if grouping.seen is not None:
        for name, predictions in parts.items():
            for word, wanted in (("seen", True), ("unseen", False)):
                own = [p for p in predictions if (grouping.groups[p.source, p.index] in grouping.seen) == wanted]
                result |= {f"{name}/{word}".lstrip("/"): own} if own else {}
    return result


def _intervals(
    predictions: Sequence[Prediction], judged: Mapping[Place, Judgement], grouping: Grouping, seed: int
) -> dict[str, Interval]:
    dense = [p for p in predictions if p.task == "dense"]
    places = sorted({(p.source, p.index) for p in dense})
    members = [grouping.groups[place] for place in places]
    return intervals([judged[place] for place in places], members, score_source(dense), seed=seed)


def _group_scores(
    records: Records, predictions: Sequence[Prediction], grouping: Grouping, overlap: float, threshold: float
) -> list[GroupScores]:
    """Each group's counts, the lowest F1 first and those with nothing to count last."""
    photos: dict[str, int] = {}
    counts: dict[str, DetectionCounts] = {}
    dense = [p for p in predictions if p.task == "dense"]
    for prediction, scored in zip(dense, _scored(records, dense), strict=True):
        name = str(grouping.groups[prediction.source, prediction.index])
        photos[name] = photos.get(name, 0) + len(prediction.sizes)  # a pair seen as one counts once
        counts[name] = counts.get(name, DetectionCounts()) + object_counts(scored, overlap, threshold)
    seen = {name: None if grouping.seen is None else name in grouping.seen for name in counts}
    rows = [GroupScores(name, photos[name], counts[name], seen[name]) for name in counts]
    return sorted(rows, key=lambda row: (row.counts.empty, row.counts.f1, row.group))
