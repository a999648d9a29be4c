"""The baseline of benchmarks/deeppcb: its parts, and the whole script as a process on a few real pairs."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from qcvl.geometry.shapes import Shape
from qcvl.schema.types import Annotation


@pytest.fixture
def parts(readme, monkeypatch):
    """The modules of the script, which import each other by name."""
    monkeypatch.syspath_prepend(readme.checkout / "benchmarks" / "deeppcb")
    import candidates
    import network
    import scoring

    return {"candidates": candidates, "network": network, "scoring": scoring}


def box(x1, y1, x2, y2, desc="open"):
    return Annotation(Shape("bbox_2d", [x1, y1, x2, y2]), desc)


def test_a_candidate_lies_in_each_blob_and_in_each_part_of_a_long_one_but_not_on_thin_edges(parts):
    pixels = np.zeros((160, 200, 2), np.uint8)
    pixels[20:30, 40:50, 0] = 255  # 10x10 around (45, 25)
    pixels[100:108, 10:74, 1] = 255  # 64 long: two parts, around (26, 104) and (58, 104)
    pixels[:, 150:152] = (255, 0)  # an edge that is two pixels off
    assert sorted(parts["candidates"].places(pixels).tolist()) == [[26, 104], [45, 25], [58, 104]]


def test_a_window_lies_around_its_candidate_and_is_grey_beyond_the_photo(parts):
    pixels = np.zeros((64, 64, 2), np.uint8)
    pixels[5, 3] = (200, 100)
    window = parts["candidates"].windows(pixels, np.array([[3, 5]]), side=16)
    assert window.shape == (1, 2, 16, 16) and window[0, :, 8, 8].tolist() == [200, 100]
    assert (window[0, :, :3] == 127).all() and (window[0, :, 3:, 5:].sum(axis=(1, 2)) == [200, 100]).all()


def test_a_candidate_is_the_defect_whose_box_holds_it_and_background_elsewhere(parts):
    defects = [box(10, 10, 50, 40), box(30, 10, 60, 40, "spur")]
    labels, boxes = parts["candidates"].targets(np.array([[40, 30], [5, 5]]), defects, ("spur", "open"))
    assert labels.tolist() == [0, 2]  # (45, 25), the middle of the spur, is nearer to it than (30, 25)
    assert boxes.tolist() == [[-10, -20, 20, 10], [0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(12))
def test_boxes_move_with_the_windows_they_are_drawn_in(parts, seed):
    network = parts["network"]
    side = network.SIDE + 2 * network.SHIFT
    drawn = np.zeros((1, 2, side, side), np.uint8)
    drawn[:, :, side // 2 - 7 : side // 2 + 15, side // 2 - 20 : side // 2 + 4] = 1
    boxes = torch.tensor([[-20.0, -7.0, 4.0, 15.0]])
    windows, moved = network._augment(torch.from_numpy(drawn), boxes, np.random.default_rng(seed))
    x, y, width, height = cv2.boundingRect(windows[0, 0].numpy())
    middle = network.SIDE / 2
    assert moved[0].tolist() == [x - middle, y - middle, x + width - middle, y + height - middle]


def test_the_confidence_is_the_one_with_the_best_f1(parts):
    scoring = parts["scoring"]
    photo = scoring.Judged([box(0, 0, 10, 10)], [box(0, 0, 10, 10), box(20, 0, 30, 10)], [0.7, 0.31], (64, 64))
    assert scoring.best_confidence([photo]) == 0.32
    assert scoring.f1([photo], 0.3) == pytest.approx(2 / 3) and scoring.f1([photo], 0.32) == 1


@pytest.mark.slow
def test_the_script_ends_with_scores_and_costs_as_json_and_repeats_them_for_the_same_seed(
    readme, shared_data, tmp_path
):
    source, copy = shared_data("deeppcb") / "PCBData", tmp_path / "deeppcb" / "PCBData"
    copy.mkdir(parents=True)
    for board in source.glob("group*"):
        (copy / board.name).symlink_to(board)
    for listing, count in (("trainval.txt", 12), ("test.txt", 3)):
        lines = (source / listing).read_text().splitlines()[:count]
        (copy / listing).write_text("\n".join(lines))
    script = readme.checkout / "benchmarks" / "deeppcb" / "difference_cnn.py"
    command = [sys.executable, script, "--root", copy.parent, "--seeds", "3", "3", "--epochs", "1"]
    command += ["--out", tmp_path / "results.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, cwd=readme.checkout)
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["name"] == "deeppcb_difference_cnn" and row["pairs"] == 11 and row["test_pairs"] == 3
    assert row["core_minutes"] > 0 and row["ms_per_photo"] > 0 and 1e5 < row["parameters"] < 3e5
    assert all(
        0 <= row[f"{score}@{overlap}"] <= 1 for score in ("f1", "p", "r", "map") for overlap in (0.33, 0.5, 0.75)
    )
    first, second = json.loads((tmp_path / "results.json").read_text())["runs"]
    same = set(first) - {"core_minutes", "ms_per_photo"}
    assert {key: first[key] for key in same} == {key: second[key] for key in same}
