import json

import cv2
import numpy as np
import pytest

from qcvl import config
from qcvl.convert import convert
from qcvl.data.encode import Encoder
from qcvl.data.samples import build_sample
from qcvl.doctor.survey import check_data, quick
from qcvl.errors import ConfigError, DataError
from qcvl.schema.answer import DEFAULT_FORMAT
from qcvl.schema.prompts import TaskPrompt
from qcvl.schema.records import read_records


@pytest.fixture
def boards(tmp_path):
    """One made-up DeepPCB pair for training and another for validation."""
    top = tmp_path / "boards" / "PCBData"
    (top / "group1/1").mkdir(parents=True)
    (top / "group1/1_not").mkdir()
    for name, listing, number in (("01", "trainval", 1), ("02", "test", 6)):
        for kind in ("test", "temp"):
            cv2.imwrite(str(top / f"group1/1/{name}_{kind}.jpg"), np.zeros((80, 90), np.uint8))
        (top / f"group1/1_not/{name}.txt").write_text(f"10 10 30 40 {number}\n40 50 60 70 {number}\n")
        (top / f"{listing}.txt").write_text(f"group1/1/{name}.jpg group1/1_not/{name}.txt")
    return top.parent


def run(tmp_path, *overrides):
    output = f"paths.output_dir={tmp_path}/run"
    return convert(config.load("convert", [f"output={tmp_path}/out/all.jsonl", output, *overrides]))


@pytest.mark.parametrize(("split", "desc"), [("train", "open"), ("val", "pin-hole")])
def test_whole_photos_of_one_list_become_records_that_pass_the_check(boards, tmp_path, capsys, split, desc):
    path = run(tmp_path, "format=deeppcb", f"input={boards}", f"split={split}")
    (record,) = read_records(path)
    assert [note.desc for note in record.annotations] == [desc] * 2
    data = config.build(config.load("check", [f"data.{split}={path}", "data.sampling=mixed"])).data
    report = check_data(data, quick(data))
    assert report.findings == () and report.sources[f"{split}/{split}"].photo_sizes == {"90x80": 2}
    printed = capsys.readouterr().out
    assert "1 records with 2 objects" in printed and f"python -m qcvl.check data.{split}={path}" in printed


def test_an_existing_file_is_left_as_it_is(boards, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/all.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"output: .*all\.jsonl exists and is left as it is"):
        run(tmp_path, "format=deeppcb", f"input={boards}")
    assert (tmp_path / "out/all.jsonl").read_text() == "mine"


def test_a_conversion_that_fails_leaves_no_file(boards, tmp_path):
    (boards / "PCBData/group1/1_not/01.txt").write_text("nonsense")
    with pytest.raises(DataError, match=r"01\.txt:1"):
        run(tmp_path, "format=deeppcb", f"input={boards}")
    (boards / "PCBData/trainval.txt").write_text("")
    with pytest.raises(DataError, match="no records in split=train"):
        run(tmp_path, "format=deeppcb", f"input={boards}")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="format: deepcb is unknown; expected .* deeppcb, .* dotted path of a reader"):
        run(tmp_path, "format=deepcb", "input=x")
    with pytest.raises(ConfigError, match="to: dota is unknown; expected coco, jsonl, labelme"):
        run(tmp_path, "format=deeppcb", "input=x", "to=dota")


def test_a_reader_from_outside_works_by_its_path_once_its_package_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_formats.py").write_text(
        "from qcvl.schema.records import Record\n"
        "def read(path, split, root):\n"
        "    yield Record(images=(f'{path.name}_{split}.png',), summary='mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ("format=my_formats.read", "input=/data/set")
    with pytest.raises(ConfigError, match="format: my_formats.read is not allowed"):
        run(tmp_path, *given)
    (record,) = read_records(run(tmp_path, *given, "trusted_targets=[my_formats]", "split=val"))
    assert (record.images, record.summary) == (("set_val.png",), "mine")


def test_jsonl_becomes_coco_and_comes_back_with_what_was_dropped_printed(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), np.zeros((50, 100), np.uint8))
    kept = [{"bbox_2d": [1, 2, 3.5, 4], "desc": "螺丝"}, {"quad": [0, 0, 9, 0, 9, 9, 0, 9], "desc": "plate"}]
    line = {"line_points": 2, "line": [0, 0, 9, 9], "desc": "cable"}
    bow_tie = {"quad": [0, 0, 9, 9, 9, 0, 0, 9], "desc": "plate"}
    record = {"images": ["a.png"], "width": 100, "height": 50, "objects": [*kept, line, bow_tie], "summary": "one"}
    (tmp_path / "in/all.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    coco = run(tmp_path, "format=jsonl", "to=coco", f"input={tmp_path}/in/all.jsonl", f"output={tmp_path}/coco.json")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        f"1 records with 4 objects: {coco}",
        f"note 1 x line, which COCO has no place for, first {tmp_path}/in/all.jsonl:1: objects[2]",
        f"note 1 x outline that crosses itself, which has no mask, first {tmp_path}/in/all.jsonl:1: objects[3]",
    ]
    assert printed[3] == f"next python -m qcvl.check data.train={coco} data.format=coco decode=true"
    back = run(tmp_path, "format=coco", f"input={coco}", f"output={tmp_path}/back.jsonl")
    assert json.loads(back.read_text()) == {
        "images": ["in/a.png"],
        "width": 100,
        "height": 50,
        "summary": "one",
        "objects": kept,
    }


def test_labelme_files_are_a_folder_that_replaces_an_interrupted_draft(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), np.zeros((50, 100), np.uint8))
    line = {"images": ["a.png"], "width": 100, "height": 50, "objects": [{"line": [0, 0, 9, 9], "desc": "cable"}]}
    (tmp_path / "in/all.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / ".labels.draft").mkdir()
    (tmp_path / ".labels.draft/left.json").touch()
    given = ("format=jsonl", "to=labelme", f"input={tmp_path}/in/all.jsonl", f"output={tmp_path}/labels")
    folder = run(tmp_path, *given)
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".draft")] == []
    assert [file.name for file in folder.iterdir()] == ["a.json"]
    (printed,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("next")]
    assert printed.endswith(f"data.train={folder} data.format=labelme data.root={tmp_path}/in decode=true")
    back = run(tmp_path, "format=labelme", f"input={folder}", f"root={tmp_path}/in", f"output={tmp_path}/back.jsonl")
    assert json.loads(back.read_text())["images"] == ["in/a.png"]
    assert read_records(back)[0].annotations == read_records(tmp_path / "in/all.jsonl")[0].annotations


def test_records_are_moved_to_another_folder_of_photos(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"images": ["x/a.png"], "objects": []}\n')
    given = ("format=jsonl", f"input={tmp_path}/all.jsonl")
    plain = run(tmp_path, *given, f"output={tmp_path}/deep/plain.jsonl")
    moved = run(tmp_path, *given, f"output={tmp_path}/deep/moved.jsonl", f"root={tmp_path}/deep/photos")
    assert read_records(plain)[0].images == (f"{tmp_path}/x/a.png",)
    assert read_records(moved)[0].images == ("photos/x/a.png",)


def test_a_reader_that_keeps_nothing_says_why(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/P.txt").touch()
    with pytest.raises(DataError, match="no records in split=train; 1 x label file without objects and without photo"):
        run(tmp_path, "format=dota", f"input={tmp_path}/in")


TEXTS = ("What is this?", "是否合格？" * 9, "Say more.", "a " * 60, "Why?")


@pytest.fixture
def talks(tmp_path):
    """A file of five conversations of several lengths, the first and the last about a photo."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((128, 128, 3), np.uint8))
    lines = []
    for number, text in enumerate(TEXTS):
        photo = number in (0, 4)
        parts = [{"type": "image"}] * photo + [{"type": "text", "text": text}]
        turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Yes."}]
        lines.append(json.dumps({"images": ["a.png"] * photo, "messages": turns}) + "\n")
    (tmp_path / "talks.jsonl").write_text("".join(lines))
    return tmp_path / "talks.jsonl"


@pytest.mark.parametrize(("packing_length", "count"), [(60, 4), (90, 3), (300, 1)])
def test_conversations_are_written_in_packs_that_fit_and_are_read_back_one_by_one(
    talks, tmp_path, capsys, packing_length, count
):
    given = ("format=jsonl", "to=qwen_conversations", "model=tiny", f"input={talks}", f"output={tmp_path}/packs.json")
    path = run(tmp_path, *given, f"packing_length={packing_length}")
    packs = json.loads(path.read_text())
    assert len(packs) == count
    sizes = tokens(tmp_path, talks)
    where = {json.dumps(row["conversations"]): size for row, size in zip(plain(tmp_path, talks), sizes, strict=True)}
    sums = [sum(where[json.dumps(row["conversations"])] for row in pack) for pack in packs]
    assert sum(map(len, packs)) == len(TEXTS) and sum(sums) == sum(sizes)
    assert all(total <= packing_length or len(pack) == 1 for total, pack in zip(sums, packs, strict=True))
    long = [number for number, size in enumerate(sizes, 1) if size > packing_length]
    said = f"note {len(long)} x sample of more than packing_length=60 tokens, a pack of its own, first {talks}:4"
    assert (said in capsys.readouterr().out.splitlines()) == (packing_length == 60)
    back = run(tmp_path, "format=qwen_conversations", f"input={path}", f"output={tmp_path}/back.jsonl")
    assert {record.messages for record in read_records(back)} == {record.messages for record in read_records(talks)}


def test_packs_need_their_format_and_a_model(talks, tmp_path):
    def run(tmp_path, *overrides):
        config.check_compatible(config.load("convert", [f"output={tmp_path}/x", *overrides]))

    with pytest.raises(ConfigError, match="packing_length: coco has no packs; use to=qwen_conversations"):
        run(tmp_path, "format=jsonl", "to=coco", f"input={talks}", "packing_length=90")
    with pytest.raises(ConfigError, match="packing_length: tokens are those of a model; add model=qwen3_vl_4b"):
        run(tmp_path, "format=jsonl", "to=qwen_conversations", f"input={talks}", "packing_length=90")


def plain(tmp_path, talks):
    """The samples as they are written without packs."""
    given = ("format=jsonl", "to=qwen_conversations", f"input={talks}", f"output={tmp_path}/plain.json")
    return json.loads(run(tmp_path, *given).read_text())


def tokens(tmp_path, talks):
    """How many tokens each conversation has once its photo is read and encoded."""
    loaded = config.load("convert", ["format=jsonl", f"input={talks}", f"output={tmp_path}/x", "model=tiny"])
    encoder = Encoder(
        processing=config.build(loaded).model.load_processing(),
        answer_format=DEFAULT_FORMAT,
        max_length=4096,
        overlong="error",
        classes={},
    )
    asked = TaskPrompt(system="", user="")
    samples = [build_sample(record, "chat", None, None) for record in read_records(talks)]
    return [len(encoder(sample, asked, "a talk").input_ids) for sample in samples]
