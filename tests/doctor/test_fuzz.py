"""Lines nobody meant: whatever a file holds, a line is a record or one RecordError, and the doctor goes on."""

import copy
import json
import random

from hypothesis import given
from hypothesis import strategies as st

from qcvl.doctor.survey import check_data
from qcvl.errors import RecordError
from qcvl.schema.records import Record

LINE = json.dumps(
    {
        "images": ["a.png", "b.png"],
        "width": [60, 60],
        "height": 40,
        "summary": "螺丝 x1, cable x1",
        "metadata": {"group": "G1", "label": "pass"},
        "objects": [
            {"bbox_2d": [10, 10, 30, 20], "desc": "螺丝"},
            {"quad": [1, 1, 9, 1, 9, 9, 1, 9], "desc": "label", "image": 1},
            {"poly": [[0, 0], [9, 0], [4, 7]], "poly_points": 3, "desc": "gland"},
            {"line": [0, 0, 5, 5, 9.5, 0], "line_points": 3, "desc": "cable"},
        ],
    },
    ensure_ascii=False,
).encode()
WORDS = b'{ } [ ] " , : \\ 0 -1 1e999 1e308 -1e308 NaN null true "" [] {} "desc" "bbox_2d" "line" "image" \xff'
HOSTILE = [b"\x00", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"9" * 23, b"[" * 2000, b" ", b"\n", "图".encode()]
PIECES = [*WORDS.split(), *HOSTILE]
JUNK = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    -1e-308,
    "",
    " ",
    "a\nb",
    [],
    {},
    [[]],
    [1, 2],
    [[1, 2], [3]],
    {"a": 1},
    "x" * 5000,
]


def mutated(rng: random.Random) -> bytes:
    """The line with some bytes cut, moved or put in, or with some value of its JSON replaced."""
    if rng.random() < 0.5:
        text = bytearray(LINE)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(text) + 1)
            text[start : start + rng.choice([0, 0, 1, 2, 30])] = rng.choice([b"", rng.choice(PIECES), rng.randbytes(1)])
        return bytes(text)
    raw = json.loads(LINE)
    for _ in range(rng.randint(1, 3)):
        node = raw
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            if isinstance(node[key], dict | list) and rng.random() < 0.7:
                node = node[key]
                continue
            node[key] = copy.deepcopy(rng.choice(JUNK))
            break
    return json.dumps(raw).encode()


def outcome(text) -> str:
    """``record`` or the error's text; any other exception fails the test."""
    try:
        record = Record.from_json(text, "x.jsonl", 7)
    except RecordError as error:
        assert str(error).startswith("x.jsonl:7: ")
        return str(error)
    assert Record.from_json(record.to_json(), "x.jsonl", 7) == record
    return "record"


def test_ten_thousand_mutated_lines_are_records_or_record_errors():
    rng = random.Random(5)
    outcomes = [outcome(mutated(rng)) for _ in range(10_000)]
    assert 500 < outcomes.count("record") < 9_500 and len(set(outcomes)) > 300


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
junk = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
rows = st.dictionaries(st.sampled_from(["images", "objects", "width", "height"]), junk)


@given(st.binary() | st.text() | junk.map(json.dumps) | rows.map(json.dumps))
def test_no_text_bytes_or_json_gives_anything_but_a_record_error(text):
    outcome(text)


def test_the_doctor_and_its_repairs_go_through_mutated_files(check, folder):
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    rng = random.Random(6)
    lines = [mutated(rng).replace(b"\n", b" ") for _ in range(1500)]
    (folder / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    source = check.data_of(train=str(folder / "train.jsonl"), val=str(folder / "train.jsonl"), sampling="mixed")
    report = check_data(source, check.survey_of(decode=True, fix=True, group_by="group", folder=folder / "run"))
    counted = report.sources["train/train"]
    assert 0 < counted.records < 1500 and report.count("error") > 300
    named = {json.loads(line)["line"] for line in (folder / "run/findings.jsonl").read_text().splitlines()}
    assert len(named) > 500
    copy = check.data_of(train=str(report.fixed["train/train"]), val=None, sampling="mixed")
    assert check_data(copy, check.survey_of(decode=True)).count("error") == 0
