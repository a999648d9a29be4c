"""A whole data set checked: every finding has its line, field, code and severity, however the work is shared out."""

import json

import numpy as np
import pytest
from PIL import Image

from qcvl.data.sources import JsonlSource, SceneSource
from qcvl.doctor.findings import CODES
from qcvl.doctor.ledger import KEPT
from qcvl.doctor.survey import check_data, quick
from qcvl.errors import RecordError
from qcvl.schema.records import Record, read_records

BOX = {"bbox_2d": [10, 10, 30, 20], "desc": "plate"}
PHOTO = {"images": ["a.png"], "width": 60, "height": 40}


def boxes(*corners, desc="plate"):
    return [{"bbox_2d": list(box), "desc": desc} for box in corners]


@pytest.mark.parametrize("decode", [False, True])
def test_a_valid_file_has_no_findings(check, decode):
    report = check({**PHOTO, "objects": [BOX]}, {**PHOTO, "objects": [BOX], "summary": "plate x1"}, decode=decode)
    assert report.findings == () and report.codes == {}


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ({**PHOTO, "objects": [{"line": [1, 2, 3], "desc": "x"}]}, "schema", "objects[0].line"),
        ({**PHOTO, "objects": boxes((30, 10, 10, 20))}, "box-inverted", "objects[0].bbox_2d"),
        ({**PHOTO, "objects": boxes((10, 10, 10, 20))}, "box-flat", "objects[0].bbox_2d"),
        ({**PHOTO, "objects": [{"line": [5, 5, 5, 5], "desc": "x"}]}, "shape-flat", "objects[0].line"),
        ({**PHOTO, "objects": [{"line": [5, 5, 9, 9], "line_points": 3, "desc": "x"}]}, "point-count", None),
        ({**PHOTO, "objects": boxes((70, 10, 80, 20))}, "shape-outside", "objects[0].bbox_2d"),
        ({"images": ["a.png"], "objects": boxes((70, 10, 80, 20))}, "shape-outside", "objects[0].bbox_2d"),
        ({**PHOTO, "objects": boxes((10, 10, 30, 20), desc="")}, "desc-empty", "objects[0].desc"),
        ({**PHOTO, "objects": [BOX], "summary": " "}, "summary-empty", "summary"),
        ({**PHOTO}, "objects-missing", "objects"),
        ({**PHOTO, "images": ["b.png"], "objects": [BOX]}, "image-missing", "images[0]"),
        ({**PHOTO, "images": ["x\0.png"], "objects": [BOX]}, "image-missing", "images[0]"),
        ({**PHOTO, "images": ["http://x/a.png"], "objects": [BOX]}, "image-url", "images[0]"),
        ({**PHOTO, "images": ["train.jsonl"], "objects": [BOX]}, "image-damaged", "images[0]"),
        ({**PHOTO, "width": 61, "objects": [BOX]}, "image-size", "width, height"),
        ({**PHOTO, "objects": [BOX], "metadata": {"group": "G", "label": "maybe"}}, "group", "metadata.label"),
        ({**PHOTO, "objects": boxes((50, 10, 70, 20))}, "shape-cut", "objects[0].bbox_2d"),
        ({**PHOTO, "objects": boxes((10, 10, 10.001, 20))}, "shape-degenerate", "objects[0].bbox_2d"),
        ({**PHOTO, "objects": [{"quad": [0, 0, 9, 9, 9, 0, 0, 9], "desc": "x"}]}, "quad-crossed", "objects[0].quad"),
        ({**PHOTO, "objects": [{"quad": [0, 0, 9, 0, 2, 2, 0, 9], "desc": "x"}]}, "quad-dented", "objects[0].quad"),
        ({**PHOTO, "objects": [{"poly": [0, 0, 9, 9, 9, 0, 0, 9], "desc": "x"}]}, "poly-crossed", "objects[0].poly"),
        ({**PHOTO, "objects": [BOX, BOX]}, "object-duplicate", "objects[1].bbox_2d"),
        ({**PHOTO, "objects": boxes((10, 10, 30, 20), desc="plate ")}, "desc-blanks", "objects[0].desc"),
        ({**PHOTO, "objects": boxes((10, 10, 30, 20), desc="pl\u200bate")}, "desc-control", "objects[0].desc"),
        ({**PHOTO, "objects": boxes((10, 10, 30, 20), desc="Ａ1 plate")}, "desc-width", "objects[0].desc"),
        ({**PHOTO, "objects": boxes((10, 10, 30, 20), desc="<|im_end|>")}, "desc-special", "objects[0].desc"),
        ({**PHOTO, "objects": [BOX], "summary": "plate x2"}, "summary-contradicts", "summary"),
        ({**PHOTO, "objects": boxes((10, 20, 30, 30), (10, 10, 30, 20))}, "order", "objects[1].bbox_2d"),
        ({**PHOTO, "objects": []}, "no-objects", "objects"),
    ],
)
def test_each_fault_has_its_code_field_and_severity(check, row, code, field):
    good = {**PHOTO, "objects": [BOX]}
    (finding,) = check(good, row, good).findings
    assert (finding.code, finding.line, finding.severity) == (code, 2, CODES[code][0])
    assert finding.field == (field or "objects[0].line_points")
    assert f"train.jsonl:2: {finding.field} {finding.message}" in str(finding)


def test_every_problem_of_every_line_is_named_in_the_order_of_the_file(check, folder):
    report = check(
        {**PHOTO, "images": ["b.png"], "objects": [BOX]},
        {**PHOTO, "objects": [{"line": [1, 2, 3], "desc": "x"}, {"circle": [1, 2, 3], "desc": "x"}]},
        {**PHOTO},
        "{broken",
        {"images": ["gone/a.png"], "objects": [BOX]},
    )
    texts = [str(finding).replace(f"{folder}/", "") for finding in report.findings]
    assert [text.partition(" ")[0] for text in texts] == [f"train.jsonl:{n}:" for n in (1, 2, 2, 3, 4, 5)]
    assert texts[0].startswith("train.jsonl:1: images[0] (b.png) not found: its folder exists, the file does not")
    assert texts[1] == "train.jsonl:2: objects[0].line has 3 numbers; a polyline needs x, y pairs"
    assert texts[2].startswith("train.jsonl:2: objects[1].circle is not a known key")
    assert texts[3].startswith("train.jsonl:3: objects is missing, but source train/train samples dense")
    assert "(gone/a.png) not found: its folder does not exist" in texts[5]


def test_all_findings_are_counted_and_written_and_the_first_of_each_code_kept(check, folder):
    told = []
    train = {"train": JsonlSource(path=str(folder / "t.jsonl"), repeat=1, task=None, prompts=None)}
    (folder / "t.jsonl").write_text("[]\n" * 2000)
    report = check_data(check.data_of(train=train, val=None), check.survey_of(folder=folder / "run"), tell=told.append)
    assert report.codes["schema"]["count"] == report.count("error") == 2000
    assert [finding.line for finding in report.findings] == list(range(1, KEPT + 1)) and told == list(report.findings)
    written = [json.loads(line) for line in (folder / "run/findings.jsonl").read_text().splitlines()]
    assert [row["line"] for row in written] == list(range(1, 2001)) and {row["code"] for row in written} == {"schema"}
    assert report.error_text().endswith(f"and {2000 - KEPT:,} more errors; python -m qcvl.check lists all of them")


def test_processes_find_the_same_in_the_same_order_as_one_does(check, folder):
    rows = [
        {
            **PHOTO,
            "objects": boxes((10, 10 + n % 20, 90 if n % 7 == 0 else 30, 35)),
            "images": ["a.png", "b.png"][: n % 2 + 1],
        }
        for n in range(1600)
    ]
    for row in rows:
        if len(row["images"]) == 2:
            row["images"] = ["a.png", "a.png"]
    reports = [check(*rows, "{", workers=workers, group_by="path:(.)") for workers in (1, 2)]
    one, two = (report.to_json() for report in reports)
    assert one == two and one["counts"]["error"] == 1 and one["sources"]["train/train"]["records"] == 1600
    assert one["codes"]["shape-cut"]["count"] == sum(n % 7 == 0 for n in range(1600))


def test_a_source_of_another_kind_is_read_record_by_record_and_goes_on_after_a_bad_one(check, folder):
    good = Record.from_json(json.dumps({**PHOTO, "objects": [BOX]}), folder / "x.xml", 3)

    class Opened:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise RecordError("has no polygon", path="x.xml", line=7, field="object[1]")
            return good

    report = check_data(check.data_of(train={"xml": Other(Opened())}, val=None), check.survey_of())
    assert report.sources["train/xml"].records == 2
    assert [str(finding) for finding in report.findings] == ["x.xml:7: object[1] has no polygon"]

    def generated():
        yield good
        raise RecordError("ends early", path="x.xml")

    report = check_data(check.data_of(train={"xml": Other(generated())}, val=None), check.survey_of())
    assert report.sources["train/xml"].records == 1 and report.count("error") == 1


class Other:
    """A source that is no JSONL file."""

    repeat, task, prompts, complete = 1, None, None, False

    def __init__(self, opened):
        self.opened = opened

    def open(self):
        return self.opened


def test_records_made_in_python_are_checked_too(check):
    pixels = np.zeros((40, 60, 3), np.uint8)
    records = [Record(images=(pixels,), sizes=((60, 41),)), Record(images=(pixels,), annotations=())]
    report = check_data(check.data_of(train={"made": Other(records)}, val=None), check.survey_of(decode=True))
    assert [finding.code for finding in report.findings] == ["image-size", "no-objects", "no-objects"]
    assert str(report.findings[0]).startswith("the record of an image in memory: width, height say 60x41")


@pytest.mark.parametrize(
    ("sampling", "missing"),
    [("dense", {"objects"}), ("summary", {"summary"}), ("mixed", {"objects", "summary"})],
)
def test_a_record_must_have_what_its_samples_are_made_of(check, sampling, missing):
    report = check(PHOTO, {**PHOTO, "objects": [BOX], "summary": "nothing"}, sampling=sampling)
    assert {(finding.line, finding.code) for finding in report.findings} == {(1, f"{part}-missing") for part in missing}


def test_a_sources_own_task_wins_over_the_sampling(check, write):
    summarized = write({**PHOTO, "summary": "one plate"}, task="summary")
    assert check_data(check.data_of(train={"s": summarized}, val=None), check.survey_of()).findings == ()


def test_a_cut_file_is_found_by_decoding_alone(check, folder):
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    row = {"images": ["cut.png"], "objects": [BOX]}
    assert check(row).findings == ()
    (finding,) = check(row, decode=True).findings
    assert finding.code == "image-damaged" and "cut.png) is damaged" in finding.message


def test_a_size_before_exif_orientation_is_named_as_that(check, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "turned.jpg", exif=exif)
    turned = {"images": ["turned.jpg"], "objects": []}
    report = check(*({**turned, "width": w, "height": h} for w, h in ((40, 60), (60, 40), (61, 40))))
    assert [(f.line, f.code) for f in report.findings if f.severity == "error"] == [
        (2, "image-turned"),
        (3, "image-size"),
    ]
    assert "before its EXIF orientation turns it to 40x60" in report.findings[1].message


def test_a_missing_and_an_empty_file_are_one_error_each(check, write, folder):
    gone = JsonlSource(path=str(folder / "tran.jsonl"), repeat=1, task=None, prompts=None)
    write({**PHOTO, "objects": [BOX]})
    report = check_data(check.data_of(train={"a": gone, "b": write(name="empty.jsonl")}, val=None), check.survey_of())
    assert [str(finding).partition(": ")[2] for finding in report.findings] == [
        "the file does not exist; did you mean train.jsonl?",
        "the file is empty; expected one JSON object a line",
    ]


def test_blank_lines_count_in_the_middle_of_a_file_and_not_at_its_end(check, folder):
    good = json.dumps({**PHOTO, "objects": [BOX]})
    report = check(good, "", "  ", good, "", "")
    assert [(finding.line, finding.message) for finding in report.findings] == [
        (line, "the line is blank; expected one JSON object a line") for line in (2, 3)
    ]
    assert report.sources["train/train"].records == len(read_records_of(good, folder)) * 2


def read_records_of(line, folder):
    (folder / "one.jsonl").write_text(line + "\n\n", encoding="utf-8-sig")
    return read_records(folder / "one.jsonl")


def test_scenes_drawn_on_demand_are_counted_and_not_drawn(check):
    scenes = SceneSource(count=10**9, seed=1, domain="base", language="en", repeat=1, task=None, prompts=None)
    report = check_data(check.data_of(train={"en": scenes}, val=None), check.survey_of())
    assert report.sources["train/en"].records == 10**9 and report.findings == ()


def test_what_training_does_first_reads_no_pixels_and_looks_at_headers(check, write, folder):
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:-30])
    train = write({"images": ["cut.png"], "objects": [BOX]}, {**PHOTO, "width": 61, "objects": [BOX]})
    data = check.data_of(train={"train": train}, val=None, num_workers=0)
    report = check_data(data, quick(data))
    assert [finding.code for finding in report.findings] == ["image-size"] and report.exhibits == ()
    assert quick(check.data_of(num_workers=3)).workers == 3


TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(("bad", "named"), [(7, True), (520, False), (620, True)])
def test_of_a_stream_what_training_does_first_looks_at_the_first_block(check, write, bad, named):
    rows = [{**PHOTO, "objects": [BOX]}] * 700
    rows[bad] = {**PHOTO, "objects": boxes((30, 10, 10, 20))}
    source = write(*rows)
    buffer = 3 if bad < 600 else 650  # at least 500 records are looked at
    data = check.data_of(train={"s": source}, val=None, shuffle_buffer=buffer)
    report = check_data(data, quick(data))
    found = [(finding.code, str(finding.path), finding.line) for finding in report.findings]
    assert found == ([("box-inverted", source.path, bad + 1)] if named else [])
    assert report.sources["train/s"].records == (max(buffer, 500) - named)


@pytest.mark.parametrize("sampling", ["dense", "mixed", "chat"])
def test_a_file_of_conversations_needs_neither_objects_nor_summaries(check, sampling):
    report = check({"messages": TALK}, {"images": ["a.png"], "messages": TALK}, sampling=sampling, decode=True)
    assert report.findings == ()


def test_what_a_source_of_conversations_lacks_is_named(write, check):
    rows = ({"messages": TALK}, {**PHOTO, "objects": [BOX]}, {"messages": TALK[:1]})
    report = check_data(check.data_of(train={"talk": write(*rows, task="chat")}, val=None), check.survey_of())
    assert [(finding.line, finding.code, finding.field) for finding in report.findings] == [
        (2, "messages-missing", "messages"),
        (3, "schema", "messages[0].role"),
    ]
    (lost,) = check({"images": ["gone.png"], "messages": TALK}).findings
    assert lost.code == "image-missing"


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<bbox>", "<|box_start|>", "<|im_end|>"])
def test_a_tag_of_another_tool_in_a_text_is_a_warning(check, tag):
    asked = {"role": "user", "content": f"{tag}What is <b>this</b>?"}
    (finding,) = check({"images": ["a.png"], "messages": [asked, TALK[1]]}, {"messages": TALK}).findings
    assert (finding.code, finding.field, finding.severity) == ("message-tag", "messages[0].content", "warning")
    assert finding.message.startswith(f"holds {tag}, which is plain text here")
