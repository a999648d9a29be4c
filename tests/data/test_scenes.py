"""The scenes that qcvl draws for itself: pure, on a lattice, apart from one another, and written as valid records."""

import json
import threading
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon

from qcvl.data.scenes.demo import write_demo
from qcvl.data.scenes.draw import draw_scene
from qcvl.data.scenes.layout import Part
from qcvl.data.scenes.paint import CABLE_WIDTH, paint_part
from qcvl.data.scenes.words import DOMAINS, LANGUAGES, PARTS, describe
from qcvl.errors import DataError
from qcvl.geometry.grid import to_grid
from qcvl.geometry.norm import canonical
from qcvl.geometry.shapes import Shape
from qcvl.schema.records import read_records

scenes = st.builds(draw_scene, st.integers(0, 2**32), st.integers(0, 10**6), st.sampled_from(DOMAINS))
few = settings(max_examples=40, deadline=None)


def outline(shape: Shape):
    """The shape as shapely sees it; a cable is as thick as it is drawn."""
    if shape.kind == "line":
        return LineString(shape.points).buffer(CABLE_WIDTH / 2)
    return Polygon(shape.outline)


def test_a_scene_depends_on_nothing_but_its_arguments():
    first = draw_scene(3, 5, "demo")
    draw_scene(3, 6, "base")
    again = draw_scene(3, 5, "demo")
    assert np.array_equal(first.image, again.image)
    assert first[1:] == again[1:]


@pytest.mark.parametrize("other", [(4, 5, "demo"), (3, 6, "demo"), (3, 5, "base")])
def test_another_seed_index_or_domain_is_another_scene(other):
    assert draw_scene(*other).annotations != draw_scene(3, 5, "demo").annotations


def test_the_language_changes_texts_and_no_pixel():
    chinese, english = (draw_scene(1, 2, "base", language) for language in LANGUAGES)
    assert np.array_equal(chinese.image, english.image)
    assert [a.shape for a in chinese.annotations] == [a.shape for a in english.annotations]
    assert all(not a.desc.isascii() for a in chinese.annotations)
    assert all(a.desc.isascii() for a in english.annotations)


@few
@given(scenes)
def test_a_scene_is_a_200_px_photo_of_one_to_four_parts(scene):
    assert scene.image.shape == (200, 200, 3) and scene.image.dtype == np.uint8
    assert 1 <= len(scene.annotations) <= 4


@few
@given(scenes)
def test_every_coordinate_lies_on_the_lattice_so_norm1000_numbers_end_in_zero(scene):
    for annotation in scene.annotations:
        points = annotation.shape.points
        assert points.min() >= 0 and points.max() <= 200
        assert not np.mod(points, 2).any()
        assert not np.mod(to_grid(points, (200, 200), "norm1000"), 10).any()


@few
@given(scenes)
def test_shapes_are_canonical_and_large_enough_to_be_seen(scene):
    for annotation in scene.annotations:
        shape = annotation.shape
        assert canonical(shape) == shape
        lengths = np.linalg.norm(np.diff(shape.points, axis=0), axis=1)
        if shape.kind == "line":
            assert len(shape.points) in (3, 4) and lengths.sum() >= 0.4 * 200
        elif shape.kind == "quad":
            assert lengths.min() >= 0.17 * 200 and lengths.max() <= 0.46 * 200  # .18 to .45 before rounding
        else:
            assert np.ptp(shape.points, axis=0).min() >= 0.16 * 200


@few
@given(scenes)
def test_no_part_touches_another(scene):
    for one, other in combinations([outline(a.shape) for a in scene.annotations], 2):
        assert one.distance(other) > 0


@few
@given(scenes)
def test_labels_are_tilted_by_at_most_35_degrees(scene):
    for annotation in scene.annotations:
        if annotation.shape.kind == "quad":
            edges = np.diff(np.vstack([annotation.shape.points, annotation.shape.points[:1]]), axis=0)
            longest = edges[np.linalg.norm(edges, axis=1).argmax()]
            tilt = abs((np.degrees(np.arctan2(longest[1], longest[0])) + 90) % 180 - 90)
            assert 5 <= tilt <= 38  # rounding a vertex to the lattice turns a short label by up to 3 degrees


def test_all_eleven_kinds_appear_and_the_two_domains_share_no_description():
    for language in LANGUAGES:
        wordings = {domain: {describe(*part, domain, language) for part in PARTS} for domain in DOMAINS}
        assert not wordings["base"] & wordings["demo"]
        for domain, expected in wordings.items():
            drawn = {a.desc for index in range(120) for a in draw_scene(0, index, domain, language).annotations}
            assert drawn == expected and len(expected) == 11


def test_the_summary_counts_the_parts_in_a_fixed_order():
    nouns = ["plate", "label", "cable", "screw", "defect"]
    for index in range(40):
        scene = draw_scene(9, index, "demo", "en")
        counts = Counter(annotation.desc.split(",")[0] for annotation in scene.annotations)
        assert scene.summary == ", ".join(f"{noun} x{counts[noun]}" for noun in nouns if counts[noun])


def test_a_group_fails_exactly_when_one_of_its_four_photos_shows_a_defect():
    labels = []
    for group in range(60):
        photos = [draw_scene(2, 4 * group + k, "demo", "en") for k in range(4)]
        defective = any(a.desc.startswith("defect") for photo in photos for a in photo.annotations)
        assert {photo.label for photo in photos} == {"fail" if defective else "pass"}
        labels.append(photos[0].label)
    assert 15 <= labels.count("fail") <= 45


@pytest.mark.parametrize(
    ("noun", "attribute", "shape"),
    [
        ("plate", "red", Shape("bbox_2d", [[20, 30], [60, 50]])),
        ("screw", "steel", Shape("bbox_2d", [[20, 30], [40, 50]])),
        ("defect", "scratch", Shape("bbox_2d", [[20, 30], [50, 54]])),
        ("defect", "burn", Shape("bbox_2d", [[20, 30], [50, 54]])),
        ("label", "white", Shape("quad", [[30, 20], [64, 36], [54, 56], [20, 40]])),
        ("cable", "blue", Shape("line", [[10, 20], [40, 30], [50, 60]])),
    ],
)
def test_a_part_fills_its_shape_to_within_two_pixels_and_paints_nothing_outside(noun, attribute, shape):
    image = np.full((200, 200, 3), 120, np.uint8)
    paint_part(image, Part(noun, attribute, shape), np.random.default_rng(0))
    rows, columns = np.nonzero((np.abs(image.astype(int) - 120) > 24).any(axis=2))
    drawn = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    expected = outline(Shape(shape.kind, shape.points * 2)).bounds
    assert np.abs(np.subtract(drawn, expected)).max() <= 2


def test_the_demo_set_is_read_back_as_valid_records_with_whole_groups(tmp_path: Path):
    folder = write_demo(tmp_path / "demo", seed=5, train=40, val=8)
    records = {file.name: read_records(file) for file in sorted(folder.glob("*.jsonl"))}
    counts = {name: len(rows) for name, rows in records.items()}
    assert counts == {"train_en.jsonl": 12, "train_zh.jsonl": 28, "val_en.jsonl": 4, "val_zh.jsonl": 4}
    groups: dict[str, list] = {}
    for name, rows in records.items():
        for record in rows:
            assert record.metadata["language"] == name[-8:-6]
            groups.setdefault(record.metadata["group"], []).append((name, record))
    assert len(groups) == 12 and all(len(members) == 4 for members in groups.values())
    for members in groups.values():
        assert len({name for name, _ in members}) == 1
        assert len({record.metadata["label"] for _, record in members}) == 1


def test_a_demo_photo_is_the_drawn_scene_up_to_jpeg_and_its_record_says_what_was_drawn(tmp_path: Path):
    folder = write_demo(tmp_path / "demo", seed=5, train=8, val=8)
    record = read_records(folder / "train_en.jsonl")[1]
    scene = draw_scene(5, 5, "demo", "en")  # one Chinese group of four comes before
    assert record.annotations == tuple(scene.annotations)
    assert (record.summary, record.metadata["label"]) == (scene.summary, scene.label)
    photo = cv2.imread(str(record.image_path()))[..., ::-1]
    assert np.abs(photo.astype(float) - scene.image).mean() < 4


def test_a_finished_demo_folder_is_left_alone_and_another_seed_replaces_it(tmp_path: Path):
    folder = write_demo(tmp_path / "demo", seed=1, train=8, val=8)
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_demo(folder, seed=1, train=8, val=8)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    before = (folder / "train_zh.jsonl").read_text(encoding="utf-8")
    write_demo(folder, seed=2, train=8, val=8)
    assert (folder / "train_zh.jsonl").read_text(encoding="utf-8") != before
    assert sorted(path.name for path in tmp_path.iterdir()) in (["demo"], [".demo.lock", "demo"])


def test_a_half_drawn_folder_never_appears(tmp_path: Path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("qcvl.data.scenes.demo.draw_scene", fail)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "demo", train=8, val=8)
    assert not (tmp_path / "demo").exists()
    monkeypatch.undo()
    assert (write_demo(tmp_path / "demo", train=8, val=8) / "done").is_file()


def test_callers_at_the_same_time_draw_the_set_once(tmp_path: Path, monkeypatch):
    drawn = []

    def count(*arguments):
        drawn.append(arguments)
        return draw_scene(*arguments)

    monkeypatch.setattr("qcvl.data.scenes.demo.draw_scene", count)
    threads = [threading.Thread(target=write_demo, args=(tmp_path / "demo", 0, 8, 8)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == 16


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="no demo data"):
        write_demo(tmp_path, train=8, val=8)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("count", [0, 4, 10])
def test_a_count_that_does_not_make_whole_groups_in_both_languages_is_refused(tmp_path: Path, count):
    with pytest.raises(DataError, match=f"train is {count}"):
        write_demo(tmp_path / "demo", train=count, val=8)


def test_the_marker_names_the_recipe(tmp_path: Path):
    folder = write_demo(tmp_path / "demo", seed=3, train=8, val=8)
    marker = json.loads((folder / "done").read_text(encoding="utf-8"))
    assert {key: marker[key] for key in ("seed", "train", "val")} == {"seed": 3, "train": 8, "val": 8}
    assert marker["version"] >= 1
