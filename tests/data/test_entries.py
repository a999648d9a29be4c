"""Values of other tools' files, and the words in which a wrong one is refused."""

import pytest

from qcvl.data.entries import Entry, read_json_lines, read_lines
from qcvl.errors import RecordError

TOP = Entry({"images": [{"width": 640, "name": "a.png", "points": [1, 2, 3, 4]}]}, "a.json", 7)


def test_a_value_knows_the_way_to_itself():
    assert TOP["images"][0]["points"][1].field == "images[0].points[1]"
    assert TOP["images"][0].where == "a.json:7: images[0]"
    assert TOP.where == "a.json:7" and TOP.field is None
    assert [entry.field for entry in TOP["images"][0]["points"]] == [f"images[0].points[{index}]" for index in range(4)]


@pytest.mark.parametrize(
    ("value", "least", "found"),
    [(640, 1, 640), (640.0, 1, 640), ("640", 1, 640), (" 12 ", 1, 12), (0, 0, 0)],
)
def test_a_whole_number_may_be_written_as_text(value, least, found):
    assert Entry(value, "a.json").whole(least) == found


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (Entry.number, "x", "is the string 'x'; expected a number"),
        (Entry.number, "nan", "is the string 'nan'; expected a finite number"),
        (Entry.number, True, "is true; expected a finite number"),
        (Entry.number, None, "is null; expected a finite number"),
        (Entry.number, 10**400, "is the number 1000"),
        (Entry.whole, 1.5, "is the number 1.5; expected a whole number from 1 on"),
        (Entry.whole, -1, "is the number -1; expected a whole number from 1 on"),
        (Entry.text, 3, "is the number 3; expected text"),
        (Entry.text, " ", "is empty; expected text"),
        (Entry.numbers, {}, "is an object; expected a list"),
        (Entry.numbers, [1, "x"], "[1] is the string 'x'; expected a number"),
        (Entry.pairs, [1, 2, 3], "has 3 numbers; expected x, y pairs"),
        (Entry.pairs, [[1, 2], [3]], "[1] has 1 numbers; expected 2"),
        (Entry.mapping, [], "is a list; expected an object"),
        (lambda entry: entry["key"], [], "is a list; expected an object with the key key"),
        (lambda entry: entry["key"], {"key": None}, "key is missing; the format needs it"),
        (lambda entry: entry[0], {}, "is an object; expected a list"),
    ],
)
def test_a_wrong_value_is_refused(read, value, message):
    with pytest.raises(RecordError) as caught:
        read(Entry(value, "a.json"))
    text = str(caught.value)
    assert text.startswith(f"a.json: {message}")


def test_pairs_come_flat_or_nested():
    assert Entry([1, 2, 3, 4], "a").pairs() == Entry([[1, 2], [3, 4]], "a").pairs() == [[1, 2], [3, 4]]
    assert Entry([], "a").pairs() == []


def test_only_line_feeds_end_lines_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still\x0bone\r\n\n  \nfour".encode())
    assert [(line.line, line.value) for line in read_lines(path)] == [(1, "one\u2028still\x0bone"), (4, "four")]


def test_files_that_cannot_be_read_say_why(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(RecordError, match=r"a\.jsonl: is not UTF-8 text \(byte 7\); save it as UTF-8"):
        list(read_json_lines(path))
    path.write_text('{"a": 1}\n{"a": }\n')
    with pytest.raises(RecordError, match=r"a\.jsonl:2: is not valid JSON \(.* at column 7\)"):
        list(read_json_lines(path))
    with pytest.raises(RecordError, match=r"cannot be read \(Is a directory\)"):
        Entry.of_json(tmp_path)
