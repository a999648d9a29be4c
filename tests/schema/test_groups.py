"""Verdicts of a group: the two-line contract, its looser relatives, and the words that only look like one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.errors import ConfigError, RecordError
from qcvl.schema import Record, Verdict, parse_verdict
from qcvl.schema.groups import group_of, label_of, metadata_group, record_group


def record(**metadata):
    return Record(images=("a.jpg",), metadata=metadata, path="train.jsonl", line=4)


def test_the_two_line_contract_is_read_in_both_languages():
    assert parse_verdict("Verdict: 不通过\nReason: 螺丝未拧紧") == Verdict("fail", "螺丝未拧紧", None, True)
    assert parse_verdict("Verdict: 通过\n理由：全部到位") == Verdict("pass", "全部到位", None, True)
    assert parse_verdict("Verdict: fail\nReason: a screw is loose\n") == Verdict("fail", "a screw is loose", None, True)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("通过", "pass"),
        ("不通过", "fail"),
        ("不 通过", "fail"),
        ("未通过。", "fail"),
        ("结论：通过。", "pass"),
        ("**Verdict**: Pass", "pass"),
        ("Verdict： 不通过（螺丝缺失）", "fail"),
        ("通过，所有螺丝已拧紧", "pass"),
        ("Failed. A screw is missing", "fail"),
        ("Reason: 接地线缺失\nVerdict: 不通过", "fail"),
        ("<think>通过？</think>\nVerdict: 不通过\nReason: x", "fail"),
        ("该组图片无法判断是否通过", None),
        ("通过不了", None),
        ("通过率 80%", None),
        ("Verdict: 通过|不通过", None),
        ("Verdict: 通过/不通过", None),
        ("Verdict: 通过\nVerdict: 不通过", None),
        ("pass or fail?", None),
        ("bypass", None),
        ("<think>通过", None),
        ("Reason: 通过", None),
        ("", None),
    ],
)
def test_only_a_whole_word_is_a_verdict(text, verdict):
    assert parse_verdict(text).verdict == verdict


@pytest.mark.parametrize(
    "text",
    [
        "通过",
        "Verdict: 通过",
        "Verdict: 通过\nReason:",
        "Verdict: 通过。\nReason: x",
        "Reason: x\nVerdict: 通过",
        "好的。\nVerdict: 通过\nReason: x",
        "Verdict: 通过\nReason: x\n以上。",
        "Verdict: 待定\nReason: x",
    ],
)
def test_anything_but_the_two_lines_is_out_of_format(text):
    assert not parse_verdict(text).format_ok


def test_a_reason_runs_to_the_end_and_a_confidence_is_a_share():
    verdict = parse_verdict("Verdict: 不通过\nReason: 螺丝未拧紧\nConfidence: 85%")
    assert verdict == Verdict("fail", "螺丝未拧紧", 0.85, True)
    assert parse_verdict("Verdict: pass\nReason: a\nb\nConfidence: 0.5") == Verdict("pass", "a\nb", 0.5, False)
    assert parse_verdict("Verdict: pass\nReason: a\nConfidence: 7").confidence is None


@given(st.text())
def test_no_text_makes_parsing_raise_and_a_verdict_needs_its_word(text):
    words = ("通过", "合格", "pass", "fail")
    assert parse_verdict(text).verdict is None or any(word in text.lower() for word in words)


def test_group_and_label_come_from_the_metadata():
    assert group_of(record(group="G7")) == "G7" and group_of(record(group=7)) == "7"
    assert group_of(record()) is None and label_of(record()) is None
    labels = {"pass": "pass", "PASS": "pass", "通过": "pass", "fail": "fail", "不通过": "fail"}
    assert {word: label_of(record(label=word)) for word in labels} == labels


def test_a_label_that_is_no_verdict_names_the_record():
    with pytest.raises(
        RecordError, match=r"train\.jsonl:4: metadata\.label is the string 'maybe'; expected pass, fail"
    ):
        label_of(record(label="maybe"))
    with pytest.raises(RecordError, match=r"train\.jsonl:4: metadata\.label is true"):
        label_of(record(label=True))
    with pytest.raises(RecordError, match=r"train\.jsonl:4: metadata\.group is a list; expected a group id"):
        group_of(record(group=[]))


def test_any_metadata_key_can_name_groups_by_text_or_number():
    assert [metadata_group(record(board=value), "board") for value in ("07", 7, 1.5)] == ["07", "7", "1.5"]
    for wrong in ("", " ", None, [1], {"a": 1}):
        with pytest.raises(RecordError, match=r"metadata.board is .*; expected the name of the record's group"):
            metadata_group(record(board=wrong), "board")
    with pytest.raises(RecordError, match=r"metadata.board is missing; .* \(metadata has site\)"):
        metadata_group(record(site=1), "board")


@pytest.mark.parametrize(
    ("image", "group_by", "group"),
    [
        ("b/00041007_test.jpg", r"path:(\d{5})\d+_", "00041"),
        ("b/00041007_test.jpg", r"path:\d{5}", "00041"),
        ("site-3/a.jpg", "path:^[^/]+", "site-3"),
    ],
)
def test_a_group_is_the_bracketed_part_of_a_pattern_on_the_path_or_all_it_matches(image, group_by, group):
    assert record_group(Record(images=(image, "other.jpg")), group_by) == group


def test_a_group_without_a_pattern_is_a_key_of_the_metadata():
    assert record_group(record(board="B7"), "board") == metadata_group(record(board="B7"), "board") == "B7"


def test_a_path_without_the_pattern_a_photo_without_a_path_and_a_broken_pattern_are_named():
    with pytest.raises(RecordError, match=r"train\.jsonl:4: images\[0\] is no path that 'x' of group_by matches"):
        record_group(record(), "path:x")
    for image in (b"x", "data:image/png;base64,x"):
        with pytest.raises(RecordError, match="is no path"):
            record_group(Record(images=(image,)), "path:x")
    with pytest.raises(ConfigError, match=r"group_by: '\[' is no regular expression"):
        record_group(record(), "path:[")
