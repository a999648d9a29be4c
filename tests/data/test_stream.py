"""Shards and streams: where records lie, in which order, and that nothing before a position is needed to go on."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcvl.data.blocks import Blocks
from qcvl.data.shards import JsonlShard, Place, RowGroups, TableShard, open_shards, stamp_of
from qcvl.data.stream import START, Position, Stream
from qcvl.errors import DataError, RecordError


def line(name: str) -> bytes:
    return json.dumps({"images": [f"{name}.png"], "objects": []}).encode() + b"\n"


def write_shards(folder: Path, sizes: list[int], suffix: str = ".jsonl") -> list[Path]:
    """Shards of so many records each; record ``n`` of shard ``s`` shows the photo ``s-n.png``."""
    paths = [folder / f"part-{number:02}{suffix}" for number in range(len(sizes))]
    for number, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if suffix == ".jsonl":
            path.write_bytes(b"".join(line(f"{number}-{record}" + "x" * (record % 3)) for record in range(size)))
        else:
            write_table(path, [{"images": [f"{number}-{record}.png"], "objects": []} for record in range(size)], 3)
    return paths


def write_table(path: Path, rows: list[dict], group: int) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    schema = None if rows else pa.schema([("images", pa.list_(pa.string()))])
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)


def stream_of(folder: Path, seed: int = 0, number: int = 0, path: str | None = None) -> Stream:
    return Stream(tuple(open_shards(path or str(folder), "jsonl", None, 8)), seed, number)


def plain_order(shards: list[list], seed: int, number: int, count: int) -> list:
    """The first ``count`` records of a stream of these shards, by the rule and without positions."""
    shown, lap = [], 0
    while len(shown) < count:
        for shard in np.random.default_rng([5, seed, number, lap]).permutation(len(shards)).tolist():
            shown += shards[shard]
        lap += 1
    return shown[:count]


def names(stream: Stream, found) -> list[str]:
    return [Path(stream.record(*place).images[0]).stem.rstrip("x") for place in found]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("count", [1, 4, 7, 30])
def test_a_stream_shows_its_shards_in_the_order_of_each_lap_however_it_is_cut(tmp_path, suffix, count):
    write_shards(tmp_path, [4, 1, 0, 6], suffix)
    stream = stream_of(tmp_path, seed=7, number=2)
    shards = [[f"{shard}-{record}" for record in range(size)] for shard, size in enumerate([4, 1, 0, 6])]
    shown, position = [], START
    while len(shown) < 40:
        found, position = stream.take(position, count)
        assert len(found) == count
        shown += names(stream, found)
    assert shown == plain_order(shards, 7, 2, len(shown))


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5).filter(any), st.integers(1, 9), st.integers(0, 5))
def test_every_record_of_a_lap_is_shown_once_in_each_lap(tmp_path_factory, sizes, size, seed):
    folder = tmp_path_factory.mktemp("laps")
    write_shards(folder, sizes)
    stream, total = stream_of(folder, seed), sum(sizes)
    blocks = Blocks(streams=[stream], weights=[1.0], size=size, seed=seed)
    shown: dict[int, tuple[int, Place]] = {}  # by number in the stream
    number, positions = 0, blocks.start
    while len(shown) < 3 * total:
        block = blocks.read(number, positions)
        for place in blocks.order(number).tolist():
            key = block.keys[place]
            assert key.number not in shown
            shown[key.number] = (key.shard, key.place)
        number, positions = number + 1, block.after
    everything = sorted((shard, place) for shard, one in enumerate(stream.shards) for place in one.places())
    assert len(everything) == total
    for lap in range(3):
        assert sorted(shown[lap * total + place] for place in range(total)) == everything


@given(st.lists(st.sampled_from([b"", b"  ", b"{}", b"x" * 40]), max_size=9), st.booleans(), st.booleans())
def test_places_are_the_lines_of_a_file_but_for_blank_ones_at_its_end(tmp_path_factory, lines, bom, newline):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    content = b"\xef\xbb\xbf" * bom + b"\n".join(lines) + b"\n" * newline
    path.write_bytes(content)
    shard = JsonlShard(path, stamp_of(path), "jsonl", None)
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    places = list(shard.places())
    found = [content[place.start : place.start + place.size] for place in places]
    assert [text.removeprefix(b"\xef\xbb\xbf").rstrip(b"\n") for text in found] == kept
    assert [place.line for place in places] == list(range(1, len(kept) + 1))
    for number, place in enumerate(places):
        assert list(shard.places(place.start, place.line)) == places[number:]


def test_a_record_far_behind_is_found_without_reading_what_is_before_it(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    lines = [line(f"{number:06}") for number in range(20_000)]
    path.write_bytes(b"".join(lines))
    read = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def seek(self, place):
            self.file.seek(place)

        def __iter__(self):
            for text in self.file:
                read.append(text)
                yield text

    opened = JsonlShard._opened
    monkeypatch.setattr(JsonlShard, "_opened", lambda shard: Counted(opened(shard)))
    start = len(b"".join(lines[:15_000]))
    found, after = stream_of(tmp_path).take(Position(0, 0, start, 15_001), 10)
    assert read == lines[15_000:15_010]
    assert [place.line for _, place in found] == list(range(15_001, 15_011))
    assert after == Position(0, 0, start + sum(map(len, lines[15_000:15_010])), 15_011)


def test_only_row_groups_around_the_records_asked_for_are_read(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path / "a.parquet", [{"images": [f"{row}.png"], "objects": []} for row in range(1000)], 10)
    read = []

    class Counted(parquet.ParquetFile):
        def read_row_group(self, number, **given):
            read.append(number)
            return super().read_row_group(number, **given)

    monkeypatch.setattr(parquet, "ParquetFile", Counted)
    stream = stream_of(tmp_path)
    found, _ = stream.take(Position(0, 0, 715, 716), 8)
    assert read == []  # places are known from the footer
    shuffled = [found[place] for place in np.random.default_rng(0).permutation(8)]
    assert sorted(names(stream, shuffled)) == [str(row) for row in range(715, 723)]
    assert sorted(read) == [71, 72]  # each once, though the order goes back and forth between them


def test_row_groups_at_hand_stay_within_about_the_rows_of_a_block(tmp_path):
    write_table(tmp_path / "a.parquet", [{"images": [f"{row}.png"], "objects": []} for row in range(100)], 10)
    groups = RowGroups(25)
    for number in range(10):
        groups.get(tmp_path / "a.parquet", number)
        assert sum(map(len, groups._kept.values())) < 25 + 2 * 10
    assert [key[1] for key in groups._kept] == [6, 7, 8, 9]


def test_the_first_records_of_a_stream_alone_make_its_laps(tmp_path):
    write_shards(tmp_path, [4, 3, 5])
    stream = stream_of(tmp_path).first(6)
    found, _ = stream.take(START, 12)
    expected = ["0-0", "0-1", "0-2", "0-3", "1-0", "1-1"]
    shown = names(stream, found)
    assert sorted(shown[:6]) == sorted(shown[6:]) == expected
    assert len(stream_of(tmp_path).first(99).take(START, 24)[0]) == 24
    write_table(tmp_path / "t.parquet", [{"images": [f"{row}.png"], "objects": []} for row in range(9)], 4)
    table = stream_of(tmp_path, path=f"{tmp_path}/t.parquet").first(5)
    assert names(table, table.take(START, 5)[0]) == ["0", "1", "2", "3", "4"]


def test_a_path_means_a_file_a_folder_or_a_pattern(tmp_path):
    write_shards(tmp_path, [1, 1, 1])
    write_table(tmp_path / "z.parquet", [{"images": ["a.png"], "objects": []}], 1)
    (tmp_path / "notes.txt").write_text("not a shard")

    def found(path: str) -> list[str]:
        return [shard.path.name for shard in open_shards(path, "jsonl", None, 8)]

    assert found(str(tmp_path)) == ["part-00.jsonl", "part-01.jsonl", "part-02.jsonl", "z.parquet"]
    assert found(f"{tmp_path}/part-0[12].jsonl") == ["part-01.jsonl", "part-02.jsonl"]
    assert found(f"{tmp_path}/part-01.jsonl") == ["part-01.jsonl"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none-*.jsonl", r"none-\*.jsonl: no shard was found; expected a .jsonl or .parquet file, a folder of them"),
        ("absent.jsonl", r"absent.jsonl: no shard was found"),
        ("a.jsonl.gz", r"a.jsonl.gz: is no shard .* unpack it: a packed file cannot be read from its middle"),
        ("a.csv", r"a.csv: is no shard of a stream, which are .jsonl and .parquet files"),
    ],
)
def test_what_is_no_shard_is_refused(tmp_path, name, message):
    if "*" not in name and "absent" not in name:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RecordError, match=message):
        open_shards(str(tmp_path / name), "jsonl", None, 8)


def test_lines_and_rows_of_the_record_contract_are_the_same_records(tmp_path, scenes):
    rows = [json.loads(text) for text in (scenes / "en.jsonl").read_text().splitlines()]
    write_table(tmp_path / "en.parquet", rows, 3)
    lines = JsonlShard(scenes / "en.jsonl", stamp_of(scenes / "en.jsonl"), "jsonl", None)
    table = TableShard(tmp_path / "en.parquet", stamp_of(tmp_path / "en.parquet"), "jsonl", scenes, RowGroups(9))
    pairs = list(zip(lines.places(), table.places(), strict=True))
    assert len(pairs) == 8
    for one, other in pairs:
        first, second = lines.record(one), table.record(other)
        assert (first.annotations, first.summary, first.sizes) == (second.annotations, second.summary, second.sizes)
        assert first.image_path() == Path(second.image_path()) and first.line == second.line


def test_rows_may_hold_the_bytes_of_their_photos(tmp_path, scenes):
    content = (scenes / "en_0.png").read_bytes()
    rows = [{"images": [{"bytes": content, "path": None}], "objects": [{"bbox_2d": [1, 2, 30, 40], "desc": "nut"}]}]
    write_table(tmp_path / "a.parquet", rows, 1)
    stream = stream_of(tmp_path)
    (record,) = (stream.record(*place) for place in stream.beginning(9))
    assert record.images[0].startswith("data:image/png;base64,") and record.annotations[0].desc == "nut"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_messages_are_read_from_lines_and_rows_alike(tmp_path, suffix):
    parts = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": "What is broken?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "A clip"}]}]
    path = tmp_path / f"chat{suffix}"
    if suffix == ".jsonl":
        path.write_text(json.dumps({"messages": turns}) + "\n")
    else:
        write_table(path, [{"messages": turns}], 1)
    (shard,) = open_shards(str(path), "messages", None, 8)
    (record,) = map(shard.record, shard.places())
    assert record.images == (f"{tmp_path}/a.png",) and [message.role for message in record.messages] == [
        "user",
        "assistant",
    ]
    assert (record.path, record.line) == (path, 1)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_bad_record_is_named_with_its_line_also_from_a_position_behind_it(tmp_path, suffix):
    rows = [{"images": [f"{row}.png"], "objects": [{"bbox_2d": [1, 2, 30, 40], "desc": "nut"}]} for row in range(9)]
    rows[6]["objects"][0]["bbox_2d"] = [1, 2, 3]
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_table(path, rows, 4)
    stream = stream_of(tmp_path)
    _, position = stream.take(START, 5)
    found, _ = stream.take(position, 2)
    assert stream.record(*found[0]).line == 6
    with pytest.raises(RecordError) as caught:
        stream.record(*found[1])
    assert str(caught.value).startswith(f"{path}:7: objects[0].bbox_2d has 3 numbers")
    assert (caught.value.path, caught.value.line) == (path, 7)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_shard_that_changes_under_a_run_stops_it(tmp_path, suffix):
    (path,) = write_shards(tmp_path, [4], suffix)
    stream = stream_of(tmp_path)
    found, position = stream.take(START, 2)
    write_shards(tmp_path, [9], suffix)
    for read in (lambda: stream.take(position, 2), lambda: stream.record(*found[0])):
        with pytest.raises(DataError, match=f"{path} was changed while it was in use"):
            read()


def test_shards_that_all_become_empty_do_not_loop_for_ever(tmp_path):
    (path,) = write_shards(tmp_path, [0])
    with pytest.raises(DataError, match=f"{path}: no shard of this source has a record"):
        stream_of(tmp_path).take(START, 1)


def test_sources_are_shown_in_proportion_to_their_weights_and_each_in_its_own_order(tmp_path):
    for name, count in (("a", 50), ("b", 70)):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, [count])
    streams = [stream_of(tmp_path / name, 3, number) for number, name in enumerate("ab")]
    blocks = Blocks(streams=streams, weights=[1.0, 3.0], size=64, seed=3)
    positions, keys = blocks.start, []
    for number in range(60):
        block = blocks.read(number, positions)
        expected = np.random.default_rng([6, 3, number]).choice(2, 64, p=[0.25, 0.75])  # the rule, a second time
        assert [key.source for key in block.keys] == expected.tolist()
        positions, keys = block.after, [*keys, *block.keys]
    share = np.mean([key.source for key in keys])
    assert abs(share - 0.75) < 4 * np.sqrt(0.25 * 0.75 / len(keys))  # four standard deviations
    for number, stream in enumerate(streams):
        places = [(key.shard, key.place) for key in keys if key.source == number]
        assert places == stream.take(START, len(places))[0]
    assert [key.number for key in keys] == list(range(60 * 64))


def test_a_shard_may_be_pickled_and_reads_the_same(tmp_path):
    write_shards(tmp_path, [5], ".parquet")
    stream = stream_of(tmp_path)
    found, _ = stream.take(START, 5)
    before = names(stream, found)
    again = pickle.loads(pickle.dumps(stream))
    assert not again.shards[0].groups._kept and names(again, found) == before
