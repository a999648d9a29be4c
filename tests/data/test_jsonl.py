"""Records read when they are asked for: the file's own lines, from an index that is kept and noticed when it is old."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcvl.data.jsonl import JsonlRecords, make_index
from qcvl.data.sources import JsonlSource
from qcvl.errors import ConfigError, DataError, RecordError
from qcvl.schema.records import read_records


def line(number: int, **more) -> str:
    notes = [{"bbox_2d": [0, 0, number + 1, 2], "desc": "光纤" * (number % 3 + 1)}]
    return json.dumps({"images": [f"{number}.jpg"], "objects": notes, "summary": f"s{number}", **more})


@pytest.fixture
def file(tmp_path):
    """``file("a\\n", …)``: a JSONL file of these texts; by default of seven records."""

    def write(*texts: str | bytes, name="some.jsonl"):
        texts = texts or tuple(line(number) + "\n" for number in range(7))
        path = tmp_path / name
        path.write_bytes(b"".join(text if isinstance(text, bytes) else text.encode() for text in texts))
        return path

    return write


def test_records_are_those_of_the_whole_file_read_at_once(file):
    path = file()
    records, whole = JsonlRecords(path), read_records(path)
    assert list(records) == whole and [r.where for r in records] == [r.where for r in whole]
    assert (len(records), records[-1], records[2]) == (7, whole[6], whole[2])
    with pytest.raises(IndexError):
        records[7]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n  \n\t\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_blank_lines_at_the_end_are_no_records(file, ending, mark):
    path = file(mark, line(0) + "\r\n", line(1) + ending)
    assert list(JsonlRecords(path)) == read_records(path) and len(read_records(path)) == 2


@given(st.lists(st.sampled_from(["record", "blank", "bad", "bom"]), max_size=6))
def test_a_file_is_refused_for_the_reason_and_at_the_line_that_reading_it_at_once_gives(tmp_path_factory, kinds):
    texts = {"record": line(3), "blank": "  ", "bad": '{"images": []}', "bom": "\ufeff" + line(1)}
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_text("\n".join(texts[kind] for kind in kinds), encoding="utf-8")

    def outcome(read):
        try:
            return list(read(path))
        except RecordError as error:
            return str(error)

    assert outcome(JsonlRecords) == outcome(read_records)


def test_a_slice_and_a_part_hold_the_same_records_in_their_own_order(file):
    records = JsonlRecords(file())
    assert list(records[2:5]) == [records[index] for index in (2, 3, 4)]
    part = records.part([6, 0, 3])
    assert [record.line for record in part] == [7, 1, 4] and list(part[1:]) == [records[0], records[3]]
    assert dict(records.part([6, 0, 3]).fingerprint) == dict(part.fingerprint)
    prints = [json.dumps(dict(some.fingerprint)) for some in (records, part, records[:3], JsonlRecords(file()))]
    assert len(set(prints)) == 4  # the file written again has another time


def test_an_unchanged_file_is_validated_once_and_a_changed_one_again(file, monkeypatch):
    path = file()
    JsonlRecords(path)
    with monkeypatch.context() as patch:
        patch.setattr("qcvl.data.jsonl.make_index", lambda path: pytest.fail("read again"))
        assert len(JsonlRecords(path)) == 7
    file(*[line(number) + "\n" for number in range(6)], "{}\n")
    with pytest.raises(RecordError, match=r"some.jsonl:7: images is missing"):
        JsonlRecords(path)


def test_a_file_of_equal_size_and_time_but_other_contents_is_another(file):
    path = file()
    before, state = JsonlRecords(path), path.stat()
    path.write_bytes(path.read_bytes().replace(b"s3", b"x3"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size
    assert JsonlRecords(path).fingerprint != before.fingerprint


def test_a_file_written_to_while_it_is_in_use_is_an_error_and_a_replaced_one_is_read_on(file):
    records = JsonlRecords(file())
    expected = list(records)
    other = file("{}\n", name="other.jsonl")
    os.replace(other, records.path)
    assert list(records) == expected  # the file that was opened
    records = JsonlRecords(file(name="third.jsonl"))
    with records.path.open("a") as more:
        more.write(line(8))
    with pytest.raises(DataError, match=r"third.jsonl was changed while it was in use; start the run again"):
        records[0]


def test_a_pickle_is_a_path_and_opens_the_file_again(file):
    records = JsonlRecords(file(*[line(number) + "\n" for number in range(500)]))
    text = pickle.dumps(records)
    assert len(text) < 1000 and list(pickle.loads(text)) == list(records)
    assert list(pickle.loads(pickle.dumps(records.part([4, 2])))) == [records[4], records[2]]
    assert list(pickle.loads(pickle.dumps(records[3:6]))) == list(records[3:6])
    file()
    with pytest.raises(DataError, match="was changed while it was in use"):
        pickle.loads(text)


def test_records_that_lack_something_are_known_without_reading_the_others(file, monkeypatch):
    lines = [json.loads(line(number)) for number in range(6)]
    del lines[1]["summary"], lines[4]["summary"], lines[4]["objects"]
    records = JsonlRecords(file(*(json.dumps(item) + "\n" for item in lines)))
    found = {name: [r.line for r in records.lacking(name, fixed=False)] for name in ("dense", "summary", "mixed")}
    assert found == {"dense": [5], "summary": [2, 5], "mixed": [2, 5]}
    assert [record.line for record in records.part([5, 4, 0]).lacking("summary", fixed=False)] == [5]


def test_the_index_says_where_each_line_starts_and_the_last_one_ends(file):
    texts = ["\ufeff" + line(0) + "\n", line(1) + "\n", line(2) + "\n\n"]
    ends = [len("".join(texts[:count]).encode()) for count in range(4)]
    assert make_index(file(*texts))["start"].tolist() == [3, ends[1], ends[2], ends[3] - 1]


def test_a_source_gives_such_records_and_a_percentage_always_the_same_part(file, make_data):
    path = file(*[line(number) + "\n" for number in range(200)])
    data = make_data(train={"all": str(path), "part": f"{path}%30", "bit": f"{path}%0.1"}, val=f"{path}%12.5")
    opened = {name: source.open() for name, source in data.sources("train").items()}
    part = [record.line for record in opened["part"]]
    assert isinstance(opened["all"], JsonlRecords) and len(opened["all"]) == 200
    assert len(part) == 60 and part == sorted(set(part)) and part[-1] > 150 and part[0] < 50
    assert [record.line for record in data.sources("train")["part"].open()] == part
    assert len(opened["bit"]) == 1 and len(data.sources("val")["val"].open()) == 25
    assert data.sources("train")["part"].path == str(path)  # the file itself, for whoever looks at it


@pytest.mark.parametrize("percent", ["0", "101"])
def test_a_percentage_that_is_none_is_refused(file, make_data, percent):
    with pytest.raises(
        ConfigError, match=rf"some.jsonl%{percent} asks for {percent} percent; give above 0 and at most"
    ):
        make_data(train=f"{file()}%{percent}")


def test_a_file_really_named_with_a_percent_sign_is_that_file(file, make_data):
    path = file(name="half%50")
    assert len(make_data(train=str(path)).sources("train")["train"].open()) == 7


def test_a_second_open_in_another_process_takes_the_kept_index(file):
    path = file()
    source = JsonlSource(path=str(path), repeat=1, task=None, prompts=None)
    assert len(source.open()) == 7
    code = (
        "import sys, qcvl.data.jsonl as jsonl\n"
        "jsonl.make_index = None\n"
        "print([record.line for record in jsonl.JsonlRecords(sys.argv[1])], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2, 3, 4, 5, 6, 7] False"
