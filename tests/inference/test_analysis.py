"""What evaluate says about answers: thresholds, groups training saw and others, intervals, tables and files."""

import json
from dataclasses import replace

import pytest

from qcvl.data.sources import JsonlSource
from qcvl.errors import DataError, RecordError
from qcvl.geometry.shapes import Shape
from qcvl.inference.analysis import Grouping, analyse, group_records, remarks, whole_name, write_analysis
from qcvl.inference.evaluator import Prediction, score
from qcvl.metrics.counts import DetectionCounts
from qcvl.schema.answer import Answer
from qcvl.schema.records import Record
from qcvl.schema.types import Annotation

SIZE = (200, 100)


def box(number: int, desc: str = "open", height: int = 10) -> Annotation:
    return Annotation(Shape("bbox_2d", [20 * number, 0, 20 * number + 10, height]), desc)


def record(*numbers: int, board: str = "A", summary: str = "s") -> Record:
    notes = tuple(box(number) for number in numbers)
    return Record(images=("a.png",), annotations=notes, sizes=(SIZE,), metadata={"board": board}, summary=summary)


def answer(source: str, index: int, *objects: tuple[Annotation, float]) -> Prediction:
    return Prediction(
        source=source,
        index=index,
        task="dense",
        images=("a.png",),
        sizes=(SIZE,),
        text_sizes=(SIZE,),
        text="",
        tokens=3,
        finished=True,
        answer=Answer("strict", tuple(note for note, _ in objects)),
        scores=tuple(value for _, value in objects),
        score_source="token_probability",
    )


# On dev every object above .5 is right and every other one wrong; on test the right ones go down to .4.
RECORDS = {
    "dev": [record(0, 1, board="A"), record(2, board="B")],
    "test": [record(0, 1, 2, board="A"), record(3, board="C"), record(4, board="C")],
}
ANSWERS = {
    "dev": [
        answer("dev", 0, (box(0), 0.9), (box(1), 0.6), (box(5), 0.5)),
        answer("dev", 1, (box(2), 0.7), (box(6), 0.3)),
    ],
    "test": [
        answer("test", 0, (box(0), 0.8), (box(1), 0.4), (box(2, "short"), 0.9)),
        answer("test", 1, (box(3), 0.6), (box(7), 0.2)),
        answer("test", 2, (box(8), 0.7)),
    ],
}


def analysed(*, threshold=0.0, overlap=0.5, key=None, train=None, records=RECORDS, answers=ANSWERS):
    grouping = group_records(records, key, train or {}, None)
    return analyse(records, answers, threshold=threshold, overlap=overlap, grouping=grouping, seed=0)


def written(path, records) -> JsonlSource:
    path.write_text("".join(item.to_json() + "\n" for item in records))
    return JsonlSource(path=str(path), repeat=1, task=None, prompts=None)


def test_a_threshold_drops_objects_from_every_count_but_not_from_average_precision():
    everything, kept = analysed().metrics, analysed(threshold=0.5).metrics
    assert everything["eval/test/dense_p@0.5"] == 3 / 6 and everything["eval/test/dense_r@0.5"] == 3 / 5
    assert kept["eval/test/dense_p@0.5"] == 2 / 4 and kept["eval/test/dense_r@0.5"] == 2 / 5
    assert (everything["eval/test/dense_predictions"], kept["eval/test/dense_predictions"]) == (6, 4)
    name = "eval/test/dense_map_token_probability@0.5"
    assert everything[name] == kept[name] > 0


def test_a_source_chooses_the_threshold_that_is_best_on_it_and_the_others_are_scored_with_it():
    found = analysed(threshold="dev")
    assert (found.threshold.value, found.threshold.source) == (0.6, "dev")
    given = analysed(threshold=0.6)
    for key in ("eval/dev/dense_f1@0.5", "eval/test/dense_f1@0.5"):
        assert found.metrics[key] == given.metrics[key]
    assert found.metrics["eval/dev/dense_f1@0.5"] == 1 > found.metrics["eval/test/dense_f1@0.5"]
    (remark,) = remarks(found, 0.5)
    assert remark.startswith("threshold 0.6: chosen for the best F1 at IoU 0.5 on dev, whose own P, R and F1")


def test_the_whole_leaves_out_the_source_the_threshold_was_chosen_on():
    assert "eval/dense_f1@0.5" in analysed(threshold=0.6).metrics
    assert "eval/dense_f1@0.5" not in analysed(threshold="dev").metrics
    assert whole_name(analysed(threshold="dev").classes) == "test"
    records = RECORDS | {"more": RECORDS["dev"]}
    answers = ANSWERS | {"more": [replace(item, source="more") for item in ANSWERS["dev"]]}
    three = analysed(threshold="dev", records=records, answers=answers)
    alone = score(records, [*answers["test"], *answers["more"]], threshold=0.6)
    assert three.metrics["eval/dense_f1@0.5"] == alone["dense_f1@0.5"]
    assert whole_name(three.classes) == "" and set(three.classes) == {"dev", "test", "more", ""}


def test_the_overlap_changes_which_threshold_is_best_and_what_the_tables_call_found():
    records = {"dev": [record(0, 1)]}
    answers = {"dev": [answer("dev", 0, (box(0), 0.9), (box(1, height=6), 0.4))]}  # overlaps 1 and .6
    low, high = (
        analysed(threshold="dev", overlap=o, records=records, answers=answers, key="board") for o in (0.5, 0.75)
    )
    assert (low.threshold.value, high.threshold.value) == (0.4, 0.9)
    assert low.classes["dev"].classes[0].counts == DetectionCounts(tp=2)
    assert high.classes["dev"].classes[0].counts == high.groups[0].counts == DetectionCounts(tp=1, fn=1)


def test_a_source_whose_answers_hold_nothing_keeps_everything():
    empty = {"dev": [answer("dev", 0), answer("dev", 1)], "test": ANSWERS["test"]}
    assert analysed(threshold="dev", answers=empty).threshold.value == 0.0


def test_groups_that_training_saw_are_scored_apart_from_others(tmp_path):
    train = {"train": written(tmp_path / "train.jsonl", [record(0, board="A"), record(0, board="Z")])}
    found = analysed(key="board", train=train)
    seen, unseen = score(RECORDS, ANSWERS["test"][:1]), score(RECORDS, ANSWERS["test"][1:])
    for key in ("dense_f1@0.33", "dense_r@0.5", "dense_map_token_probability@0.5", "json_valid"):
        assert found.metrics[f"eval/test/seen/{key}"] == seen[key], key
        assert found.metrics[f"eval/test/unseen/{key}"] == unseen[key], key
    pooled = score(RECORDS, [ANSWERS["dev"][0], ANSWERS["test"][0]])
    assert found.metrics["eval/seen/dense_f1@0.5"] == pooled["dense_f1@0.5"]
    rows = {row.group: row for row in found.groups}
    assert [row.group for row in found.groups] == sorted(rows, key=lambda name: rows[name].counts.f1)
    assert {name: row.seen for name, row in rows.items()} == {"A": True, "B": False, "C": False}
    assert (rows["C"].photos, rows["C"].counts) == (2, DetectionCounts(tp=1, fp=2, fn=1))


def test_without_training_data_nothing_is_called_seen():
    found = analysed(key="board")
    assert not [key for key in found.metrics if "seen" in key]
    assert {row.seen for row in found.groups} == {None}
    assert analysed().groups == []


def test_a_record_without_the_key_is_named_by_file_and_line(tmp_path):
    bare = replace(record(0), metadata={"site": 4})
    source = written(tmp_path / "val.jsonl", [record(0), bare])
    with pytest.raises(RecordError) as caught:
        group_records({"val": source.open()}, "board", {}, None)
    assert str(caught.value) == (
        f"{tmp_path}/val.jsonl:2: metadata.board is missing; expected the name of the record's group in every record "
        "(metadata has site)"
    )
    assert group_records({"val": source.open()}, "board", {}, limit=1).groups == {("val", 0): "A"}
    with pytest.raises(RecordError, match=r"train.jsonl:2: metadata.board is a list; expected the name"):
        train = written(tmp_path / "train.jsonl", [record(0), replace(record(0), metadata={"board": []})])
        group_records(RECORDS, "board", {"train": train}, None)


def test_training_data_without_the_key_are_refused_and_one_source_of_several_may_lack_it(tmp_path):
    bare = written(tmp_path / "bare.jsonl", [replace(record(0), metadata={})])
    with pytest.raises(DataError, match=r"no source of data.train has metadata.board; use another group_by"):
        group_records(RECORDS, "board", {"bare": bare}, None)
    both = {"bare": bare, "train": written(tmp_path / "train.jsonl", [record(0, board="C")])}
    assert group_records(RECORDS, "board", both, None).seen == {"C"}


def test_intervals_hold_the_score_between_them_and_follow_the_groups_and_the_seed():
    places = [("test", n) for n in range(12)]
    records = {"test": [record(0, 1) for _ in places]}
    answers = {"test": [answer("test", n, *[(box(k), 0.9) for k in range(1 + n % 2)]) for _, n in places]}

    def interval(groups, seed=0):
        grouping = Grouping("board", dict(zip(places, groups, strict=True)), None)
        found = analyse(records, answers, threshold=0.0, overlap=0.5, grouping=grouping, seed=seed)
        return found.intervals.get("eval/test/dense_r@0.5"), found

    (low, high), found = interval(range(12))
    assert low < found.metrics["eval/test/dense_r@0.5"] == 0.75 < high
    assert set(found.intervals) == {key for key in found.metrics if "@" in key}
    assert interval([n // 2 for n in range(12)])[0] == (0.75, 0.75)
    assert interval([0] * 12)[0] is None
    assert remarks(interval([0] * 12)[1], 0.5) == ["no 95 % intervals for eval/test: fewer than 2 groups to draw from"]


def test_the_files_hold_scores_intervals_the_threshold_and_both_tables(tmp_path):
    train = {"train": written(tmp_path / "train.jsonl", [record(0, board="A")])}
    found = analysed(threshold=0.25, key="board", train=train)
    write_analysis(tmp_path, found)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["final"] == found.metrics
    assert (metrics["threshold"], metrics["threshold_source"]) == (0.25, None)
    low, high = metrics["intervals"]["eval/dense_f1@0.5"]
    assert low < metrics["final"]["eval/dense_f1@0.5"] < high
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert set(classes) == {"dev", "test", "all sources"}
    first = classes["test"]["classes"][0]
    assert (first["class"], first["truths"], first["found"], first["missed"]) == ("open", 5, 3, 2)
    assert classes["test"]["confusions"] == [{"class": "open", "said": "short", "count": 1}]
    assert classes["test"]["iou"] == 0.5 and classes["test"]["macro"]["r"] == 0.6
    groups = json.loads((tmp_path / "groups.json").read_text())
    assert {row["group"]: row["seen"] for row in groups} == {"A": True, "B": False, "C": False}


def test_summaries_alone_have_their_score_and_nothing_to_table_or_draw_from():
    answers = {"test": [replace(answer("test", n), task="summary", text=text) for n, text in enumerate("sxs")]}
    found = analysed(answers=answers, key="board")
    assert found.metrics == {"eval/test/summary_exact": 2 / 3}
    assert (found.intervals, found.groups, found.classes["test"].classes) == ({}, [], [])
    assert remarks(found, 0.5) == []
