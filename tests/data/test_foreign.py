"""Samples of other tools' files: where they stand, how their images are named, and how files are written."""

import base64
import io
import json

import pytest
from PIL import Image

from qcvl.data.foreign import image_value, read_rows, records_of, remaining, write_rows
from qcvl.data.reading import file_name
from qcvl.errors import DataError, RecordError
from qcvl.schema.records import Record

SAMPLES = [{"a": 1, "b": None}, {"a": 2}, {"a": 3}]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(path, split="train"):
    return [(row.fields.get("a"), row.line, row.entry) for row in read_rows(path, split)]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_and_lines_hold_the_same_samples_each_with_its_place(tmp_path, mark):
    (tmp_path / "list.json").write_text(mark + json.dumps(SAMPLES, indent=1), encoding="utf-8")
    (tmp_path / "short.json").write_text(mark + json.dumps(SAMPLES), encoding="utf-8")
    lines = mark + "\n\n".join(map(json.dumps, SAMPLES)) + "\n"  # blank lines are passed over
    for name in ("lines.jsonl", "lines.json"):
        (tmp_path / name).write_text(lines, encoding="utf-8")
    in_list = [(1, None, "[0]"), (2, None, "[1]"), (3, None, "[2]")]
    assert rows(tmp_path / "list.json") == rows(tmp_path / "short.json") == in_list
    assert rows(tmp_path / "lines.jsonl") == rows(tmp_path / "lines.json") == [(1, 1, ""), (2, 3, ""), (3, 5, "")]


def test_packed_lists_are_their_samples_one_after_another(tmp_path):
    (tmp_path / "packed.json").write_text(json.dumps([SAMPLES[:2], SAMPLES[2]]))
    assert rows(tmp_path / "packed.json") == [(1, None, "[0][0]"), (2, None, "[0][1]"), (3, None, "[1]")]
    (tmp_path / "packed.jsonl").write_text(json.dumps(SAMPLES[:2]) + "\n" + json.dumps(SAMPLES[2:]))
    assert rows(tmp_path / "packed.jsonl") == [(1, 1, "[0]"), (2, 1, "[1]"), (3, 2, "[0]")]


def test_one_object_over_many_lines_is_one_sample(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(SAMPLES[1], indent=4))
    assert rows(tmp_path / "one.json") == [(2, None, "")]


def test_fields_that_are_null_are_left_out(tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps(SAMPLES[0]))
    assert [row.fields for row in read_rows(tmp_path / "one.jsonl", "train")] == [{"a": 1}]


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_tables_are_read_without_the_nulls_that_fill_them(tmp_path, name):
    import pyarrow as pa
    from pyarrow import ipc, parquet

    samples = [{"a": n, "parts": [{"text": "x"}, {"url": "y"}]} for n in range(600)]
    table = pa.Table.from_pylist(samples)
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(table, path)
    else:
        make = ipc.new_file if name == "file.arrow" else ipc.new_stream
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    found = list(read_rows(path, "train"))
    assert [row.fields for row in found] == samples and found[599].entry == "[599]"


def test_a_damaged_table_is_named(tmp_path):
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"PAR1 and nothing more")
        with pytest.raises(DataError, match=rf"{name} cannot be read as {name[2:]}"):
            list(read_rows(tmp_path / name, "train"))


def test_tables_without_pyarrow_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: \.parquet files need pyarrow; pip install 'qcvl\[arrow\]'"):
        list(read_rows(tmp_path / "a.parquet", "train"))


def test_of_a_folder_the_files_of_one_split_are_read_in_order(tmp_path):
    for name, value in (("train-00001.jsonl", 2), ("train-00000.jsonl", 1), ("validation.json", 3), ("train.txt", 4)):
        (tmp_path / name).write_text(json.dumps({"a": value}))
    assert [a for a, *_ in rows(tmp_path)] == [1, 2]
    assert [a for a, *_ in rows(tmp_path, "val")] == [3]


def test_what_is_no_file_of_samples_is_refused_with_what_is_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    expected = {
        tmp_path / "absent.json": r"absent\.json not found; expected a file of samples \(\.json, \.jsonl, ",
        tmp_path / "notes.txt": r"notes\.txt: expected a file of samples",
        tmp_path: r"holds no train\* file of samples .*; name the file itself",
    }
    for path, message in expected.items():
        with pytest.raises(DataError, match=message):
            list(read_rows(path, "train"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[{"a": 1},\n{"a": }]',
            "x.json:2: is not valid JSON (unexpected character, expected a JSON value at column 7)",
        ),
        ('{"a": 1}\n{"a": 2', "x.json:2: is not valid JSON"),
        ('{"a": 1,\n"b": "\n"}', "x.json:2: is not valid JSON"),
        ("", "x.json:1: is not valid JSON"),
        ("[3]", "x.json: [0] is the number 3; expected a sample"),
        ('"text"', "x.json: is the string 'text'; expected a sample"),
    ],
)
def test_broken_files_are_refused_by_line_or_entry(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecordError) as caught:
        list(read_rows(tmp_path / "x.json", "train"))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)


def test_a_refused_sample_is_named_by_file_line_entry_and_field(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([SAMPLES]))
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))

    def read(row):
        if row.fields["a"] == 3:
            raise RecordError("is 3", field="a")
        return Record(images=("a.png",))

    for name, where in (("x.json", "x.json: [0][2].a is 3"), ("x.jsonl", "x.jsonl:3: a is 3")):
        *others, refusal = records_of(tmp_path / name, "train", read)
        assert len(others) == 2 and isinstance(refusal, RecordError)
        assert str(refusal) == f"{tmp_path}/{where}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("photos/a.jpg", "in/photos/a.jpg"),
        ("../b.jpg", "b.jpg"),
        ("/elsewhere/c.jpg", "/elsewhere/c.jpg"),
        ("../../d.jpg", None),
        ("file:///elsewhere/%E5%9B%BE%201.jpg", "/elsewhere/图 1.jpg"),
        ("https://host/e.jpg", "https://host/e.jpg"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ({"path": "a.jpg", "bytes": None}, "in/a.jpg"),
        ({"path": "a.jpg"}, "in/a.jpg"),
    ],
)
def test_an_image_is_named_by_its_absolute_path_or_url(tmp_path, value, expected):
    found = file_name(image_value(value, tmp_path / "in", "images[0]"), tmp_path)
    assert found == (expected or str(tmp_path.parent / "d.jpg"))


@pytest.mark.parametrize("value", [png(), {"bytes": png(), "path": "gone.png"}])
def test_the_bytes_of_an_image_become_a_data_url(tmp_path, value):
    head, _, content = image_value(value, tmp_path, "images[0]").partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(content) == png()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "images[0] is null; expected an image: a path, a URL, or its bytes"),
        ("", "images[0] is an empty string; expected an image"),
        ({"url": "x"}, "images[0] is an object; expected an image"),
        (b"no image", "images[0] holds 8 bytes that are no image Pillow can read"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, value, message):
    with pytest.raises(RecordError) as caught:
        image_value(value, tmp_path, "images[0]")
    assert str(caught.value).startswith(message)


def test_a_link_is_named_as_it_is_and_not_by_what_it_points_to(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    assert file_name(image_value("near/a.jpg", tmp_path, "images[0]"), tmp_path) == "near/a.jpg"


def test_what_a_conversation_has_no_place_for_is_kept_as_metadata():
    fields = {"images": [], "id": 7, "metadata": {"site": "A"}, "label": "pass"}
    assert remaining(fields, ("images",)) == {"site": "A", "id": 7, "label": "pass"}
    assert remaining({"metadata": "text"}, ()) == {"metadata": "text"}
    with pytest.raises(RecordError, match="blob holds bytes, which JSON has no word for; drop the column"):
        remaining({"blob": b"x"}, ())


@pytest.mark.parametrize("samples", [[], [{"a": "图"}], SAMPLES])
def test_a_written_file_reads_back(tmp_path, samples):
    for name in ("x.json", "x.jsonl"):
        write_rows(tmp_path / name, samples)
        assert [row.fields.get("a") for row in read_rows(tmp_path / name, "x")] == [s.get("a") for s in samples]
