"""One evaluator: predict asks and reads, score counts over everything at once."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from qcvl.data.datamodule import EvaluationItem
from qcvl.errors import DataError
from qcvl.geometry.shapes import Shape
from qcvl.inference import evaluator
from qcvl.inference.evaluator import (
    evaluate,
    log_keys,
    predict,
    read_answer,
    read_predictions,
    score,
    truth_of,
    write_predictions,
)
from qcvl.inference.predictor import Reply, Request
from qcvl.schema.answer import DEFAULT_FORMAT, render_answer
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation
from tests.conftest import photo

PIXELS = replace(DEFAULT_FORMAT, emit_norm="none")


class Scripted:
    """Gives the texts it was made with, in order; a model that sees every photo at half its size."""

    def __init__(self, *texts: str, finished: bool = True) -> None:
        self.texts, self.finished, self.asked = list(texts), finished, []

    def seen_size(self, size_wh):
        return size_wh[0] // 2, size_wh[1] // 2

    def answer(self, requests: list[Request]) -> list[Reply]:
        self.asked.append(requests)
        return [Reply(self.texts.pop(0), 5, self.finished) for _ in requests]


def box(x: int, desc: str = "plate", image: int = 0) -> Annotation:
    return Annotation(Shape("bbox_2d", [x, 10, x + 20, 40]), desc, image)


def record(*notes: Annotation, summary: str = "s", photos: int = 1) -> Record:
    images = tuple(photo(100, 50, seed) for seed in range(photos))
    return Record(images=images, annotations=notes, sizes=((100, 50),) * photos, summary=summary)


def items_of(records, prompts, task="dense") -> list[EvaluationItem]:
    return [EvaluationItem(item, index, task, prompts) for index, item in enumerate(records)]


def answer_of(*notes: Annotation) -> str:
    return render_answer(notes, (100, 50))


@pytest.fixture
def asked(prompts):
    """``asked(records, *texts)``: the predictions when those texts answer the records."""

    def ask(records, *texts, task="dense", finished=True):
        items = items_of(records, prompts, task)
        return predict(items, Scripted(*texts, finished=finished), DEFAULT_FORMAT, source="a")

    return ask


# Found of true and invented objects: 1 of 1, none of 3 (and one invented), 1 of 2 (and two invented).
RECORDS = [record(box(0)), record(box(0), box(30), box(60)), record(box(0), box(30))]
TEXTS = [answer_of(box(0)), answer_of(box(0, "screw")), answer_of(box(0), box(60), box(79))]


def test_scores_pool_the_objects_of_all_records(asked):
    metrics = score({"a": RECORDS}, asked(RECORDS, *TEXTS))
    assert metrics["dense_p@0.5"] == pytest.approx(2 / 5)
    assert metrics["dense_r@0.5"] == pytest.approx(2 / 6)
    assert metrics["dense_f1@0.5"] == pytest.approx(2 * 2 / (5 + 6))
    assert metrics["dense_loc_r@0.5"] == pytest.approx(3 / 6)  # the screw lies where a plate is
    assert (metrics["dense_objects"], metrics["dense_predictions"]) == (6, 5)


def test_a_mean_of_per_batch_values_is_another_number(asked):
    predictions = asked(RECORDS, *TEXTS)
    whole = score({"a": RECORDS}, predictions)["dense_f1@0.5"]
    batches = [score({"a": RECORDS}, part)["dense_f1@0.5"] for part in (predictions[:1], predictions[1:])]
    assert batches == [1.0, pytest.approx(2 / 9)]
    assert abs(sum(batches) / 2 - whole) > 0.2


def test_neither_order_nor_shards_nor_repeats_change_a_score(asked):
    predictions = asked(RECORDS, *TEXTS) + asked(RECORDS, "s", "t", " s\n", task="summary")
    expected = score({"a": RECORDS}, predictions)
    for seed in range(5):
        shuffled = random.Random(seed).sample(predictions, len(predictions))
        assert score({"a": RECORDS}, shuffled) == expected
    for world_size in (2, 4, 5):  # uneven shares, one after another
        shares = [predictions[rank::world_size] for rank in range(world_size)]
        assert score({"a": RECORDS}, [item for share in shares for item in share]) == expected
    assert score({"a": RECORDS}, predictions + predictions[1:4] + predictions[:1]) == expected


def test_a_perfect_answer_scores_one_on_every_kind_of_shape(make_datamodule, make_data):
    datamodule = make_datamodule(data=make_data(val=make_data.source("zh.jsonl").path, sampling="dense"))
    items = datamodule.evaluation_items("val", None)
    texts = [render_answer(item.record.annotations, item.record.sizes[0]) for item in items]
    predictions = predict(items, Scripted(*texts), DEFAULT_FORMAT, source="val")
    metrics = score({"val": datamodule.sources("val")[0].records}, predictions)
    for name in ("dense_f1@0.75", "bbox_2d_f1@0.75", "quad_f1@0.75", "poly_f1@0.75", "line_f1@0.5"):
        assert metrics[name] == 1.0, name
    assert metrics["json_valid"] == metrics["finished"] == 1.0 and metrics["dense_count_error"] == 0


def test_average_precision_is_named_by_where_the_scores_come_from(asked):
    predictions = asked(RECORDS, *TEXTS)
    assert score({"a": RECORDS}, predictions)["dense_map_constant@0.5"] == pytest.approx(0.5 * 34 / 101)
    ranked = [
        replace(item, scores=scores, score_source="token_probability")
        for item, scores in zip(predictions, [(0.9,), (0.1,), (0.8, 0.2, 0.3)], strict=True)
    ]
    metrics = score({"a": RECORDS}, ranked)
    assert metrics["dense_map_token_probability@0.5"] == pytest.approx(34 / 101)  # both right ones come first
    assert not [key for key in metrics if "constant" in key]
    with pytest.raises(DataError, match="scores from constant and token_probability; expected one source"):
        score({"a": RECORDS}, [predictions[0], *ranked[1:]])


def test_objects_below_the_threshold_count_for_average_precision_alone(asked):
    predictions = [replace(item, scores=(0.5,) * len(item.scores)) for item in asked(RECORDS, *TEXTS)]
    assert score({"a": RECORDS}, predictions, threshold=0.5) == score({"a": RECORDS}, predictions)
    metrics = score({"a": RECORDS}, predictions, threshold=0.6)
    assert (metrics["dense_predictions"], metrics["dense_r@0.5"]) == (0, 0.0)
    assert metrics["dense_map_constant@0.5"] > 0


def test_truth_is_clipped_to_the_photo_as_a_perfect_answer_would_be():
    out = Annotation(Shape("bbox_2d", [-50, -10, 50, 20]), "plate")
    away = Annotation(Shape("line", [200, 10, 300, 10]), "cable")
    (truth,) = truth_of(record(out, away), ((100, 50),))
    assert truth.shape.points.tolist() == [[0, 0], [50, 20]]


def test_answers_cut_at_the_limit_are_not_finished_and_their_whole_objects_count(asked):
    text = answer_of(box(0), box(30))
    one, two = asked(RECORDS[:1], text), asked(RECORDS[:1], text[:-25], finished=False)
    assert len(two[0].answer.annotations) == 1
    metrics = score({"a": RECORDS}, [*one, replace(two[0], index=1)])
    assert metrics["finished"] == 0.5
    assert (metrics["json_valid"], metrics["json_truncated"], metrics["json_failed"]) == (0.5, 0.5, 0.0)


def test_a_summary_is_right_when_it_is_the_records_but_for_white_space_around_it(asked):
    records = [record(summary=text) for text in ("two plates", "  一块铭牌 ", "a", "b")]
    predictions = asked(records, "two plates\n", "一块铭牌", "A", "", task="summary")
    assert score({"a": records}, predictions) == {"summary_exact": 0.5}


def test_a_metric_without_anything_to_count_is_absent(asked):
    assert score({"a": RECORDS}, []) == {}
    metrics = score({"a": [record()]}, asked([record()], "{}"))
    assert "dense_f1@0.5" not in metrics and metrics["json_valid"] == 1.0


def test_each_request_has_its_photos_its_tasks_prompt_and_the_limit(prompts):
    predictor = Scripted("{}", "{}")
    records = [record(), record(photos=2)]
    predict(items_of(records, prompts), predictor, DEFAULT_FORMAT, source="a", max_new_tokens=77)
    ((first, second),) = predictor.asked
    assert np.array_equal(first.images[0], records[0].images[0]) and len(second.images) == 2
    assert (first.prompt, first.max_new_tokens) == (prompts.dense, 77)
    predictor = Scripted("s")
    predict(items_of(records[:1], prompts, "summary"), predictor, DEFAULT_FORMAT, source="a")
    assert predictor.asked[0][0].prompt == prompts.summary


def test_photos_are_decoded_some_records_at_a_time(prompts, monkeypatch):
    monkeypatch.setattr(evaluator, "RECORDS_AT_ONCE", 2)
    predictor = Scripted(*TEXTS)
    predictions = predict(items_of(RECORDS, prompts), predictor, DEFAULT_FORMAT, source="a")
    assert [len(requests) for requests in predictor.asked] == [2, 1]
    assert [(p.index, p.text) for p in predictions] == list(enumerate(TEXTS))


def test_an_answer_is_read_in_pixels_of_the_photo(asked, prompts):
    text = '{"object_1": {"bbox_2d": [5, 5, 15, 20], "desc": "plate"}}'
    (normed,) = asked(RECORDS[:1], text)
    assert normed.answer.annotations[0].shape.points.tolist() == [[0.5, 0.25], [1.5, 1.0]]  # thousandths of 100 x 50
    (pixels,) = predict(items_of(RECORDS[:1], prompts), Scripted(text), PIXELS, source="a")
    assert pixels.answer.annotations[0].shape.points.tolist() == [[10, 10], [30, 40]]  # the model saw 50 x 25
    assert (pixels.sizes, pixels.text_sizes) == (((100, 50),), ((50, 25),))


def test_objects_of_several_photos_are_on_the_grid_of_their_own():
    text = '{"object_1": {"image": 1, "bbox_2d": [0, 0, 500, 500], "desc": "plate"}}'
    sizes = ((100, 50), (60, 80))
    (note,) = read_answer(text, "dense", sizes, sizes, DEFAULT_FORMAT).annotations
    assert note.image == 1 and note.shape.points.tolist() == [[0, 0], [30, 40]]


@pytest.mark.parametrize("answer_format", [DEFAULT_FORMAT, PIXELS])
def test_predictions_come_back_from_their_file_as_they_were(prompts, tmp_path, answer_format):
    hostile = 'no JSON \u2028\u2029\x85\x0b\x0c\x1c\r\n"\\ \t螺丝✓\ufffd <|im_end|>'
    cut = answer_of(box(0), box(30))[:-25]
    texts = [answer_of(box(0)), hostile, cut, answer_of(box(0, hostile.replace("\n", ""))), ""]
    records = [record(box(0)) for _ in texts] + [record(box(0), box(30, image=1), photos=2)]
    texts.append('{"object_1": {"image": 1, "line_points": 2, "line": [1, 2, 30, 40], "desc": "a"}}')
    predictions = predict(items_of(records, prompts), Scripted(*texts, finished=False), answer_format, source="源")
    predictions += predict(items_of(records[:1], prompts, "summary"), Scripted(hostile), answer_format, source="源")
    path = tmp_path / "new/folder/predictions.jsonl"
    write_predictions(path, predictions)
    assert read_predictions(path, answer_format) == predictions
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == 7 and rows[0]["objects"][0]["desc"] == "plate" and rows[2]["status"] == "truncated"


def test_the_score_of_files_is_the_score_of_the_run(asked, tmp_path):
    predictions = asked(RECORDS, *TEXTS)
    shares = (predictions[:1], predictions[1:])
    for number, share in enumerate(shares):
        write_predictions(tmp_path / f"{number}.jsonl", share)
    back = [item for number in (1, 0) for item in read_predictions(tmp_path / f"{number}.jsonl", DEFAULT_FORMAT)]
    assert score({"a": RECORDS}, back) == score({"a": RECORDS}, predictions)


def test_evaluate_asks_each_source_and_scores_all_together_too(make_datamodule, make_data):
    sources = {name: make_data.source(f"{name}.jsonl") for name in ("zh", "en")}
    datamodule = make_datamodule(data=make_data(val=sources, sampling="dense"))
    items = [item for name in ("zh", "en") for item in datamodule.evaluation_items(name, 4)]
    texts = [render_answer(item.record.annotations[:2], item.record.sizes[0]) for item in items]
    results = evaluate(Scripted(*texts), datamodule, limit=4)
    assert list(results) == ["zh", "en", ""] and len(results[""].predictions) == 8
    records = {source.name: source.records for source in datamodule.sources("val")}
    for name in ("zh", "en"):
        assert results[name].metrics == score(records, results[name].predictions)
    found, true = results[""].metrics["dense_predictions"], results[""].metrics["dense_objects"]
    assert found == sum(len(item.record.annotations[:2]) for item in items)
    assert true == sum(len(item.record.annotations) for item in items)
    keys = log_keys(results)
    assert keys["eval/zh/finished"] == keys["eval/en/finished"] == keys["eval/finished"] == 1.0
    assert keys["eval/dense_objects"] == keys["eval/zh/dense_objects"] + keys["eval/en/dense_objects"]


def test_one_source_has_no_sum_beside_it(make_datamodule):
    datamodule = make_datamodule()
    results = evaluate(Scripted(*["{}"] * 16), datamodule, limit=None)
    assert list(results) == ["val"] and all(key.startswith("eval/val/") for key in log_keys(results))


def test_an_answer_may_be_twice_as_long_as_the_longest_true_one(make_datamodule):
    datamodule, predictor = make_datamodule(), Scripted(*["{}"] * 16)
    evaluate(predictor, datamodule, limit=None)
    longest = max(datamodule.answer_length(item) for item in datamodule.evaluation_items("val", None))
    assert {request.max_new_tokens for requests in predictor.asked for request in requests} == {2 * longest}


def test_a_source_of_conversations_has_no_answers_and_spoils_no_others(make_datamodule, make_data, conversations):
    val = {name: str(conversations / f"{name}.jsonl") for name in ("chat", "en")}
    datamodule = make_datamodule(data=make_data(val=val, sampling="dense"))
    results = evaluate(Scripted(*["{}"] * 8), datamodule, limit=None)
    assert list(results) == ["en"] and len(results["en"].predictions) == 8
    alone = make_datamodule(data=make_data(val=val["chat"], sampling="dense"))
    assert evaluate(Scripted(), alone, limit=None) == {} == log_keys({})
