import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from qcvl.data.settings import Data
from qcvl.doctor.report import REPORT, make_report, report_tables, write_report

COMMON = {
    "sampling": "dense",
    "dense_share": 0.5,
    "batch_size": 1,
    "token_budget": None,
    "val_batch_size": 1,
    "val_generate": None,
    "num_workers": 0,
    "overlong": "error",
    "max_bad_fraction": 0,
    "sample_limit": None,
    "epoch_samples": None,
    "weights": None,
    "unaugmented": [],
    "max_objects": None,
    "min_pixels": None,
    "max_pixels": None,
    "pair": None,
    "crops": None,
    "cache_mb": 0,
}


def row(group, label, *descs, **more):
    objects = [{"bbox_2d": [1, 1, 5, 5], "desc": desc} for desc in descs]
    return {"images": ["a.png"], "objects": objects, "metadata": {"group": group, "label": label}, **more}


@pytest.fixture
def data(tmp_path):
    """Two training sources and no validation."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    files = {
        "one": [row("G1", "pass", "[red]"), row("G1", "fail", "[red]", "b"), row("G2", "pass", summary="none")],
        "two": [row("G1", None, "b", width=60, height=40), {"images": ["a.png", "a.png"], "objects": []}],
    }
    for name, rows in files.items():
        text = "".join(json.dumps(line) + "\n" for line in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return Data(train={name: str(tmp_path / f"{name}.jsonl") for name in files}, val=None, **COMMON)


def test_a_report_counts_records_objects_descs_sizes_summaries_and_groups(data):
    one, two = make_report(data).sources.values()
    assert (one.records, one.photos, one.summaries, one.problems, one.warnings) == (3, 3, 1, 0, 0)
    assert one.objects == {"bbox_2d": 3, "quad": 0, "poly": 0, "line": 0}
    assert (one.descs, one.distinct_descs) == ({"[red]": 2, "b": 1}, 2)
    assert one.groups == {"pass": 1, "fail": 1, "unlabelled": 0}  # one failed photo fails G1
    assert (two.photos, two.photo_sizes) == (3, {"60x40": 1, "unknown": 2})
    assert two.groups == {"pass": 0, "fail": 0, "unlabelled": 1}


def test_decoding_fills_in_the_sizes(data):
    assert make_report(data, decode=True).sources["train/two"].photo_sizes == {"60x40": 3}


def test_at_most_twenty_descs_are_listed_and_all_are_counted(data, tmp_path):
    text = json.dumps(row("G", "pass", *(f"d{n % 30}" for n in range(45))))
    (tmp_path / "one.jsonl").write_text(text + "\n", encoding="utf-8")
    one = make_report(data).sources["train/one"]
    assert len(one.descs) == 20 and one.distinct_descs == 30
    assert set(list(one.descs)[:15]) == {f"d{n}" for n in range(15)}  # those that occur twice come first


def test_the_report_is_written_as_json_into_the_run_directory(data, tmp_path):
    (tmp_path / "two.jsonl").write_text("{}\n", encoding="utf-8")
    report = write_report(tmp_path / "run", data)
    saved = json.loads((tmp_path / "run" / REPORT).read_text(encoding="utf-8"))
    assert saved["problems"] == list(report.problems) and "two.jsonl:1: images is missing" in saved["problems"][0]
    assert saved["sources"]["train/one"]["records"] == 3 and saved["warnings"] == []


def test_photos_of_both_splits_are_warnings_of_the_validation_source(data):
    both = Data(train=data.train, val=data.train["one"], **COMMON)
    report = make_report(both)
    assert report.sources["val/val"].warnings == len(report.warnings) == 3
    assert report.sources["train/one"].warnings == 0


def test_descs_and_names_that_look_like_markup_are_printed_as_they_are(data):
    console = Console(record=True, width=120)
    named = Data(train={"[bold]": data.train["one"]}, val=None, **COMMON)
    for table in report_tables(make_report(named)):
        console.print(table)
    printed = console.export_text()
    assert "[red]" in printed and "train/[bold]" in printed
