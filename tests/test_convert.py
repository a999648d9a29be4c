import cv2
import numpy as np
import pytest

from qcvl import config
from qcvl.convert import convert
from qcvl.doctor.survey import check_data, quick
from qcvl.errors import ConfigError, DataError
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
    with pytest.raises(ConfigError, match="format: deepcb is unknown; expected deeppcb or the dotted path of a reader"):
        run(tmp_path, "format=deepcb", "input=x")


def test_a_reader_from_outside_works_by_its_path_once_its_package_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_formats.py").write_text(
        "from qcvl.schema.records import Record\n"
        "def read(root, split, folder):\n"
        "    yield Record(images=(f'{root.name}_{split}.png',), summary='mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = ("format=my_formats.read", "input=/data/set")
    with pytest.raises(ConfigError, match="format: my_formats.read is not allowed"):
        run(tmp_path, *given)
    (record,) = read_records(run(tmp_path, *given, "trusted_targets=[my_formats]", "split=val"))
    assert (record.images, record.summary) == (("set_val.png",), "mine")
