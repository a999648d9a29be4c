import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qcvl.data.settings import JsonlSource, SceneSource
from qcvl.doctor.checks import check_source, is_convex, shared_photos
from qcvl.geometry import canonical_polygon, rotation_matrix
from qcvl.geometry.affine import apply_affine

BOX = {"bbox_2d": [10, 10, 30, 20], "desc": "plate"}
PHOTO = {"images": ["a.png"], "width": 60, "height": 40}


@pytest.fixture
def folder(tmp_path):
    """A folder with the photo ``a.png``, 60 px wide and 40 high."""
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return tmp_path


def source(folder, *rows, name="train.jsonl", task=None):
    path = folder / name
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return JsonlSource(path=str(path), repeat=1, task=task, prompts=None)


def check(folder, *rows, sampling="dense", decode=False):
    """Problems and warnings of a file with these lines, without the folder's name."""
    found = check_source("train/train", source(folder, *rows), sampling, decode=decode)
    return [[text.replace(f"{folder}/", "") for text in texts] for texts in (found.problems, found.warnings)]


@pytest.mark.parametrize("decode", [False, True])
def test_a_valid_file_has_neither_problems_nor_warnings(folder, decode):
    assert check(folder, {**PHOTO, "objects": [BOX]}, {**PHOTO, "objects": []}, decode=decode) == [[], []]


def test_every_problem_of_every_line_is_named_in_the_order_of_the_file(folder):
    problems, _ = check(
        folder,
        {**PHOTO, "images": ["b.png"], "objects": [BOX]},
        {**PHOTO, "objects": [{"line": [1, 2, 3], "desc": ""}, {"circle": [1, 2, 3], "desc": "x"}]},
        {**PHOTO},
        "{broken",
        {"images": ["gone/a.png"], "objects": [BOX]},
    )
    assert [problem.partition(" ")[0] for problem in problems] == [f"train.jsonl:{n}:" for n in (1, 2, 2, 3, 4, 5)]
    assert problems[0].startswith("train.jsonl:1: images[0] (b.png) not found: its folder exists, the file does not")
    assert problems[1] == "train.jsonl:2: objects[0].line has 3 numbers; a polyline needs x, y pairs"
    assert problems[2].startswith("train.jsonl:2: objects[1].circle is not a known key")
    assert problems[3].startswith("train.jsonl:3: objects is missing, but source train/train samples dense")
    assert "(gone/a.png) not found: its folder does not exist" in problems[5]


def test_ten_thousand_problems_are_ten_thousand_lines(folder):
    problems, _ = check(folder, *["[]"] * 10_000)
    assert len(problems) == 10_000 and problems[-1].startswith("train.jsonl:10000: ")


@pytest.mark.parametrize(
    ("sampling", "missing"),
    [("dense", {"objects"}), ("summary", {"summary"}), ("mixed", {"objects", "summary"})],
)
def test_a_record_must_have_what_its_samples_are_made_of(folder, sampling, missing):
    problems, _ = check(folder, PHOTO, {**PHOTO, "objects": [], "summary": "nothing"}, sampling=sampling)
    assert {problem.split()[1] for problem in problems} == missing
    assert all(problem.startswith("train.jsonl:1: ") for problem in problems)


def test_a_sources_own_task_wins_over_the_sampling(folder):
    summarized = source(folder, {**PHOTO, "summary": "one plate"}, task="summary")
    assert check_source("train/train", summarized, "dense").problems == ()


def test_only_decoding_finds_a_wrong_size_a_cut_file_and_a_shape_outside_a_photo_of_unknown_size(folder):
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:60])
    rows = (
        {**PHOTO, "width": 61, "objects": [BOX]},
        {"images": ["cut.png"], "objects": [BOX]},
        {"images": ["a.png"], "objects": [{"bbox_2d": [70, 10, 80, 20], "desc": "plate"}]},
    )
    assert check(folder, *rows) == [[], []]
    problems, _ = check(folder, *rows, decode=True)
    assert problems[0].startswith("train.jsonl:1: width, height say 61x40 but images[0] is 60x40")
    assert problems[1].startswith("train.jsonl:2: images[0] (cut.png) is ")
    assert problems[2].startswith("train.jsonl:3: objects[0].bbox_2d lies outside the 60 x 40 image")


def test_a_shape_partly_outside_and_a_quad_that_is_not_convex_are_warnings(folder):
    crossed = {"quad": [0, 0, 10, 10, 10, 0, 0, 10], "desc": "label"}
    partly = {"bbox_2d": [50, 10, 70, 20], "desc": "plate"}
    problems, warnings = check(folder, {**PHOTO, "objects": [BOX, crossed, partly]})
    assert problems == []
    assert warnings[0].startswith("train.jsonl:1: objects[1].quad is not convex")
    assert warnings[1].startswith("train.jsonl:1: objects[2].bbox_2d reaches outside the 60 x 40 image")
    assert len(warnings) == 2


def test_a_label_nobody_can_read_is_a_problem(folder):
    problems, _ = check(folder, {**PHOTO, "objects": [], "metadata": {"group": "G1", "label": "maybe"}})
    assert problems == ["train.jsonl:1: metadata.label is the string 'maybe'; expected pass, fail, 通过 or 不通过"]


def test_a_missing_and_an_empty_file_are_one_problem_each(folder):
    gone = check_source(
        "val/val", JsonlSource(path=str(folder / "val.jsonl"), repeat=1, task=None, prompts=None), "dense"
    )
    assert len(gone.problems) == 1 and "the file does not exist" in gone.problems[0]
    empty = check_source("val/val", source(folder), "dense")
    assert len(empty.problems) == 1 and "the file is empty" in empty.problems[0]


def test_a_url_is_refused_and_a_data_url_is_not_looked_for(folder):
    problems, _ = check(
        folder, {"images": ["http://x/a.png"], "objects": []}, {"images": ["data:image/png;base64,AA"], "objects": []}
    )
    assert len(problems) == 1 and "download the photos first" in problems[0]


def test_a_photo_of_both_splits_is_a_warning_also_under_another_spelling(folder):
    train = check_source("train/train", source(folder, {**PHOTO, "objects": []}), "dense")
    row = {**PHOTO, "images": [f"../{folder.name}/a.png"], "objects": []}
    val = check_source("val/val", source(folder, row, name="val.jsonl"), "dense")
    (warning,) = shared_photos(val, [train])
    assert warning.startswith(f"{folder}/val.jsonl:1: images[0] ") and f"also in {folder}/train.jsonl:1" in warning
    assert list(shared_photos(val, [])) == []


def test_scenes_drawn_on_demand_are_counted_and_not_drawn():
    scenes = SceneSource(count=10**9, seed=1, domain="base", language="en", repeat=1, task=None, prompts=None)
    found = check_source("train/en", scenes, "dense")
    assert (found.count, found.records, found.problems) == (10**9, (), ())


@given(st.floats(0, 360), st.floats(1, 50), st.floats(1, 50), st.sampled_from([1, -1]))
def test_a_rectangle_is_convex_at_any_angle_in_either_winding_and_its_bow_tie_is_not(angle, width, height, winding):
    rectangle = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=float)
    turned = apply_affine(rectangle, rotation_matrix(angle, (7, 9)))[::winding]
    assert is_convex(turned) and is_convex(canonical_polygon(turned))
    assert not is_convex(turned[[0, 2, 1, 3]])


def test_a_dart_is_not_convex_and_a_straight_corner_is():
    assert not is_convex(np.array([[0, 0], [10, 0], [2, 2], [0, 10]], dtype=float))
    assert is_convex(np.array([[0, 0], [5, 0], [10, 0], [0, 10]], dtype=float))


TALK = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize("sampling", ["dense", "mixed", "chat"])
def test_a_file_of_conversations_needs_neither_objects_nor_summaries(folder, sampling):
    rows = [{"messages": TALK}, {"images": ["a.png"], "messages": TALK}]
    assert check(folder, *rows, sampling=sampling, decode=True) == [[], []]


def test_what_a_source_of_conversations_lacks_is_named(folder):
    chat = source(folder, {"messages": TALK}, {**PHOTO, "objects": [BOX]}, {"messages": TALK[:1]}, task="chat")
    found = [text.replace(f"{folder}/", "") for text in check_source("train/talk", chat, "dense").problems]
    assert [problem.partition(";")[0] for problem in found] == [
        "train.jsonl:2: messages is missing, but source train/talk samples chat",
        'train.jsonl:3: messages[0].role is "user"',
    ]
    lost = {"images": ["gone.png"], "messages": TALK}
    assert "images[0] (gone.png) not found" in check(folder, lost)[0][0]


@pytest.mark.parametrize("tag", ["<image>", "<video>", "<bbox>", "<|box_start|>", "<|im_end|>"])
def test_a_tag_of_another_tool_in_a_text_is_a_warning(folder, tag):
    asked = {"role": "user", "content": f"{tag}What is <b>this</b>?"}
    problems, warnings = check(folder, {"images": ["a.png"], "messages": [asked, TALK[1]]}, {"messages": TALK})
    assert problems == []
    assert [warning.partition(":  ")[0].split("; ")[0] for warning in warnings] == [
        f"train.jsonl:1: messages[0].content holds {tag}, which is plain text here: an image place is the part "
        '{"type": "image"}'
    ]
