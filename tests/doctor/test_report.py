"""The report: numbers by source, as JSON, as tables and as one page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from qcvl.doctor.numbers import TOP
from qcvl.doctor.page import MAX_BARS, PAGE, bars, write_page
from qcvl.doctor.report import REPORT, report_tables, save_report
from qcvl.doctor.survey import PICTURES, PICTURES_OF_CODE, check_data


def row(group, label, *descs, **more):
    objects = [{"bbox_2d": [1, 1 + 6 * n, 5, 5 + 6 * n], "desc": desc} for n, desc in enumerate(descs)]
    return {"images": ["a.png"], "objects": objects, "metadata": {"group": group, "label": label}, **more}


@pytest.fixture
def two(check, write):
    """The report of two training sources."""
    one = write(row("G1", "pass", "[red]"), row("G1", "fail", "[red]", "b"), row("G2", "pass", summary="none"))
    more = {"images": ["a.png", "a.png"], "objects": []}
    other = write(row("G1", None, "b/x:1", width=60, height=40), more, name="two.jsonl")
    return check_data(check.data_of(train={"one": one, "two": other}, val=None), check.survey_of())


def test_a_report_counts_records_objects_descs_sizes_summaries_and_groups(two):
    one, other = two.sources.values()
    assert (one.records, one.photos, one.summaries, one.errors, one.warnings, one.notes) == (3, 3, 1, 0, 0, 1)
    assert one.objects == {"bbox_2d": 3, "quad": 0, "poly": 0, "line": 0}
    assert (one.descs, one.distinct_descs) == ({"[red]": 2, "b": 1}, 2)
    assert (one.objects_per_photo, one.photos_without_objects) == ({"0": 1, "1": 1, "2": 1}, 1)
    assert one.shape_sizes == {"bbox_2d": {"4-8": 3}}
    assert one.groups == {"pass": 1, "fail": 1, "unlabelled": 0}  # one failed photo fails G1
    assert (other.photos, other.photo_sizes, other.photos_without_objects) == (3, {"60x40": 3}, 2)
    assert (other.classes, other.attributes) == ({"b": 1}, {"x=1": 1})
    assert other.groups == {"pass": 0, "fail": 0, "unlabelled": 1}
    assert one.tokens is None


def test_sizes_of_shapes_are_counted_by_power_of_two(check):
    objects = [
        {"bbox_2d": [0, 0, 1, 0.5], "desc": "x"},  # root of the area .7 px
        {"bbox_2d": [1, 1, 33, 9], "desc": "x"},  # 16 px
        {"quad": [2, 2, 17, 2, 17, 17, 2, 17], "desc": "x"},  # 15 px
        {"line": [3, 3, 50, 4], "desc": "x"},  # 47 px wide
    ]
    sizes = check({"images": ["a.png"], "objects": objects}).sources["train/train"].shape_sizes
    assert sizes == {"bbox_2d": {"0-2": 1, "16-32": 1}, "quad": {"8-16": 1}, "line": {"32-64": 1}}


def test_at_most_twenty_descs_are_listed_and_all_are_counted(check):
    one = check(row("G", "pass", *(f"d{n % 30}" for n in range(45)))).sources["train/train"]
    assert len(one.descs) == TOP == 20 and one.distinct_descs == 30
    assert set(list(one.descs)[:15]) == {f"d{n}" for n in range(15)}  # those that occur twice come first


def test_a_report_is_written_as_json(check, tmp_path):
    report = check({"images": ["a.png"], "objects": []}, "{}")
    save_report(report, tmp_path / "run" / REPORT)
    saved = json.loads((tmp_path / "run" / REPORT).read_text(encoding="utf-8"))
    assert saved["counts"] == {"error": 1, "warning": 0, "note": 1, "repair": 0}
    assert saved["codes"]["schema"] == {
        "severity": "error",
        "count": 1,
        "meaning": "a field breaks the record contract",
    }
    (error,) = (finding for finding in saved["findings"] if finding["severity"] == "error")
    assert (error["source"], error["line"], error["field"]) == ("train/train", 2, "images")
    assert saved["sources"]["train/train"]["records"] == 1


def printed(report):
    console = Console(record=True, width=160)
    for table in report_tables(report):
        console.print(table)
    return console.export_text()


def test_descs_and_names_that_look_like_markup_are_printed_as_they_are(check, write):
    data = check.data_of(train={"[bold]": write(row("G", "pass", "[red]"))}, val=None)
    text = printed(check_data(data, check.survey_of()))
    assert "[red]" in text and "train/[bold]" in text


def test_the_tables_name_every_code_with_its_meaning(check):
    text = printed(check({"images": ["a.png"], "objects": []}, "{}"))
    assert re.search(r"error\s+schema\s+1\s+a field breaks the record contract", text)
    assert re.search(r"note\s+no-objects\s+1", text)


class Page(HTMLParser):
    """Tags, links and text of a page; complains about a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text, self.tags = [], [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def page(tmp_path):
    def read(report):
        write_page(report, tmp_path / PAGE)
        return Page((tmp_path / PAGE).read_text(encoding="utf-8"))

    return read


def test_the_page_needs_nothing_else_and_user_text_is_no_markup(check, page):
    hostile = "<script>alert(1)</script> & [x] '\""
    shown = page(check(row("G", "pass", hostile, f"{hostile} "), "{"))
    assert "script" not in shown.tags and hostile in shown.text and "<script>" in shown.text
    assert all(link.startswith("data:image/jpeg;base64,") for link in shown.links)


def test_the_page_shows_each_kind_of_fault_on_its_photo_a_few_times(check, page):
    photo = {"images": ["a.png"], "width": 60, "height": 40}
    crossed = {**photo, "objects": [{"quad": [5, 5, 30, 30, 30, 5, 5, 30], "desc": "label"}]}
    inverted = {**photo, "objects": [{"bbox_2d": [30, 30, 10, 10], "desc": "plate"}]}
    report = check(*[crossed] * 9, *[inverted] * 9)
    counts = {code: sum(finding.code == code for finding, _ in report.exhibits) for code in report.codes}
    assert counts == {"quad-crossed": 2, "box-inverted": 2} and 2 <= PICTURES_OF_CODE <= PICTURES
    shown = page(report)
    assert len(shown.links) == 4 and "box-inverted" in shown.text
    assert [record.annotations[0].shape.kind for _, record in report.exhibits] == ["quad"] * 2 + ["bbox_2d"] * 2


def test_a_photo_that_cannot_be_read_leaves_its_picture_out(check, page, folder):
    (folder / "gone.png").write_bytes((folder / "a.png").read_bytes())
    report = check({"images": ["gone.png"], "objects": [{"bbox_2d": [30, 30, 10, 10], "desc": "plate"}]})
    (folder / "gone.png").unlink()
    assert page(report).links == []


def test_pictures_show_the_object_a_finding_is_about_and_no_other(check, folder):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "a.png")
    good, cut = {"bbox_2d": [5, 5, 9, 9], "desc": "a"}, {"bbox_2d": [50, 5, 90, 9], "desc": "b"}
    ((finding, record),) = check({"images": ["a.png"], "objects": [good, cut]}).exhibits
    assert finding.code == "shape-cut" and [note.desc for note in record.annotations] == ["b"]
    again = {**good, "desc": "b"}
    ((_, record),) = check({"images": ["a.png"], "objects": [good, again, again]}).exhibits
    assert [note.desc for note in record.annotations] == ["b", "b"]


def test_bars_are_as_long_as_their_counts_and_those_over_a_limit_stand_out():
    drawn = bars("lengths", {"0-9": 10, "10-19": 5, "20-29": 0}, over=["20-29"])
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn)]
    assert widths[1] == widths[0] / 2 > 0 == widths[2] and drawn.count('class="over"') == 1
    assert bars("none", {}) == "" and "and 6 more" in bars("many", {str(n): 1 for n in range(MAX_BARS + 6)})
