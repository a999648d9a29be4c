"""The one evaluator: ``predict`` asks a predictor about records, ``score`` compares its answers with them.

Training, evaluate, panels and offline scoring call just these two. ``score`` is pure and counts over all predictions at
once, so the result does not depend on batches, processes or their order.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qcvl.data.datamodule import EvaluationItem, VLDataModule
from qcvl.data.samples import build_sample
from qcvl.data.written import Size, rescale, written_sizes
from qcvl.errors import DataError
from qcvl.geometry.clip import clip_shape
from qcvl.geometry.norm import canonical
from qcvl.inference.predictor import Predictor, Reply, Request, ScoreSource
from qcvl.inference.sharding import gather_objects, shard
from qcvl.metrics.judgement import Judgement, judge, judged_metrics
from qcvl.metrics.summary import summary_metrics
from qcvl.metrics.validity import validity_metrics
from qcvl.schema.answer import Answer, AnswerFormat, parse_answer, render_answer
from qcvl.schema.records import Record, geometry_json
from qcvl.schema.types import Annotation, Task

Place = tuple[str, int]  # a source's name and the number of a record in it
RECORDS_AT_ONCE = 64  # decoded: about 400 MB of 1080p photos


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer: to which record (``source``, ``index``), for which task, and what could be read from it.

    ``sizes`` are the ``(width, height)`` of the record's photos in pixels; ``answer.annotations`` are in those pixels.
    ``text`` is in those of ``text_sizes`` (see ``data.written``). ``scores`` (0..1) has one number for each of
    ``answer.annotations``, made as ``score_source`` says.
    """

    source: str
    index: int
    task: Task
    images: tuple[str, ...]
    sizes: tuple[Size, ...]
    text_sizes: tuple[Size, ...]
    text: str
    tokens: int
    finished: bool
    answer: Answer
    scores: tuple[float, ...]
    score_source: ScoreSource

    def to_json(self) -> str:
        """One line of ``predictions.jsonl``."""
        row = {
            "source": self.source,
            "index": self.index,
            "task": self.task,
            "images": list(self.images),
            "sizes": self.sizes,
            "text_sizes": self.text_sizes,
            "text": self.text,
            "tokens": self.tokens,
            "finished": self.finished,
            "status": self.answer.status,
            "scores": self.scores,
            "score_source": self.score_source,
            "objects": [geometry_json(note, len(self.images)) for note in self.answer.annotations],
        }
        return json.dumps(row, ensure_ascii=False)


def predict(
    items: Sequence[EvaluationItem],
    predictor: Predictor,
    answer_format: AnswerFormat,
    *,
    source: str,
    max_new_tokens: int = sys.maxsize,
) -> list[Prediction]:
    """Ask ``predictor`` about every item and read its answers; one prediction an item, in order.

    Photos are decoded ``RECORDS_AT_ONCE`` records at a time: a data set does not fit into memory.
    """
    predictions: list[Prediction] = []
    for start in range(0, len(items), RECORDS_AT_ONCE):
        part = items[start : start + RECORDS_AT_ONCE]
        samples = [build_sample(item.record, item.task, item.pairing) for item in part]
        requests = [
            Request(sample.images, item.prompts.for_task(item.task), max_new_tokens, item.task)
            for item, sample in zip(part, samples, strict=True)
        ]
        for item, request, reply in zip(part, requests, predictor.answer(requests), strict=True):
            sizes = tuple((image.shape[1], image.shape[0]) for image in request.images)
            text_sizes = written_sizes(sizes, [predictor.seen_size(size) for size in sizes], answer_format)
            predictions.append(_predicted(source, item, sizes, text_sizes, reply, answer_format))
    return predictions


def _predicted(
    source: str,
    item: EvaluationItem,
    sizes: tuple[Size, ...],
    text_sizes: tuple[Size, ...],
    reply: Reply,
    answer_format: AnswerFormat,
) -> Prediction:
    images = (value if isinstance(value, str) else f"image {i}" for i, value in enumerate(item.record.images))
    answer = read_answer(reply.text, item.task, sizes, text_sizes, answer_format)
    scores = (1.0,) * len(answer.places)
    if reply.scores is not None:
        scores = tuple(reply.scores[place] for place in answer.places)
    return Prediction(
        source=source,
        index=item.index,
        task=item.task,
        images=tuple(images),
        sizes=sizes,
        text_sizes=text_sizes,
        text=reply.text,
        tokens=reply.tokens,
        finished=reply.finished,
        answer=answer,
        scores=scores,
        score_source=reply.score_source,
    )


def above(prediction: Prediction, threshold: float, answer_format: AnswerFormat) -> Prediction:
    """The prediction with only those objects that score ``threshold`` or more, and a text that lists just these.

    Where none scores less it stays as it is, word for word.
    """
    kept = [number for number, score in enumerate(prediction.scores) if score >= threshold]
    if len(kept) == len(prediction.scores):
        return prediction
    notes = tuple(prediction.answer.annotations[number] for number in kept)
    written = rescale(notes, prediction.sizes, prediction.text_sizes)
    form = replace(answer_format, step=1)
    text = render_answer(written, prediction.text_sizes, answer_format=form, keep_vertex_order=True)  # the model's own
    answer = replace(prediction.answer, annotations=notes, places=tuple(range(len(notes))))
    scores = tuple(prediction.scores[number] for number in kept)
    return replace(prediction, text=text, answer=answer, scores=scores)


def read_answer(
    text: str, task: Task, sizes: Sequence[Size], text_sizes: Sequence[Size], answer_format: AnswerFormat
) -> Answer:
    """Parse a dense answer into pixels of the photos; a summary is its text, with nothing to parse."""
    if task != "dense":
        return Answer(status="strict")
    answer = parse_answer(text, text_sizes, answer_format=answer_format)
    return replace(answer, annotations=rescale(answer.annotations, text_sizes, sizes))


def truth_of(record: Record, sizes: Sequence[tuple[int, int]]) -> list[Annotation]:
    """What a perfect answer would hold: a record's annotations clipped to their photos, in canonical form."""
    return [
        Annotation(canonical(part), note.desc, note.image)
        for note in record.annotations
        for part in clip_shape(note.shape, *sizes[note.image])
    ]


def judge_answers(
    records: Mapping[str, Sequence[Record]], predictions: Iterable[Prediction], threshold: float = 0.0
) -> dict[Place, Judgement]:
    """Each dense answer compared with its record once, by ``(source, index)``; ``threshold`` as in :func:`score`."""
    return {
        (p.source, p.index): judge(
            truth_of(records[p.source][p.index], p.sizes), p.answer.annotations, p.scores, p.sizes, threshold
        )
        for p in predictions
        if p.task == "dense"
    }


def score(
    records: Mapping[str, Sequence[Record]],
    predictions: Iterable[Prediction],
    *,
    threshold: float = 0.0,
    judged: Mapping[Place, Judgement] | None = None,
) -> dict[str, float]:
    """Metrics over all given answers together.

    Dense answers give ``dense_f1@0.5`` and its kin (see ``detection_metrics``), ``dense_map_constant@0.5`` and its kin
    (see ``average_precision_metrics``; the name tells where the scores come from), ``json_valid`` (share read strictly)
    and the shares of other readings, and ``finished`` (share that ended before the token limit); summaries give
    ``summary_exact``. A metric without anything to count is absent.

    Args:
        records: each source's records; a prediction's ``source`` and ``index`` point into them.
        predictions: in any order, from any number of processes; several of one (source, index, task) count once.
        threshold: objects that score less count for average precision alone.
        judged: what :func:`judge_answers` gives for these answers (and maybe more) at this threshold, if known.
    """
    unique = {(prediction.source, prediction.index, prediction.task): prediction for prediction in predictions}
    dense = [unique[key] for key in sorted(unique) if key[2] == "dense"]
    summaries = [unique[key] for key in sorted(unique) if key[2] == "summary"]
    metrics: dict[str, float] = {}
    if dense:
        known = judge_answers(records, dense, threshold) if judged is None else judged
        metrics |= judged_metrics([known[p.source, p.index] for p in dense], score_source(dense))
        metrics |= validity_metrics(p.answer.status for p in dense)
        metrics["finished"] = sum(p.finished for p in dense) / len(dense)
    return metrics | summary_metrics((records[p.source][p.index].summary or "", p.text) for p in summaries)


def score_source(predictions: Iterable[Prediction]) -> ScoreSource:
    """Where the scores of all these answers come from; ``constant`` when there are none.

    Raises:
        DataError: for several sources, whose scores cannot be ranked against each other.
    """
    found = sorted({prediction.score_source for prediction in predictions})
    if len(found) > 1:
        raise DataError(f"the answers have scores from {' and '.join(found)}; expected one source, so score them apart")
    return found[0] if found else "constant"


@dataclass(frozen=True, slots=True)
class Result:
    """Metrics of one validation source (or of all together) and the answers behind them."""

    metrics: dict[str, float]
    predictions: list[Prediction]


def evaluate(predictor: Predictor, datamodule: VLDataModule, limit: int | None) -> dict[str, Result]:
    """Ask about each validation source's first ``limit`` records and score.

    Every process answers its share and all get the same results, by source name; with several sources ``""`` holds
    those of all together.
    """
    records = {source.name: source.records for source in datamodule.sources("val")}
    answers = predict_sources(predictor, datamodule, limit)
    everything = [prediction for predictions in answers.values() for prediction in predictions]
    judged = judge_answers(records, everything)
    if len(answers) > 1:
        answers[""] = everything
    return {name: Result(score(records, own, judged=judged), own) for name, own in answers.items()}


def predict_sources(predictor: Predictor, datamodule: VLDataModule, limit: int | None) -> dict[str, list[Prediction]]:
    """All processes' answers to each validation source's first ``limit`` records, by source name.

    An answer is cut at twice the length of the longest true one: past that only answers that will never end go on, and
    they are counted as not finished. A source of which nothing is asked (conversations) has no entry.
    """
    answers = {}
    for name in datamodule.val_names():
        items = datamodule.evaluation_items(name, limit)
        if not items:
            continue
        longest = max(datamodule.answer_length(item) for item in items)
        mine = predict(shard(items), predictor, datamodule.answer_format, source=name, max_new_tokens=2 * longest)
        answers[name] = gather_objects(mine)
    return answers


def log_keys(results: Mapping[str, Result]) -> dict[str, float]:
    """``eval/<name>/<metric>`` for each source, ``eval/<metric>`` for all together."""
    return {
        log_key(name, key): float(value) for name, result in results.items() for key, value in result.metrics.items()
    }


def log_key(name: str, metric: str) -> str:
    """``eval/<name>/<metric>``; ``eval/<metric>`` without a name."""
    return f"eval/{name}/{metric}" if name else f"eval/{metric}"


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write ``predictions.jsonl``, one prediction a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(prediction.to_json() + "\n" for prediction in predictions), encoding="utf-8")


def read_predictions(path: Path, answer_format: AnswerFormat) -> list[Prediction]:
    """Read ``predictions.jsonl`` back, parsing each text anew; a row without scores has constant ones."""
    with path.open(encoding="utf-8") as file:  # str.splitlines would also cut at line separators inside an answer
        return [_prediction(json.loads(line), answer_format) for line in file]


def _prediction(row: dict[str, Any], answer_format: AnswerFormat) -> Prediction:
    fields = {name: row[name] for name in ("source", "index", "task", "text", "tokens", "finished")}
    sizes, text_sizes = (tuple((width, height) for width, height in row[name]) for name in ("sizes", "text_sizes"))
    answer = read_answer(row["text"], row["task"], sizes, text_sizes, answer_format)
    fields |= {
        "scores": tuple(row["scores"]) if "scores" in row else (1.0,) * len(answer.annotations),
        "score_source": row.get("score_source", "constant"),
    }
    return Prediction(images=tuple(row["images"]), sizes=sizes, text_sizes=text_sizes, answer=answer, **fields)
